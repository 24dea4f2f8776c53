"""Ensembles: two systems rank together (paper table 5)."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from viml_hf.errors import ViMLError
from viml_hf.evaluation.metrics import retrieval_metrics
from viml_hf.evaluation.pools import Pool
from viml_hf.evaluation.ranks import retrieval_ranks, unit_rows


def join_embeds(first: Any, second: Any, alpha: float) -> np.ndarray:
    """Embeddings whose cosine is the ensemble's score, `(1 - alpha) * first's cosine + alpha * second's`.

    The rows `[sqrt(1 - alpha) * x1, sqrt(alpha) * x2]` of unit vectors are unit vectors, and their dot product is that
    sum. So an ensemble is ranked like a single system. Queries `(n, dim)` of the first system are joined with queries
    `(n, other_dim)` of the second, and music with music; both must hold the same items in the same order.

    Example:
        >>> join_embeds([[0.0, 2.0]], [[1.0]], alpha=0.36)
        array([[0. , 0.8, 0.6]])
    """
    if not 0 <= alpha <= 1:
        raise ViMLError(f"alpha={alpha}; accepted: 0 (the first system alone) to 1 (the second alone)")
    left, right = unit_rows("first", first), unit_rows("second", second)
    if len(left) != len(right):
        raise ViMLError(
            f"first has {len(left)} rows, second {len(right)}; accepted: the same items in the same order from both"
        )
    return np.concatenate([np.sqrt(1 - alpha) * left, np.sqrt(alpha) * right], axis=1)


def ensemble_ranks(
    first: tuple[Any, Any], second: tuple[Any, Any], alpha: float, *, pools: Sequence[Pool] | None = None
) -> np.ndarray:
    """`retrieval_ranks` by the ensemble's score, of the query and audio embeddings of two systems."""
    queries, audio = (join_embeds(*pair, alpha) for pair in zip(first, second, strict=True))
    return retrieval_ranks(queries, audio, pools=pools)


def tune_alpha(
    first: tuple[Any, Any], second: tuple[Any, Any], *, pools: Sequence[Pool] | None = None, step: float = 0.05
) -> float:
    """The weight of the second system with the lowest mean log rank, on a grid from 0 to 1.

    Of equally good weights it is the one nearest 0.5, and of two as near, the smaller. Use it on validation items: a
    weight that is chosen on the test items has seen them.

    Example:
        >>> wrong, right = [[0.0, 1.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]
        >>> tune_alpha((wrong, right), (right, right))
        0.55
    """
    count = round(1 / step) if step > 0 else 0
    if count < 1 or abs(count * step - 1) > 1e-9:
        raise ViMLError(f"step={step}; accepted: a step that divides 1, such as 0.05")

    def badness(index: int) -> tuple[float, float, int]:
        ranks = ensemble_ranks(first, second, index / count, pools=pools)
        # Sorted and rounded: equally good ranks in another order are no better in the last digits.
        return round(retrieval_metrics(np.sort(ranks))["mean_log_rank"], 12), abs(2 * index - count), index

    return min(badness(index) for index in range(count + 1))[2] / count
