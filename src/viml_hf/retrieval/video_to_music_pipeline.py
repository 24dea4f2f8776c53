"""`pipeline("video-to-music", model=…, music=…)`: recommending music behind the interface of transformers."""

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

from torch.utils.data import IterableDataset
from transformers import Pipeline, PreTrainedModel
from transformers.utils import logging

from viml_hf.encoders.media_encoder import MediaEncoder
from viml_hf.errors import MediaDecodeError, ViMLError
from viml_hf.modeling.configuration_viml import ViMLForMusicRetrievalConfig
from viml_hf.processing.inputs import Sample, read_sample
from viml_hf.processing.processing_viml import ViMLProcessor
from viml_hf.retrieval.index import INDEX_FILE, MusicIndex
from viml_hf.retrieval.recommender import Recommendation, Recommender, load_index
from viml_hf.retrieval.tracks import find_music, index_files

Music = str | os.PathLike | MusicIndex | Iterable[str | os.PathLike]

DEFAULT_TOP_K = 10
WISHES = ("where", "like", "avoid", "exclude", "weights", "diversity", "min_score", "approximate", "hubness_correction")


class _Stream(IterableDataset):
    """The queries of an iterator. Of a generator as such, transformers would hold the first one until the end."""

    def __init__(self, queries: Iterator[Any]):
        self.queries = queries

    def __iter__(self) -> Iterator[Any]:
        return self.queries


