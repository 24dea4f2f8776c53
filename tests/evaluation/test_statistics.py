import dataclasses
import math
import tracemalloc

import numpy as np
import pytest

from viml_hf.errors import ViMLError
from viml_hf.evaluation import statistics
from viml_hf.evaluation.metrics import retrieval_metrics
from viml_hf.evaluation.statistics import bootstrap_interval, metric_intervals, paired_bootstrap, recall_curve


def naive_interval(values, statistic, num_samples, seed, confidence):
    """One resample at a time, every query with the values of all seeds."""
    values = np.atleast_2d(values)
    seeds, queries = values.shape
    draws = np.random.default_rng(seed).integers(queries, size=(num_samples, queries))
    samples = []
    for draw in draws:
        picked = [values[s, query] for query in draw for s in range(seeds)]
        samples.append(statistic(picked))
    return np.quantile(samples, [(1 - confidence) / 2, 1 - (1 - confidence) / 2])


@pytest.mark.parametrize("shape", [(9,), (3, 8)])
@pytest.mark.parametrize("statistic", [np.mean, np.median])
@pytest.mark.parametrize("per_block", [2**22, 100, 1])
def test_equals_the_naive_loop_in_any_block(monkeypatch, shape, statistic, per_block):
    monkeypatch.setattr(statistics, "_VALUES_PER_BLOCK", per_block)
    values = np.random.default_rng(0).normal(size=shape)
    interval = bootstrap_interval(values, statistic=statistic, num_samples=101, seed=3, confidence=0.8)
    low, high = naive_interval(values, statistic, 101, 3, 0.8)
    assert (interval.low, interval.high) == pytest.approx((low, high), rel=1e-12)
    assert interval.estimate == pytest.approx(float(statistic(values)), rel=1e-12)
    assert interval.low < interval.high


def test_the_interval_of_a_mean_has_the_textbook_width():
    values = np.random.default_rng(1).normal(size=400)
    interval = bootstrap_interval(values, num_samples=4000)
    width = 2 * 1.96 * values.std() / math.sqrt(400)
    assert interval.high - interval.low == pytest.approx(width, rel=0.06)


def test_seeds_of_one_query_are_not_independent_evidence():
    values = np.random.default_rng(2).normal(size=200)
    one = bootstrap_interval(values, num_samples=500)
    many = bootstrap_interval(np.tile(values, (5, 1)), num_samples=500)
    assert (many.low, many.high) == pytest.approx((one.low, one.high), rel=1e-12)


def test_memory_does_not_grow_with_the_number_of_samples():
    values = np.zeros((2, 100_000))
    tracemalloc.start()
    bootstrap_interval(values, num_samples=60)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 120 * 2**20  # all 60 at once would hold 144 MB for the indices and their values, and as much to sum


def test_equal_calls_are_equal_and_seeds_matter():
    values = np.random.default_rng(3).normal(size=50)
    first, second, other = (bootstrap_interval(values, seed=seed) for seed in (1, 1, 2))
    assert first == second != other


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([], {}, "values: shape"),
        (np.zeros((2, 2, 2)), {}, "values: shape"),
        ([1.0, np.nan], {}, "query 1"),
        ([1.0], {"num_samples": 0}, "num_samples=0"),
        ([1.0], {"confidence": 95}, "confidence=95"),
        ([1.0], {"confidence": 1.0}, "confidence=1.0"),
    ],
)
def test_unusable_arguments_are_refused(values, options, message):
    with pytest.raises(ViMLError, match=message):
        bootstrap_interval(values, **options)


@pytest.mark.parametrize("seeds", [None, 1, 4])
def test_paired_equals_the_naive_loop(seeds):
    rng = np.random.default_rng(4)
    shape = (30,) if seeds is None else (seeds, 30)
    ranks_a, ranks_b = rng.integers(1, 50, shape), rng.integers(1, 90, shape)
    comparison = paired_bootstrap(ranks_a, ranks_b, num_samples=200, seed=7, confidence=0.9)
    differences = np.log(ranks_b) - np.log(ranks_a)
    assert comparison.mean_difference == pytest.approx(differences.mean(), rel=1e-12)
    expected = naive_interval(differences, np.mean, 200, 7, 0.9)
    assert (comparison.low, comparison.high) == pytest.approx(tuple(expected), rel=1e-9)
    assert (comparison.confidence, comparison.num_queries) == (0.9, 30)


