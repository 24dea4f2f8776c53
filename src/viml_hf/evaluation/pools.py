"""Pools: which tracks each query is ranked against.

The paper ranks a query among N tracks that hold its one match (N = 2000 in table 1, 500 in table 2), but does not say
how the pools are drawn. Here they are disjoint, and the ranks of all queries are taken together.
"""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass

import numpy as np

from viml_hf.errors import ViMLError


@dataclass(frozen=True, eq=False)
class Pool:
    """Queries, and the tracks that each of them is ranked among.

    Query `i` and track `i` are the video and the music of item `i`. A track that is not among the queries is a
    distractor only. Indices are distinct, and every query is among the tracks; else a `ViMLError` is raised.
    """

    queries: np.ndarray  # item indices, int `(q,)`
    tracks: np.ndarray  # item indices, int `(t,)`

    def __post_init__(self) -> None:
        for name, indices in (("queries", self.queries), ("tracks", self.tracks)):
            values = np.asarray(indices)
            if values.ndim != 1 or values.dtype.kind not in "iu" or (values < 0).any():
                raise ViMLError(
                    f"Pool.{name}: expected a 1-d array of indices 0, 1, …, got {values.dtype} {values.shape}"
                )
            distinct, counts = np.unique(values, return_counts=True)
            if (counts > 1).any():
                raise ViMLError(f"Pool.{name}: index {distinct[counts > 1][0]} appears twice; list each item once")
        missing = np.setdiff1d(self.queries, self.tracks)
        if missing.size:
            raise ViMLError(f"Pool: query {missing[0]} has no match in the pool; add {missing[0]} to its tracks")


def make_pools(n: int, pool_size: int, *, seed: int) -> list[Pool]:
    """Deal items 0 … n-1 into pools of `pool_size` tracks after a seeded shuffle; every item is a query once.

    Pools are disjoint, except the last: where `pool_size` does not divide `n`, the remaining queries are joined by
    tracks drawn at random from the other pools, as distractors only. A smaller last pool would make its queries
    easier, and leaving them out would waste test data.

    Example:
        >>> [(pool.queries.size, pool.tracks.size) for pool in make_pools(7, 3, seed=0)]
        [(3, 3), (3, 3), (1, 3)]
    """
    if not 2 <= pool_size <= n:
        raise ViMLError(f"pool_size={pool_size} for {n} items; accepted: 2 to {n} (the number of items)")
    rng = np.random.default_rng(seed)
    order = rng.permutation(n)
    pools = [Pool(chunk, chunk) for chunk in np.split(order, range(pool_size, n, pool_size))]
    queries = pools[-1].queries
    if queries.size < pool_size:
        distractors = rng.choice(order[: -queries.size], size=pool_size - queries.size, replace=False)
        pools[-1] = Pool(queries, np.concatenate([queries, distractors]))
    return pools


def pools_from_groups(groups: Iterable[Hashable]) -> list[Pool]:
    """One pool per group, in the order in which groups first appear, from the group of each item.

    For a published assignment to pools, or for ranking within a genre. A group of one item is an error: without
    competition it would rank first and flatter the result.

    Example:
        >>> [pool.queries.tolist() for pool in pools_from_groups(["jazz", "rock", "rock", "jazz"])]
        [[0, 3], [1, 2]]
    """
    members: dict[Hashable, list[int]] = {}
    for index, group in enumerate(groups):
        members.setdefault(group, []).append(index)
    for group, indices in members.items():
        if len(indices) == 1:
            raise ViMLError(
                f"group {group!r} has one item only (item {indices[0]}), which would always rank first; "
                "accepted: groups of 2 or more; drop it or merge it with another group"
            )
    return [Pool(np.array(indices), np.array(indices)) for indices in members.values()]
