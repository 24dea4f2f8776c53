import math
import tracemalloc

import numpy as np
import pytest
import torch

from viml_hf.errors import ViMLError
from viml_hf.evaluation.pools import Pool, make_pools, pools_from_groups
from viml_hf.evaluation.ranks import _pair_scores, retrieval_ranks

CHUNK_SIZES = (1, 5, 13, 1000)


def naive_ranks(queries, audio, pools):
    """One pair at a time. Equal audio rows share one score, so that their tie does not hang on rounding."""
    ranks = np.zeros(len(queries), dtype=int)
    for pool in pools:
        for query in pool.queries:
            scores = {}
            for track in pool.tracks:
                key = audio[track].tobytes()
                if key not in scores:
                    x, y = queries[query].tolist(), audio[track].tolist()
                    norm = math.sqrt(sum(a * a for a in x)) * math.sqrt(sum(b * b for b in y))
                    scores[key] = sum(a * b for a, b in zip(x, y, strict=True)) / norm
            match = scores[audio[query].tobytes()]
            ranks[query] = 1 + sum(scores[audio[track].tobytes()] >= match for track in pool.tracks if track != query)
    return ranks


def embeddings(n, dim, seed, noise=2.0):
    rng = np.random.default_rng(seed)
    queries = rng.standard_normal((n, dim))
    return queries * rng.uniform(0.1, 9, (n, 1)), queries + noise * rng.standard_normal((n, dim))


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
def test_equals_the_naive_loop(chunk_size, dtype):
    queries, audio = (x.astype(dtype) for x in embeddings(57, 12, seed=1))
    ranks = retrieval_ranks(queries, audio, chunk_size=chunk_size)
    assert ranks.dtype == np.int64
    assert ranks.shape == (57,)
    assert len(set(ranks.tolist())) > 10  # neither perfect nor collapsed: the comparison means something
    np.testing.assert_array_equal(ranks, naive_ranks(queries, audio, [Pool(np.arange(57), np.arange(57))]))


@pytest.mark.parametrize("chunk_size", CHUNK_SIZES)
def test_pools_equal_the_naive_loop(chunk_size):
    queries, audio = embeddings(50, 12, seed=2)
    shuffled = np.random.default_rng(0).permutation(50)
    for pools in (
        make_pools(50, 12, seed=3),
        pools_from_groups(np.arange(50) % 3),
        [Pool(shuffled[:20], shuffled), Pool(shuffled[20:], shuffled[10:])],
    ):
        ranks = retrieval_ranks(queries, audio, pools=pools, chunk_size=chunk_size)
        np.testing.assert_array_equal(ranks, naive_ranks(queries, audio, pools))


@pytest.mark.parametrize("dim", [3, 16, 64, 256])
def test_duplicates_of_the_match_tie_and_count_against_the_model(dim):
    distinct, copies = 7, 23
    rng = np.random.default_rng(dim)
    audio = np.tile(rng.standard_normal((distinct, dim)), (copies, 1))[rng.permutation(distinct * copies)]
    queries = rng.standard_normal(audio.shape)
    expected = naive_ranks(queries, audio, [Pool(np.arange(len(audio)), np.arange(len(audio)))])
    assert set(expected) <= set(range(copies, distinct * copies + 1, copies))  # the last place of its group of copies
    for chunk_size in CHUNK_SIZES:
        np.testing.assert_array_equal(retrieval_ranks(queries, audio, chunk_size=chunk_size), expected)


@pytest.mark.parametrize("pool_size", [None, 2000])
def test_memory_is_a_chunk_and_never_all_pairs(pool_size):
    queries, audio = embeddings(4000, 4, seed=8)
    pools = pool_size and make_pools(4000, pool_size, seed=0)
    tracemalloc.start()
    retrieval_ranks(queries, audio, pools=pools, chunk_size=256)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 2**20  # all pairs would be 16 MB as bits of one byte, and 128 MB as scores


def test_a_collapsed_model_ranks_last():
    ranks = retrieval_ranks(np.random.default_rng(0).standard_normal((90, 64)), np.ones((90, 64)), chunk_size=32)
    assert ranks.tolist() == [90] * 90


def test_more_near_ties_than_one_block(monkeypatch):
    monkeypatch.setattr("viml_hf.evaluation.ranks._PAIRS_PER_BLOCK", 7)
    audio = np.repeat(np.eye(4), 5, axis=0)
    queries = np.eye(4)[np.arange(20) % 4] + 0.1
    expected = naive_ranks(queries, audio, [Pool(np.arange(20), np.arange(20))])
    np.testing.assert_array_equal(retrieval_ranks(queries, audio), expected)


