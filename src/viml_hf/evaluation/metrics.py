"""Metrics of a set of ranks: recall at k, median rank and others, their values by chance, and tables of them."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from viml_hf.errors import ViMLError
from viml_hf.evaluation.pools import Pool

# Decimals of metrics in tables, apart from recalls (two) and ranks (one).
_DECIMALS = {"MRR": 3, "mean_log_rank": 2}


def check_ranks(name: str, ranks: Any) -> np.ndarray:
    """Ranks of any shape as int64; an error calls them `name` if they are empty or not whole numbers from 1."""
    values = np.asarray(ranks)
    if values.size == 0 or values.dtype.kind not in "iuf":
        raise ViMLError(
            f"{name}: {values.dtype} of shape {values.shape}; accepted: at least one rank, whole numbers from 1"
        )
    wrong = values[~((values >= 1) & np.isfinite(values) & (values == np.floor(values)))]
    if wrong.size:
        raise ViMLError(
            f"{name}: {wrong.flat[0]} is not a rank; accepted: whole numbers from 1, as from retrieval_ranks"
        )
    return values.astype(np.int64)


def retrieval_metrics(ranks: Any, *, ks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """Recall and rank statistics of ranks `(queries,)`, which count from 1 (R@k and MR as in the paper's tables).

    `"R@k"` is the share of queries whose match is among the first k, in percent; `"MR"` the median rank, for an even
    number the mean of the middle two; `"MRR"` the mean of 1/rank; `"mean_log_rank"` the mean natural logarithm.

    Example:
        >>> metrics = retrieval_metrics([1, 4, 7, 40])
        >>> metrics["R@1"], metrics["R@5"], metrics["MR"]
        (25.0, 50.0, 5.5)
    """
    values = check_ranks("ranks", ranks)
    if values.ndim != 1:
        raise ViMLError(f"ranks: shape {values.shape}; accepted: (queries,); one call per training seed")
    return {
        **{f"R@{k}": 100.0 * float(np.mean(values <= k)) for k in ks},
        "MR": float(np.median(values)),
        "MRR": float(np.mean(1.0 / values)),
        "mean_log_rank": float(np.mean(np.log(values))),
    }


def chance_metrics(pool_size: int, *, ks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """The expectation of `retrieval_metrics` if every rank in 1 … `pool_size` is equally likely.

    The expected median is (N + 1) / 2; the paper prints 1000 for N = 2000.

    Example:
        >>> chance_metrics(2000)["R@10"], chance_metrics(2000)["MR"]
        (0.5, 1000.5)
    """
    if pool_size < 1:
        raise ViMLError(f"pool_size={pool_size}; accepted: 1 or more tracks")
    return {
        **{f"R@{k}": 100.0 * min(k, pool_size) / pool_size for k in ks},
        "MR": (pool_size + 1) / 2,
        "MRR": math.fsum(1 / rank for rank in range(1, pool_size + 1)) / pool_size,
        "mean_log_rank": math.lgamma(pool_size + 1) / pool_size,
    }


def chance_metrics_over_pools(pools: Sequence[Pool], *, ks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """`chance_metrics` over pools of any sizes: each query's rank is uniform over its own pool.

    The metrics are expectations per query, except `"MR"`, which is the median of the mixture of all ranks.

    Example:
        >>> chance_metrics_over_pools([Pool(np.arange(2), np.arange(2)), Pool(np.arange(2, 6), np.arange(2, 6))])["R@1"]
        33.33333333333333
    """
    queries: Counter[int] = Counter()
    for pool in pools:
        queries[len(pool.tracks)] += len(pool.queries)
    total = queries.total()
    if not total:
        raise ViMLError(f"{len(pools)} pools without a query; accepted: at least one query")
    rows = [(count / total, chance_metrics(size, ks=ks)) for size, count in sorted(queries.items())]
    metrics = {name: math.fsum(share * row[name] for share, row in rows) for name in rows[0][1]}
    return metrics | {"MR": _median_by_chance(queries)}


def _median_by_chance(queries: Mapping[int, int]) -> float:
    """The median of ranks that are uniform over each query's pool; `queries` is their number by pool size."""
    shares = np.zeros(max(queries))
    for size, count in queries.items():
        shares[:size] += count / size
    below = np.cumsum(shares) / sum(queries.values())
    # Where one half is reached exactly, the median lies between this rank and the next.
    middle = [int(np.argmax(below >= 0.5 - 1e-9)) + 1, int(np.argmax(below > 0.5 + 1e-9)) + 1]
    return sum(middle) / 2


def retrieval_metric_folder() -> str:
    """The folder of these metrics as a metric of the package `evaluate`, which loads it without a network.

    Example:
        >>> import evaluate  # doctest: +SKIP
        >>> metric = evaluate.load(retrieval_metric_folder())  # doctest: +SKIP
        >>> metric.compute(query_embeds=queries, audio_embeds=audio, pool_size=500)["R@10"]  # doctest: +SKIP
        47.5
    """
    return str(Path(__file__).parent / "retrieval_metric")


def decimals(metric: str) -> int:
    """How many decimals a metric is printed with."""
    return 2 if metric.startswith("R@") else _DECIMALS.get(metric, 1)


def format_table(
    rows: Mapping[str, Mapping[str, float | str]], *, columns: Sequence[str] = ("R@1", "R@5", "R@10", "MR")
) -> str:
    """A Markdown table of `rows`, system name to metrics, aligned so that it also reads as plain text.

    Texts are taken as they are. A metric that a system lacks is shown as `–`, one that no column names not at all.

    Example:
        >>> print(format_table({"ViML": {"R@1": 29.43, "R@5": 62.49, "R@10": 75.0, "MR": 3}}))
        | system |   R@1 |   R@5 |  R@10 |  MR |
        | :----- | ----: | ----: | ----: | --: |
        | ViML   | 29.43 | 62.49 | 75.00 | 3.0 |
    """

    def cell(metrics: Mapping[str, float | str], column: str) -> str:
        value = metrics.get(column, "–")
        return value if isinstance(value, str) else f"{value:.{decimals(column)}f}"

    # A line break or a bar inside a name would end the row or the cell.
    names = [" ".join(name.split()).replace("|", "\\|") for name in rows]
    lines = [["system", *columns]]
    lines += [[name, *(cell(m, c) for c in columns)] for name, m in zip(names, rows.values(), strict=True)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    padded = [
        [line[0].ljust(widths[0]), *(text.rjust(w) for text, w in zip(line[1:], widths[1:], strict=True))]
        for line in lines
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in [padded[0], rule, *padded[1:]])