def test_positive_means_that_a_is_better():
    better, worse = np.array([1, 2, 1, 4] * 20), np.array([3, 5, 2, 9] * 20)
    comparison = paired_bootstrap(better, worse)
    assert comparison.low > 0
    assert comparison.significant
    mirrored = paired_bootstrap(worse, better)
    assert (mirrored.mean_difference, mirrored.low, mirrored.high) == pytest.approx(
        (-comparison.mean_difference, -comparison.high, -comparison.low), rel=1e-12
    )
    assert mirrored.significant


def test_pairing_finds_a_small_difference_among_very_different_queries():
    hard = np.exp(np.random.default_rng(5).uniform(0, 7, 200)).astype(int) + 1
    comparison = paired_bootstrap(hard, hard * 2, num_samples=500)
    assert [comparison.mean_difference, comparison.low] == pytest.approx([math.log(2)] * 2)
    same = paired_bootstrap(hard, hard)
    assert (same.mean_difference, same.low, same.high, same.significant) == (0.0, 0.0, 0.0, False)


def test_systems_may_have_different_numbers_of_seeds():
    rng = np.random.default_rng(7)
    ranks_a, ranks_b = rng.integers(1, 50, (3, 20)), rng.integers(1, 50, 20)
    three = paired_bootstrap(ranks_a, ranks_b)
    assert dataclasses.astuple(three) == pytest.approx(
        dataclasses.astuple(paired_bootstrap(ranks_a, np.tile(ranks_b, (3, 1)))), rel=1e-12
    )


@pytest.mark.parametrize(
    ("ranks_a", "ranks_b", "message"),
    [
        ([1, 2], [1, 2, 3], "ranks_a has 2 queries, ranks_b 3"),
        ([0, 2], [1, 2], "ranks_a: 0 is not a rank"),
        ([1, 2], [[[1, 2]]], "ranks_b: shape"),
    ],
)
def test_ranks_that_cannot_be_paired_are_refused(ranks_a, ranks_b, message):
    with pytest.raises(ViMLError, match=message):
        paired_bootstrap(ranks_a, ranks_b)


@pytest.mark.parametrize("shape", [(40,), (3, 40)])
def test_every_metric_has_its_own_interval(shape):
    ranks = np.random.default_rng(8).integers(1, 60, shape)
    intervals = metric_intervals(ranks, ks=[5, 20], num_samples=150, seed=5, confidence=0.9)
    expected = retrieval_metrics(ranks.ravel(), ks=[5, 20])
    assert {name: interval.estimate for name, interval in intervals.items()} == pytest.approx(expected, rel=1e-12)
    for name, interval in intervals.items():
        ends = naive_interval(ranks, lambda picked, name=name: retrieval_metrics(picked, ks=[5, 20])[name], 150, 5, 0.9)
        assert (interval.low, interval.high) == pytest.approx(tuple(ends), rel=1e-9), name
        assert interval.low < interval.high
        assert interval.confidence == 0.9


@pytest.mark.parametrize("shape", [(40,), (3, 40)])
def test_a_recall_curve_is_the_interval_of_every_depth(shape):
    ranks = np.random.default_rng(9).integers(1, 60, shape)
    curve = recall_curve(ranks, 50, num_samples=120, seed=2, confidence=0.8)
    assert len(curve) == 50
    for k, interval in enumerate(curve, start=1):
        alone = bootstrap_interval(100.0 * (ranks <= k), num_samples=120, seed=2, confidence=0.8)
        assert dataclasses.astuple(interval) == pytest.approx(dataclasses.astuple(alone), rel=1e-12), k


@pytest.mark.parametrize(
    ("ranks", "options", "message"),
    [
        ([[[1]]], {"max_k": 3}, "ranks: shape"),
        ([1], {"max_k": 0}, "max_k=0; accepted: 1 or more"),
        ([1], {"max_k": 3, "num_samples": 0}, "num_samples=0; accepted: 1 or more"),
    ],
)
def test_curves_that_cannot_be_are_refused(ranks, options, message):
    with pytest.raises(ViMLError, match=message):
        recall_curve(ranks, **options)