def test_last_bit_differences_are_ranked_the_same_in_every_chunking():
    # Tracks that differ from the match by single bits: no rounding of a matrix product may decide.
    rng = np.random.default_rng(5)
    audio = np.tile(rng.standard_normal(32), (40, 1))
    audio *= 1 + rng.integers(-3, 4, audio.shape) * np.finfo(float).eps
    queries = rng.standard_normal(audio.shape)
    results = [retrieval_ranks(queries, audio, chunk_size=size) for size in CHUNK_SIZES]
    assert len(set(results[0].tolist())) > 10
    for result in results[1:]:
        np.testing.assert_array_equal(result, results[0])


@pytest.mark.parametrize("dim", [1, 2, 7, 8, 9, 128, 129, 300])
def test_pair_scores_do_not_depend_on_the_company(dim):
    left, right = np.random.default_rng(dim).standard_normal((2, 300, dim))
    together = _pair_scores(left, right)
    alone = [_pair_scores(left[i : i + 1], right[i : i + 1])[0] for i in range(300)]
    np.testing.assert_array_equal(together, alone)


def test_scale_does_not_matter_even_beyond_the_range_of_squares():
    queries, audio = embeddings(30, 8, seed=4)
    expected = retrieval_ranks(queries, audio)
    np.testing.assert_array_equal(retrieval_ranks(queries * 2.0**600, audio * 2.0**-600), expected)


def test_tensors_and_fortran_order_are_accepted_and_stay_as_they_are():
    queries, audio = embeddings(30, 8, seed=6)
    before = queries.copy(), audio.copy()
    expected = retrieval_ranks(queries, audio)
    np.testing.assert_array_equal(retrieval_ranks(torch.tensor(queries), torch.tensor(audio)), expected)
    np.testing.assert_array_equal(retrieval_ranks(np.asfortranarray(queries), np.asfortranarray(audio)), expected)
    np.testing.assert_array_equal((queries, audio), before)


@pytest.mark.parametrize(
    ("queries", "audio", "message"),
    [
        (np.ones((3, 2)), np.array([[1, 0], [0, 0], [1, 1]]), "audio_embeds: row 1 is all zeros"),
        (np.array([[1, 1], [1, np.nan]]), np.ones((2, 2)), "query_embeds: row 1 holds NaN or infinity"),
        (np.ones((3, 2)), np.array([[1, 0], [1, 1], [1, -np.inf]]), "audio_embeds: row 2 holds NaN or infinity"),
        (np.ones((3, 2)), np.ones((4, 2)), r"query_embeds \(3, 2\) and audio_embeds \(4, 2\) differ"),
        (np.ones(3), np.ones((3, 1)), r"query_embeds: shape \(3,\)"),
        (np.ones((0, 2)), np.ones((0, 2)), r"query_embeds: shape \(0, 2\)"),
        (torch.ones(2, 2, requires_grad=True), np.ones((2, 2)), r"query_embeds: not an array .*detach"),
        (torch.ones(2, 2, dtype=torch.bfloat16), np.ones((2, 2)), r"query_embeds: not an array .*float\(\)"),
    ],
)
def test_unusable_embeddings_are_refused(queries, audio, message):
    with pytest.raises(ViMLError, match=message):
        retrieval_ranks(queries, audio)


@pytest.mark.parametrize(
    ("pools", "message"),
    [
        ([], "query 0 appears 0 times"),
        ([Pool(np.array([0, 1]), np.arange(4))], "query 2 appears 0 times"),
        ([Pool(np.arange(4), np.arange(4)), Pool(np.array([3]), np.arange(4))], "query 3 appears 2 times"),
        ([Pool(np.arange(4), np.arange(6))], "index 5 for 4 embeddings"),
    ],
)
def test_pools_that_do_not_hold_each_query_once_are_refused(pools, message):
    with pytest.raises(ViMLError, match=message):
        retrieval_ranks(np.ones((4, 2)), np.ones((4, 2)), pools=pools)


def test_chunk_size_must_be_positive():
    with pytest.raises(ViMLError, match="chunk_size=0"):
        retrieval_ranks(np.ones((2, 2)), np.ones((2, 2)), chunk_size=0)
