"""Bootstrap over test queries: intervals of metrics, and paired comparisons of systems."""

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
    """A statistic and its bootstrap interval."""

    estimate: float
    low: float
    high: float
    confidence: float  # the share of resamples between the ends, such as 0.95


@dataclass(frozen=True)
class PairedComparison:
    """Two systems on the same queries.

    `mean_difference` is the mean of log(rank of b) − log(rank of a), with its bootstrap interval. If it is positive, a
    is better; `exp` of it is the ratio of the geometric mean ranks of b and a.
    """

    mean_difference: float
    low: float
    high: float
    confidence: float  # the share of resamples between the ends
    num_queries: int

    @property
    def significant(self) -> bool:
        """Whether the interval excludes 0."""
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
        num_samples: Resamples, 1 or more.
        seed: Of the resampling.
        confidence: Between 0 and 1.

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
    _check_options(num_samples, confidence)
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
    """Compare two systems by the log ranks that they give the same queries, in the same order.

    Ranks count from 1 and are `(queries,)` or `(seeds, queries)`; the systems may have different numbers of seeds. The
    logarithm makes a step from rank 2 to 1 count as much as one from 200 to 100. Log ranks of several training seeds
    are averaged per query before queries are drawn, so that neither seeds nor queries count as more evidence than they
    are. For the options see `bootstrap_interval`.

    Example:
        >>> comparison = paired_bootstrap([1, 2, 1, 3, 5, 1], [4, 5, 2, 9, 5, 2])
        >>> round(float(np.exp(comparison.mean_difference)), 2), comparison.significant
        (2.22, True)
    """
    log_a, log_b = (np.log(_by_seed(*named)).mean(axis=0) for named in (("ranks_a", ranks_a), ("ranks_b", ranks_b)))
    if log_a.shape != log_b.shape:
        raise ViMLError(
            f"ranks_a has {log_a.size} queries, ranks_b {log_b.size}; accepted: the same queries in the same order"
        )
    interval = bootstrap_interval(log_b - log_a, num_samples=num_samples, seed=seed, confidence=confidence)
    return PairedComparison(interval.estimate, interval.low, interval.high, confidence, num_queries=log_a.size)


def metric_intervals(
    ranks: Any, *, ks: Sequence[int] = (1, 5, 10), num_samples: int = 10_000, seed: int = 0, confidence: float = 0.95
) -> dict[str, Interval]:
    """`retrieval_metrics` of ranks `(queries,)` or `(seeds, queries)`, each with its `bootstrap_interval`.

    Example:
        >>> interval = metric_intervals([1, 3, 12, 2, 1, 40])["R@10"]
        >>> round(interval.estimate, 2), interval.low < interval.estimate < interval.high
        (66.67, True)
    """
    array = check_ranks("ranks", ranks)
    values: dict[str, Any] = {f"R@{k}": 100.0 * (array <= k) for k in ks}
    values |= {"MR": array, "MRR": 1.0 / array, "mean_log_rank": np.log(array)}
    options: dict[str, Any] = {"num_samples": num_samples, "seed": seed, "confidence": confidence}
    return {
        name: bootstrap_interval(value, statistic=np.median if name == "MR" else np.mean, **options)
        for name, value in values.items()
    }


def recall_curve(
    ranks: Any, max_k: int, *, num_samples: int = 1000, seed: int = 0, confidence: float = 0.95
) -> list[Interval]:
    """Recall at 1 … `max_k` in percent, of ranks `(queries,)` or `(seeds, queries)`, each with its bootstrap interval.

    All come from the same resamples. Each interval is the one that `bootstrap_interval` gives for this depth alone.

    Example:
        >>> [round(interval.estimate, 1) for interval in recall_curve([1, 3, 2, 9], max_k=4)]
        [25.0, 50.0, 75.0, 75.0]
    """
    if max_k < 1:
        raise ViMLError(f"max_k={max_k}; accepted: 1 or more")
    _check_options(num_samples, confidence)
    clusters = np.minimum(_by_seed("ranks", ranks).T, max_k + 1)  # (queries, seeds)

    def recalls(depths: np.ndarray) -> np.ndarray:
        return 100.0 * np.bincount(depths.ravel(), minlength=max_k + 2)[1 : max_k + 1].cumsum() / depths.size

    rng = np.random.default_rng(seed)
    samples = [recalls(clusters[rng.integers(len(clusters), size=len(clusters))]) for _ in range(num_samples)]
    ends = np.quantile(np.stack(samples), [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return [
        Interval(float(e), float(a), float(b), confidence) for e, a, b in zip(recalls(clusters), *ends, strict=True)
    ]


def _by_seed(name: str, ranks: Any) -> np.ndarray:
    """Ranks `(queries,)` or `(seeds, queries)` as `(seeds, queries)`; an error calls them `name`."""
    array = check_ranks(name, ranks)
    if array.ndim not in (1, 2):
        raise ViMLError(f"{name}: shape {array.shape}; accepted: (queries,) or (seeds, queries)")
    return np.atleast_2d(array)


def _check_options(num_samples: int, confidence: float) -> None:
    if num_samples < 1:
        raise ViMLError(f"num_samples={num_samples}; accepted: 1 or more")
    if not 0 < confidence < 1:
        raise ViMLError(f"confidence={confidence}; accepted: between 0 and 1, such as 0.95")
