"""How good the best track of a library usually is: by it a query is known that nothing in the library fits."""

from typing import TYPE_CHECKING

import numpy as np

from viml_hf.modeling.hubness_correction import QueryBank
from viml_hf.retrieval.index import MusicIndex

if TYPE_CHECKING:
    from viml_hf.retrieval.milvus_index import MilvusIndex

FITS = 5.0  # percentile below which nothing fits well, see RESULTS.md
FEWEST, MOST = 64, 512  # queries that are asked
TRACKS = 1e7  # of the library, times queries: a few seconds


def usual_best_scores(
    index: "MusicIndex | MilvusIndex", bank: QueryBank, *, with_text: bool, hubness_correction: bool = True
) -> np.ndarray | None:
    """The scores, in ascending order, of the best track of a library for queries of a model's bank.

    The first queries of the bank are asked, 512 at most and fewer of a large library. `None` where the model keeps no
    queries of this kind, or the library is empty.
    """
    queries = bank.with_text if with_text else bank.without_text
    if queries is None or not index.num_tracks:
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
