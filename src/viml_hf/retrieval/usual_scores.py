"""How good the best track of a library usually is: by it a query is known that nothing in the library fits."""

from collections.abc import Collection
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn.functional import normalize

from viml_hf.modeling.modeling_viml import ViMLModel
from viml_hf.retrieval.index import MusicIndex
from viml_hf.retrieval.queries import TEXT, VIDEO

if TYPE_CHECKING:
    from viml_hf.retrieval.milvus_index import MilvusIndex

FITS = 5.0  # percentile below which nothing fits well, see RESULTS.md
FEWEST, MOST = 64, 512  # queries that are asked
TRACKS = 1e7  # of the library, times queries: a few seconds


def queries_like(model: ViMLModel, parts: Collection[str]) -> torch.Tensor | None:
    """The queries `(size, dim)` of a model's bank that are made of a video, a text or both, as one of these parts is.

    Scores of queries of another kind are higher or lower altogether. `None` where the model keeps none of the kind. A
    text alone is told from the bank's pairs only where the text has a part of its own (`fusion="concatenation"`).
    """
    bank = model.query_bank
    if bank is None or not {VIDEO, TEXT} & set(parts):
        return None
    if TEXT not in parts:
        return bank.without_text
    if VIDEO in parts or VIDEO not in model.config.query_modalities:
        return bank.with_text
    if bank.with_text is None or not model.config.has_parts:
        return None
    video, text = bank.with_text.float().chunk(2, dim=1)
    return normalize(torch.cat([torch.zeros_like(video), text], dim=1), dim=1)


def usual_best_scores(
    index: "MusicIndex | MilvusIndex", queries: torch.Tensor, *, with_text: bool, hubness_correction: bool = True
) -> np.ndarray | None:
    """The scores, in ascending order, of the best track of a library for some queries; `None` of an empty library.

    The first queries are asked, 512 at most and fewer of a large library.
    """
    if not index.num_tracks:
        return None
    count = int(np.clip(TRACKS / index.num_tracks, FEWEST, MOST))
    asked = queries[:count].float().cpu().numpy()
    found = index.search(asked, 1, with_text=with_text, hubness_correction=hubness_correction)
    return np.sort([hits[0].score for hits in found])


def percentile(score: float, usual: np.ndarray) -> float:
    """Of 100 queries, for how many the best track has a lower score than this.

    Example:
        >>> percentile(0.35, np.array([0.1, 0.2, 0.3, 0.4]))
        75.0
    """
    return 100 * float(np.searchsorted(usual, score)) / len(usual)