class VideoToMusicPipeline(Pipeline):
    """Ranks music for a video, a text, or both. Importing `viml_hf` registers it as `"video-to-music"`.

    The results are those of [`Recommender`] to the last bit. Queries are therefore computed one at a time, whatever
    `batch_size` and `num_workers` say; within a query, the frames of a segment are a batch.

    Args:
        model: A [`ViMLForMusicRetrieval`], which `pipeline` loads from a folder or Hub id; or a [`MediaEncoder`] with
            its processor, such as `MediaEncoder.from_joint("pe_av:facebook/pe-av-small")`.
        processor: Its [`ViMLProcessor`]; `pipeline` loads it from the same place.
        music: What to rank, also accepted by every call: a folder of music, a list of music files, a [`MusicIndex`],
            or the folder of one. Files are analysed here, in this process, every time that they are given: make an
            index of a large library with `viml index`.
        top_k: How many tracks; each comes once, with its best window. By default 10. Also accepted by every call.
        where: Which tracks are ranked, see [`Recommender.recommend`]; also accepted by every call, as are `like`,
            `avoid`, `exclude`, `weights`, `diversity`, `min_score`, `approximate` and `hubness_correction`.
        kwargs: Passed to `transformers.Pipeline` (`device`, …).

    Raises:
        ViMLError: The model is no `ViMLForMusicRetrieval`, there is no processor, or `music` or `top_k` is unusable.

    Example:
        >>> from transformers import pipeline
        >>> import viml_hf
        >>> recommend = pipeline("video-to-music", model="viml-demo/model", music="my-music")  # doctest: +SKIP
        >>> recommend({"video": "clip.mp4", "text": "slow piano"}, top_k=1)  # doctest: +SKIP
        [{'rank': 1, 'track': 'album/song.mp3', 'score': 0.71, 'start': 20.0, 'end': 50.0}]
    """

    # transformers annotates what any pipeline may have, and steps that hand on dicts of tensors.
    model: Any
    processor: Any

    _load_processor = None  # where it is missing, the error below says more than that of transformers
    _load_tokenizer: Any = False
    _load_feature_extractor: Any = False
    _load_image_processor: Any = False
    _load_video_processor: Any = False

    def __init__(self, model: PreTrainedModel | MediaEncoder, processor: ViMLProcessor | None = None, **kwargs: Any):
        network: Any = model
        if isinstance(model, MediaEncoder):
            network, processor = model.model, processor or model.processor
        # By its type's name: code that came with a model has a class of its own.
        model_type = getattr(getattr(network, "config", None), "model_type", type(network).__name__)
        if model_type != ViMLForMusicRetrievalConfig.model_type:
            raise ViMLError(
                f"A model of type {model_type}: give a {ViMLForMusicRetrievalConfig.model_type}, which has the "
                "encoders; `viml train` and ViMLForMusicRetrieval.save_pretrained leave one"
            )
        if type(processor).__name__ != ViMLProcessor.__name__:
            raise ViMLError(
                f"A processor of type {type(processor).__name__}: give processor=, a ViMLProcessor, or save one beside "
                "the model with ViMLProcessor.save_pretrained"
            )
        super().__init__(model=network, processor=processor, **kwargs)

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        """Rank the music for one query or many.

        Args:
            inputs: A query: a video in any form that [`ViMLProcessor`] takes but a list, such as a path, the bytes of a
                file, or frames `(frames, height, width, 3)` uint8 at 6 per second; a text; or a dict with `"video"`,
                `"text"` or both. A string is a path where it is absolute, names a file or ends like a media file; any
                other is a text. Or a list, an iterator or a torch dataset of queries.
            kwargs: `music`, `top_k`, `where` and the wishes for this call, see the class.

        Returns:
            For a query, a list of dicts, best first: `rank` from 1, `track`, `score` (see [`Recommendation`]),
            `start` and `end` of the best window in seconds. For a list, a list of these; for an iterator or a dataset,
            an iterator that reads a query when its result is asked for.

        Raises:
            ViMLError: A query is empty, is a URL or music, or has no music to be compared with.
            MediaDecodeError: A video cannot be decoded.
        """
        if isinstance(inputs, list) and not inputs:
            return []
        if isinstance(inputs, Iterator) and not hasattr(inputs, "read"):  # an open file yields lines
            inputs = _Stream(inputs)
        return super().__call__(inputs, **kwargs)

    @cached_property
    def encoder(self) -> MediaEncoder:
        """The model with its processor, fed from files; made when the model is where it will stay."""
        return MediaEncoder(self.model, self.processor)

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Save the model with its processor; the music is not saved."""
        self.model.save_pretrained(save_directory, **kwargs)
        self.processor.save_pretrained(save_directory, **kwargs)

    def get_iterator(self, inputs: Any, num_workers: int, batch_size: int, *params: dict[str, Any]) -> Any:
        """One query after the other, in this process: a batch would change the last bits of its scores."""
        return super().get_iterator(inputs, 0, 1, *params)

    def _sanitize_parameters(
        self,
        music: Music | None = None,
        top_k: int | None = None,
        local_files_only: bool = False,
        **wishes: Any,
    ) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """The parameters of the three steps. `local_files_only` was for loading; `pipeline` passes it on."""
        if unknown := sorted(set(wishes) - set(WISHES)):
            raise ViMLError(
                f"{', '.join(unknown)}: no such option; this pipeline takes music, top_k, {', '.join(WISHES)}"
            )
        forward: dict[str, Any] = {}
        if music is not None:
            forward["recommender"] = Recommender(self.encoder, self._index(music))
        if top_k is not None:
            if not isinstance(top_k, int) or top_k < 1:
                raise ViMLError(f"top_k={top_k!r}: give the number of tracks to recommend, 1 or more")
            forward["top_k"] = top_k
        forward |= {name: value for name, value in wishes.items() if value is not None}
        return {}, forward, {}

    def preprocess(self, input_: Any) -> Sample:  # type: ignore[override]
        """Tell video and text apart. No dict: its frames would be moved to the model's device, too early."""
        query = {} if input_ is None else input_
        if isinstance(query, Mapping) and "audio" in query:
            raise ViMLError("A query with 'audio': give a video, a text, or both in a dict")
        is_told_apart = isinstance(query, str | os.PathLike) or (
            isinstance(query, Mapping) and {*query} <= {"video", "text"}
        )
        if not is_told_apart:
            query = {"video": query}  # bytes, frames and the like can be nothing else here
        sample = read_sample(query)
        if sample.audio is not None:
            cause = 'music, by its name; give a video, a text or both, or {"video": path} if it has pictures'
            raise MediaDecodeError(str(sample.audio), "video", cause)
        return sample

    def _forward(  # type: ignore[override]
        self,
        query: Sample,
        recommender: Recommender | None = None,
        top_k: int = DEFAULT_TOP_K,
        **wishes: Any,
    ) -> list[Recommendation]:
        """Rank."""
        if recommender is None:
            raise ViMLError(
                "No music to rank: give music=, a folder, a list of files or an index, here or to pipeline()"
            )
        return recommender.recommend(query.video, query.text, top_k, **wishes)

    def postprocess(self, found: list[Recommendation]) -> list[dict[str, Any]]:  # type: ignore[override]
        """Plain dicts, without the path that the file had when it was indexed."""
        return [{name: value for name, value in asdict(one).items() if name != "path"} for one in found]

    def _index(self, music: Any) -> Any:
        """The index of what a user may call music."""
        if type(music).__name__ in (MusicIndex.__name__, "MilvusIndex"):
            return music
        root = None
        if isinstance(music, str | os.PathLike):
            if (Path(music) / INDEX_FILE).is_file() or str(music).startswith("milvus:"):
                return load_index(music)
            root = Path(music).absolute() if Path(music).is_dir() else None
            files = [path.absolute() for path in find_music(Path(music))]
        else:
            try:
                files = [Path(path).absolute() for path in music]
            except TypeError as error:
                accepted = "a folder, a list of files, or an index made by `viml index`"
                raise ViMLError(f"music of type {type(music).__name__} ({error}): give {accepted}") from error
        for path in files:
            if not path.exists():
                raise ViMLError(f"{path}: no such file of music; give paths that are there, or a folder")
        model = self.model.name_or_path or type(self.model).__name__
        return index_files(files, self.encoder, model=model, root=root, progress=logging.is_progress_bar_enabled())
