"""Recommending music for a video, a text, or both."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from viml_hf.encoders.media_encoder import MediaEncoder
from viml_hf.errors import ViMLError
from viml_hf.modeling.clip_windows import CLIP_SEGMENTS, windows
from viml_hf.modeling.encoder_names import in_the_dtype_of
from viml_hf.processing.inputs import Video, read_videos
from viml_hf.processing.media import file_name
from viml_hf.retrieval.index import Hit, MusicIndex
from viml_hf.retrieval.model_loading import is_fingerprint_of, load_encoder_and_model
from viml_hf.retrieval.query_limits import QueryLimits
from viml_hf.retrieval.where import Condition

if TYPE_CHECKING:
    from viml_hf.retrieval.milvus_index import MilvusIndex


@dataclass(frozen=True)
class Recommendation:
    """One recommended track.

    Args:
        rank: From 1.
        track: The track's name in the index.
        score: What the ranking is by: the similarity of the track's best window, corrected for hubs where the index
            has corrections.
        start: Where that window begins, in seconds.
        end: Where it ends, in seconds.
        path: Where the file was when it was indexed.
        duration: Of the track, in seconds.
        licence: Of the track, where its manifest states one.
        similarity: Cosine similarity in [-1, 1] of the query and that window.
    """

    rank: int
    track: str
    score: float
    start: float
    end: float
    path: str
    duration: float | None = None
    licence: str | None = None
    similarity: float | None = None


class Recommender:
    """A model with an index of music.

    Args:
        encoder: Encoders and heads.
        index: Made by the same model.
        limits: What a query may cost; by default any feature film is taken.

    Raises:
        ViMLError: The index was made by another model.

    Example:
        >>> recommender = Recommender.from_pretrained("viml-demo/model", index="viml-demo/index")  # doctest: +SKIP
        >>> recommender.recommend("clip.mp4", text="slow piano", k=3)  # doctest: +SKIP
    """

    def __init__(self, encoder: MediaEncoder, index: "MusicIndex | MilvusIndex", limits: QueryLimits | None = None):
        if not is_fingerprint_of(encoder, index.fingerprint):
            raise ViMLError(
                f"The index was made by another model ({index.model}); use that one, or make the index again with "
                "`viml index MUSIC -o INDEX --model …`"
            )
        self.encoder = encoder
        self.index = index
        self.limits = limits or QueryLimits()

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | None = None,
        *,
        index: "str | Path | MusicIndex | MilvusIndex",
        limits: QueryLimits | None = None,
        **kwargs: Any,
    ) -> "Recommender":
        """Load a model and an index.

        Args:
            model: Folder, Hub id, or an encoder such as `pe_av:facebook/pe-av-small`; by default the model that the
                index names. One on the Hub is then taken from the cache only: nothing is downloaded that was not named
                here.
            index: The index's folder, the address of an engine that holds it (see `MilvusIndex`), or the index itself.
            limits: See the class.
            kwargs: Passed to `from_pretrained`.

        Raises:
            ViMLError: One of them cannot be loaded, or they do not belong together.
        """
        loaded = load_index(index) if isinstance(index, str | Path) else index
        model = None if model is None else in_the_dtype_of(str(model), loaded.model)
        if model is not None or Path(loaded.model).is_dir() or os.path.isabs(loaded.model.partition(":")[2]):
            return cls(load_encoder_and_model(model or loaded.model, **kwargs), loaded, limits)
        try:
            encoder = load_encoder_and_model(loaded.model, **{"local_files_only": True, **kwargs})
        except ViMLError as error:
            raise ViMLError(f"{error}; the index names this model: to download it, name it too (--model)") from error
        return cls(encoder, loaded, limits)

    def recommend(
        self,
        video: Video | None = None,
        text: str | None = None,
        k: int = 10,
        *,
        where: str | None = None,
        approximate: bool = False,
        hubness_correction: bool = True,
    ) -> list[Recommendation]:
        """Rank the library for a query.

        Args:
            video: In any form that [`ViMLProcessor`] takes, such as a path, the bytes of a file, or frames `(frames,
                height, width, 3)` uint8 at 6 per second.
            text: A free-form description of the music; empty or `None` for none.
            k: How many tracks; each comes once, with its best window.
            where: Which tracks are ranked: a condition on what the index knows of them, such as
                `licence in ('CC0', 'CC-BY') and duration < 120`; see [`MusicIndex.search`].
            approximate: Search a large index faster, and nearly exactly, where `viml index --approximate` prepared it.
            hubness_correction: Take from each window's similarity how near it is to all queries, where the model keeps
                a query bank: so the same few tracks are not recommended for everything.

        Returns:
            The tracks, best first; equal scores in the order of the index.

        Raises:
            ViMLError: Neither video nor text is given, the model takes no such query, the text is beyond the limits,
                `k` is below 1, or `where` is no condition on columns that are there.
            MediaDecodeError: The video cannot be decoded, or is beyond the limits.
        """
        if k < 1:
            raise ViMLError(f"k={k}: give the number of tracks to recommend, 1 or more")
        condition = None if where is None else self.index.condition(where)  # refused before a video is analysed
        query, with_text = self.embed_query(video, text), bool((text or "").strip())
        options = {"hubness_correction": hubness_correction, "approximate": approximate}
        (found,) = self.rank(query[None], k, condition, with_text=[with_text], **options)
        return found

    def rank(
        self, queries: np.ndarray, k: int, where: str | Condition | None = None, **options: Any
    ) -> list[list[Recommendation]]:
        """The library ranked for queries `(queries, dim)` that are embedded already; see [`MusicIndex.search`]."""
        return [
            [self._recommendation(rank, hit) for rank, hit in enumerate(hits, start=1)]
            for hits in self.index.search(queries, k, where, **options)
        ]

    def _recommendation(self, rank: int, hit: Hit) -> Recommendation:
        track = self.index.tracks[hit.track]
        window, path = track.windows[hit.window], file_name(track.path)
        facts = (track.duration, track.licence, hit.similarity)
        return Recommendation(rank, track.name, hit.score, window.start, window.end, path, *facts)

    def embed_query(self, video: Video | None = None, text: str | None = None) -> np.ndarray:
        """The query's embedding `(dim,)` float32, L2-normalised.

        A video of more than 30 s is embedded in windows of 30 s, one after the other, and their mean is taken: so it
        may be of any length, and the model sees what it was trained on.
        """
        return embed_query(self.encoder, video, text, self.limits)


def load_index(name: str | os.PathLike) -> "MusicIndex | MilvusIndex":
    """The index in a folder, or the one that an engine holds."""
    if not str(name).startswith("milvus:"):
        return MusicIndex.load(Path(name))
    from viml_hf.retrieval.milvus_index import MilvusIndex

    return MilvusIndex(str(name))


@torch.inference_mode()
def embed_query(
    encoder: MediaEncoder, video: Video | None = None, text: str | None = None, limits: QueryLimits | None = None
) -> np.ndarray:
    """What [`Recommender.embed_query`] gives, which needs no music."""
    if video is not None:
        (video,) = read_videos([video])  # the limits know files by their path or bytes
    limits = limits or QueryLimits()
    limits.check(video, text)
    text = (text or "").strip()
    if video is None and not text:
        raise ViMLError("The query is empty: give a video, a text, or both")
    takes = encoder.model.config.viml_config.query_modalities
    for name, given in (("video", video is not None), ("text", bool(text))):
        if given and name not in takes:
            raise ViMLError(f"This model's queries are made of {' and '.join(takes)}: leave the {name} out")
    viml = encoder.model.viml
    query: dict[str, torch.Tensor] = {}
    if text:
        query["text_features"] = torch.from_numpy(encoder.encode_text(text)).float()[None].to(viml.device)
    if video is None:
        return viml.get_query_features(**query).pooler_output[0].cpu().numpy()
    rows = torch.from_numpy(encoder.encode_video(video, max_pixels=limits.decoded_pixels).rows).float().to(viml.device)
    embeds = [
        viml.get_query_features(video_features=rows[None, first:stop], **query).pooler_output[0]
        for first, stop in windows(len(rows), CLIP_SEGMENTS, hop=CLIP_SEGMENTS)
    ]
    return torch.nn.functional.normalize(torch.stack(embeds).mean(0), dim=0).cpu().numpy()
