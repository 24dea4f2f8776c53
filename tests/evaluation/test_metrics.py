import math

import numpy as np
import pytest
import torch

from viml_hf.errors import ViMLError
from viml_hf.evaluation.metrics import chance_metrics, chance_metrics_over_pools, format_table, retrieval_metrics
from viml_hf.evaluation.pools import Pool


def naive_metrics(ranks):
    ordered = sorted(ranks)
    middle = len(ordered) // 2
    median = ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
    return {
        "R@1": 100 * sum(rank <= 1 for rank in ranks) / len(ranks),
        "R@5": 100 * sum(rank <= 5 for rank in ranks) / len(ranks),
        "R@10": 100 * sum(rank <= 10 for rank in ranks) / len(ranks),
        "MR": median,
        "MRR": sum(1 / rank for rank in ranks) / len(ranks),
        "mean_log_rank": sum(math.log(rank) for rank in ranks) / len(ranks),
    }


@pytest.mark.parametrize("n", [1, 2, 7, 200])
def test_equal_the_naive_loop(n):
    ranks = np.random.default_rng(n).integers(1, 30, n)
    metrics = retrieval_metrics(ranks)
    expected = naive_metrics(ranks.tolist())
    assert list(metrics) == ["R@1", "R@5", "R@10", "MR", "MRR", "mean_log_rank"]
    assert metrics == pytest.approx(expected, rel=1e-12)
    assert all(type(value) is float for value in metrics.values())


def test_the_boundaries_of_recall_and_other_depths():
    assert retrieval_metrics([5, 6])["R@5"] == 50.0
    assert retrieval_metrics(torch.tensor([1, 2, 3, 4]), ks=[2])["R@2"] == 50.0


@pytest.mark.parametrize("ranks", [[], [0, 1], [-1], [1.5], [np.nan], [np.inf], [True], [[1, 2]], ["1"]])
def test_what_is_not_ranks_is_refused(ranks):
    with pytest.raises(ViMLError, match=r"ranks: .*accepted"):
        retrieval_metrics(ranks)


@pytest.mark.parametrize("pool_size", [1, 2, 7, 2000])
def test_chance_is_the_mean_over_all_ranks(pool_size):
    # Each rank once is the uniform distribution itself.
    assert chance_metrics(pool_size) == pytest.approx(retrieval_metrics(np.arange(1, pool_size + 1)), rel=1e-12)


def test_chance_without_tracks_or_queries_is_refused():
    with pytest.raises(ViMLError, match="pool_size=0"):
        chance_metrics(0)
    with pytest.raises(ViMLError, match="0 pools without a query"):
        chance_metrics_over_pools([])


@pytest.mark.parametrize(
    "sizes",
    [
        [(40, 40)],
        [(5, 5), (5, 5), (1, 5)],
        [(2, 2), (4, 4)],
        [(3, 3), (7, 7), (7, 7)],
        [(1, 6), (6, 6)],
        [(2, 2), (2, 2), (30, 30)],
        [(4, 4), (4, 8)],
    ],
)
def test_chance_over_pools_is_the_mean_over_all_ranks(sizes):
    pools = [Pool(np.arange(queries), np.arange(tracks)) for queries, tracks in sizes]
    # Each query with each rank of its pool, repeated until all queries have as many.
    common = math.lcm(*(tracks for _, tracks in sizes))
    ranks = [np.tile(np.arange(1, tracks + 1), queries * common // tracks) for queries, tracks in sizes]
    expected = retrieval_metrics(np.concatenate(ranks))
    assert chance_metrics_over_pools(pools) == pytest.approx(expected, rel=1e-12)


def test_columns_have_their_decimals_and_texts_stay():
    table = format_table(
        {"a": {"MRR": 0.41239, "mean_log_rank": 1.0, "R@1": "1–2"}}, columns=["R@1", "MRR", "mean_log_rank"]
    )
    assert table.splitlines()[2] == "| a      | 1–2 | 0.412 |          1.00 |"


def test_the_table_is_aligned_and_keeps_order():
    table = format_table(
        {
            "ViML, query tags": {"MR": 2, "R@1": 49.494, "R@5": 81.61, "R@10": 100.0, "MRR": 0.6},
            "chance": {"MR": 1000.5, "R@1": 0.05, "R@5": 0.25},
        }
    )
    assert table == (
        "| system           |   R@1 |   R@5 |   R@10 |     MR |\n"
        "| :--------------- | ----: | ----: | -----: | -----: |\n"
        "| ViML, query tags | 49.49 | 81.61 | 100.00 |    2.0 |\n"
        "| chance           |  0.05 |  0.25 |      – | 1000.5 |"
    )


def test_a_name_cannot_break_the_table():
    lines = format_table({"a|b\nc": {"R@1": 1.0}}, columns=["R@1"]).split("\n")
    assert len(lines) == 3
    assert lines[2] == "| a\\|b c | 1.00 |"
