"""How far a figure could be from chance in the choice of test queries: bootstrap intervals and paired comparisons."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from viml_hf.errors import ViMLError
from viml_hf.evaluation.metrics import check_ranks

# Resampled values held at a time: 32 MiB as float64.
_VALUES_PER_BLOCK = 2**22


@dataclass(frozen=True)
class Interval:
    """A figure and its bootstrap interval.

    Args:
        estimate: The statistic of the values as they are.
        low: Lower end.
        high: Upper end.
        confidence: The share of resamples between the ends, e.g. 0.95.
    """

    estimate: float
    low: float
    high: float
    confidence: float


@dataclass(frozen=True)
class PairedComparison:
    """Two systems on the same queries.

    Args:
        mean_difference: Mean of log(rank of b) − log(rank of a). Positive: a is better; `exp` of it is how many times
            further down b puts the match, as a ratio of geometric mean ranks.
        low: Lower end of its bootstrap interval.
        high: Upper end.
        confidence: The share of resamples between the ends.
        num_queries: Queries compared.
    """

    mean_difference: float
    low: float
    high: float
    confidence: float
    num_queries: int

    @property
    def significant(self) -> bool:
        """Whether the interval excludes 0, no difference."""
        return self.low > 0 or self.high < 0


def bootstrap_interval(
    values: Any,
    *,
    statistic: Callable[..., Any] = np.mean,
    num_samples: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Interval:
    """Percentile bootstrap interval over queries.

    Queries are drawn with replacement; a query brings its values of all training seeds with it, since those are not
    independent of each other. The interval covers the choice of queries, not that of the training seeds.

    Args:
        values: One value per query, `(queries,)`, or one per training seed and query, `(seeds, queries)`.
        statistic: Called as `statistic(array, axis=-1)`; `np.mean`, `np.median` and the like.
        num_samples: Resamples.
        seed: Seed of the resampling, 0 or more.
        confidence: Between 0 and 1.

    Returns:
        The statistic of all values, and the interval's ends.

    Raises:
        ViMLError: `values` is empty, not finite or of another shape; `num_samples` or `confidence` is out of range.

    Example:
        >>> ranks = np.array([1, 3, 12, 2, 1, 40])
        >>> interval = bootstrap_interval(100.0 * (ranks <= 10))
        >>> round(interval.estimate, 2), interval.low <= interval.estimate <= interval.high
        (66.67, True)
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim not in (1, 2) or array.size == 0:
        raise ViMLError(f"values: shape {array.shape}; accepted: (queries,) or (seeds, queries), not empty")
    if not np.isfinite(array).all():
        query = np.argwhere(~np.isfinite(array))[0, -1]
        raise ViMLError(f"values: NaN or infinity at query {query}; accepted: finite numbers")
    if num_samples < 1:
        raise ViMLError(f"num_samples={num_samples}; accepted: 1 or more")
    if not 0 < confidence < 1:
        raise ViMLError(f"confidence={confidence}; accepted: between 0 and 1, such as 0.95")
    clusters = np.atleast_2d(array).T  # (queries, seeds)
    num_queries = len(clusters)
    block = max(1, _VALUES_PER_BLOCK // clusters.size)
    rng = np.random.default_rng(seed)
    samples = []
    for start in range(0, num_samples, block):
        drawn = rng.integers(num_queries, size=(min(block, num_samples - start), num_queries))
        samples.append(statistic(clusters[drawn].reshape(len(drawn), -1), axis=-1))
    low, high = np.quantile(np.concatenate(samples), [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(float(statistic(array.reshape(-1), axis=-1)), float(low), float(high), confidence)


def paired_bootstrap(
    ranks_a: Any, ranks_b: Any, *, num_samples: int = 10_000, seed: int = 0, confidence: float = 0.95
) -> PairedComparison:
    """Compares two systems by the log ranks that they give the same queries.

    The logarithm makes a step from rank 2 to 1 count as much as one from 200 to 100. Where a system was trained with
    several seeds, its log ranks are averaged per query before queries are drawn: that is the same as drawing queries
    with the ranks of all seeds, and neither seeds nor queries are counted as more evidence than they are.

    Args:
        ranks_a: Ranks from 1, `(queries,)` or `(seeds, queries)`.
        ranks_b: The same queries in the same order; another number of seeds is fine.
        num_samples: Resamples.
        seed: Seed of the resampling, 0 or more.
        confidence: Between 0 and 1.

    Returns:
        The mean difference, positive where a is better, and its interval.

    Raises:
        ViMLError: The numbers of queries differ, or a value is not a rank or out of range.

    Example:
        >>> comparison = paired_bootstrap([1, 2, 1, 3, 5, 1], [4, 5, 2, 9, 5, 2])
        >>> round(float(np.exp(comparison.mean_difference)), 2), comparison.significant
        (2.22, True)
    """
    log_a, log_b = _mean_log_ranks("ranks_a", ranks_a), _mean_log_ranks("ranks_b", ranks_b)
    if log_a.shape != log_b.shape:
        raise ViMLError(
            f"ranks_a has {log_a.size} queries, ranks_b {log_b.size}; accepted: the same queries in the same order"
        )
    interval = bootstrap_interval(log_b - log_a, num_samples=num_samples, seed=seed, confidence=confidence)
    return PairedComparison(interval.estimate, interval.low, interval.high, confidence, num_queries=log_a.size)


def metric_intervals(
    ranks: Any,
    *,
    ks: Sequence[int] = (1, 5, 10),
    num_samples: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> dict[str, Interval]:
    """`retrieval_metrics`, each with its bootstrap interval.

    Args:
        ranks: Ranks from 1, `(queries,)` or `(seeds, queries)`.
        ks: The depths of the recalls.
        num_samples: Resamples.
        seed: Seed of the resampling, 0 or more.
        confidence: Between 0 and 1.

    Returns:
        The keys of `retrieval_metrics`; the estimates are its figures.

    Raises:
        ViMLError: A value is not a rank or out of range.

    Example:
        >>> interval = metric_intervals([1, 3, 12, 2, 1, 40])["R@10"]
        >>> round(interval.estimate, 2), interval.low < interval.estimate < interval.high
        (66.67, True)
    """
    array = check_ranks("ranks", ranks)
    values: dict[str, Any] = {f"R@{k}": 100.0 * (array <= k) for k in ks}
    values |= {"MR": array, "MRR": 1.0 / array, "mean_log_rank": np.log(array)}
    return {
        name: bootstrap_interval(
            value,
            statistic=np.median if name == "MR" else np.mean,
            num_samples=num_samples,
            seed=seed,
            confidence=confidence,
        )
        for name, value in values.items()
    }


def recall_curve(
    ranks: Any, max_k: int, *, num_samples: int = 1000, seed: int = 0, confidence: float = 0.95
) -> list[Interval]:
    """Recall at 1 … `max_k` in percent, each with its bootstrap interval, all from the same resamples.

    Args:
        ranks: Ranks from 1, `(queries,)` or `(seeds, queries)`.
        max_k: The last depth.
        num_samples: Resamples.
        seed: Seed of the resampling, 0 or more.
        confidence: Between 0 and 1.

    Returns:
        One interval per depth: those that `bootstrap_interval` gives for each alone.

    Raises:
        ViMLError: A value is not a rank or out of range.

    Example:
        >>> [round(interval.estimate, 1) for interval in recall_curve([1, 3, 2, 9], max_k=4)]
        [25.0, 50.0, 75.0, 75.0]
    """
    array = check_ranks("ranks", ranks)
    if array.ndim not in (1, 2):
        raise ViMLError(f"ranks: shape {array.shape}; accepted: (queries,) or (seeds, queries)")
    if max_k < 1 or num_samples < 1 or not 0 < confidence < 1:
        raise ViMLError(
            f"max_k={max_k}, num_samples={num_samples}, confidence={confidence}; accepted: 1 or more, 1 or more, and "
            "between 0 and 1, such as 0.95"
        )
    clusters = np.minimum(np.atleast_2d(array).T, max_k + 1)  # (queries, seeds)

    def recalls(depths: np.ndarray) -> np.ndarray:
        return 100.0 * np.bincount(depths.ravel(), minlength=max_k + 2)[1 : max_k + 1].cumsum() / depths.size

    rng = np.random.default_rng(seed)
    samples = [recalls(clusters[rng.integers(len(clusters), size=len(clusters))]) for _ in range(num_samples)]
    ends = np.quantile(np.stack(samples), [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return [
        Interval(float(e), float(a), float(b), confidence) for e, a, b in zip(recalls(clusters), *ends, strict=True)
    ]


def _mean_log_ranks(name: str, ranks: Any) -> np.ndarray:
    """Mean natural log rank per query, `(queries,)`."""
    array = check_ranks(name, ranks)
    if array.ndim not in (1, 2):
        raise ViMLError(f"{name}: shape {array.shape}; accepted: (queries,) or (seeds, queries)")
    return np.log(np.atleast_2d(array)).mean(axis=0)
