import numpy as np
import pytest

from viml_hf.errors import ViMLError
from viml_hf.evaluation.pools import Pool, make_pools, pools_from_groups


@pytest.mark.parametrize(("n", "pool_size"), [(2, 2), (10, 5), (11, 5), (14, 5), (9, 9), (9, 8), (1000, 300)])
def test_every_query_once_among_exactly_n_tracks(n, pool_size):
    pools = make_pools(n, pool_size, seed=0)
    assert sorted(np.concatenate([pool.queries for pool in pools])) == list(range(n))
    assert len(pools) == -(-n // pool_size)
    for pool in pools:
        assert len(set(pool.tracks)) == pool.tracks.size == pool_size
        assert set(pool.queries) <= set(pool.tracks) <= set(range(n))
    full = pools[: n // pool_size]
    assert len({track for pool in full for track in pool.tracks}) == pool_size * len(full)  # disjoint


def test_the_last_partial_pool_is_filled_with_distractors_from_the_others():
    *full, last = make_pools(11, 5, seed=1)
    assert last.queries.size == 1
    distractors = set(last.tracks) - set(last.queries)
    assert len(distractors) == 4
    assert distractors <= {track for pool in full for track in pool.queries}


def test_same_seed_same_pools_and_another_seed_others():
    def flat(seed):
        return np.concatenate([pool.tracks for pool in make_pools(103, 20, seed=seed)]).tolist()

    assert flat(5) == flat(5)
    assert flat(5) != flat(6)
    assert flat(5)[:103] != list(range(103))


@pytest.mark.parametrize("pool_size", [1, 0, -3, 11])
def test_pool_sizes_that_cannot_be_are_refused(pool_size):
    with pytest.raises(ViMLError, match=f"pool_size={pool_size} for 10 items; accepted: 2 to 10"):
        make_pools(10, pool_size, seed=0)


def test_groups_become_pools_in_order_of_appearance():
    pools = pools_from_groups(["b", "a", "b", "a", "a"])
    assert [pool.queries.tolist() for pool in pools] == [[0, 2], [1, 3, 4]]
    assert [pool.tracks.tolist() for pool in pools] == [[0, 2], [1, 3, 4]]
    assert [pool.queries.tolist() for pool in pools_from_groups(np.array([1, 0, 0, 1]))] == [[0, 3], [1, 2]]


def test_a_group_of_one_is_refused():
    with pytest.raises(ViMLError, match="group 'polka' has one item only"):
        pools_from_groups(["jazz", "polka", "jazz"])


@pytest.mark.parametrize(
    ("queries", "tracks", "message"),
    [
        ([0, 1], [0, 2], "query 1 has no match"),
        ([0], [0, 2, 2], "Pool.tracks: index 2 appears twice"),
        ([0, 0], [0, 1], "Pool.queries: index 0 appears twice"),
        ([0], [0, -1], "Pool.tracks"),
        ([0.0], [0.0, 1.0], "Pool.queries"),
    ],
)
def test_a_pool_checks_its_indices(queries, tracks, message):
    with pytest.raises(ViMLError, match=message):
        Pool(np.array(queries), np.array(tracks))
