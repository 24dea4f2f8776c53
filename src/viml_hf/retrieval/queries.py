"""Queries: embedded, and as the sum of the parts that they were made of."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn.functional import normalize

from viml_hf.encoders.media_encoder import MediaEncoder
from viml_hf.errors import ViMLError
from viml_hf.modeling.clip_windows import CLIP_SEGMENTS, windows
from viml_hf.processing.inputs import Video, read_videos
from viml_hf.retrieval.query_limits import QueryLimits

VIDEO, TEXT = "video", "text"


@dataclass(frozen=True, eq=False)
class Query:
    """An embedded query.

    Args:
        embedding: `(dim,)` float32, L2-normalised.
        parts: By name what it is the sum of, `(dim,)` each: so a similarity is the sum of theirs. Where a model makes
            one embedding of video and text, the text's part is what it changes in that of the video.
        with_text: Whether it has a text, by which hubs are corrected.
    """

    embedding: np.ndarray
    parts: Mapping[str, np.ndarray] = field(default_factory=dict)
    with_text: bool = False

    def shares(self, row: np.ndarray) -> dict[str, float]:
        """What each part adds to the similarity of an embedding of music `(dim,)`.

        Example:
            >>> parts = {"video": np.array([0.6, 0.0]), "text": np.array([0.0, 0.8])}
            >>> Query(np.array([0.6, 0.8]), parts).shares(np.array([1.0, 0.0]))
            {'video': 0.6, 'text': 0.0}
        """
        asked = row.astype(np.float64)
        return {name: float(part.astype(np.float64) @ asked) for name, part in self.parts.items()}


@torch.inference_mode()
def make_query(
    encoder: MediaEncoder, video: Video | None = None, text: str | None = None, limits: QueryLimits | None = None
) -> Query:
    """Embed a video, a text or both; see [`Recommender.embed_query`]."""
    if video is not None:
        (video,) = read_videos([video])  # the limits know files by their path or bytes
    limits = limits or QueryLimits()
    limits.check(video, text)
    text = (text or "").strip()
    if video is None and not text:
        raise ViMLError("The query is empty: give a video, a text, or both")
    takes = encoder.model.config.viml_config.query_modalities
    for name, given in ((VIDEO, video is not None), (TEXT, bool(text))):
        if given and name not in takes:
            raise ViMLError(f"This model's queries are made of {' and '.join(takes)}: leave the {name} out")
    viml = encoder.model.viml
    told: dict[str, torch.Tensor] = {}
    if text:
        told["text_features"] = torch.from_numpy(encoder.encode_text(text)).float()[None].to(viml.device)
    if video is None:
        embedding = viml.get_query_features(**told).pooler_output[0].cpu().numpy()
        return Query(embedding, {TEXT: embedding}, with_text=True)
    rows = torch.from_numpy(encoder.encode_video(video, max_pixels=limits.decoded_pixels).rows).float().to(viml.device)

    def embedded(features: dict[str, torch.Tensor]) -> np.ndarray:
        embeds = [
            viml.get_query_features(video_features=rows[None, first:stop], **features).pooler_output[0]
            for first, stop in windows(len(rows), CLIP_SEGMENTS, hop=CLIP_SEGMENTS)
        ]
        return normalize(torch.stack(embeds).mean(0), dim=0).cpu().numpy()

    embedding = embedded(told)
    if not text:
        return Query(embedding, {VIDEO: embedding})
    if viml.config.has_parts:
        without = np.where(np.arange(len(embedding)) < len(embedding) // 2, embedding, np.float32(0))
    else:
        without = embedded({})
    return Query(embedding, {VIDEO: without, TEXT: embedding - without}, with_text=True)


def embed_query(
    encoder: MediaEncoder, video: Video | None = None, text: str | None = None, limits: QueryLimits | None = None
) -> np.ndarray:
    """What [`Recommender.embed_query`] gives, which needs no music."""
    return make_query(encoder, video, text, limits).embedding


def weighted_sum(parts: Mapping[str, np.ndarray], weights: Mapping[str, float], *, with_text: bool) -> Query:
    """The query of parts that count as much as their weights say, 1 where none is given.

    Raises:
        ViMLError: Nothing is left of it.

    Example:
        >>> query = weighted_sum({"like": np.array([1.0, 0.0]), "avoid": np.array([0.0, -1.0])}, {}, with_text=False)
        >>> query.embedding.astype(float).round(2).tolist()
        [0.71, -0.71]
    """
    scaled = {name: part.astype(np.float64) * weights.get(name, 1.0) for name, part in parts.items()}
    total = np.sum(list(scaled.values()), axis=0)
    length = np.linalg.norm(total)
    if length < 1e-6:
        raise ViMLError("what is asked for and what is to be avoided cancel each other out: change one of them")
    return Query((total / length).astype(np.float32), {n: part / length for n, part in scaled.items()}, with_text)
