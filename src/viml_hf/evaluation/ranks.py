"""The rank of each query's own music, by cosine similarity, exactly and in bounded memory."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from viml_hf.errors import ViMLError
from viml_hf.evaluation.pools import Pool

# Pairs compared exactly at a time: at 256 dimensions, 8 MiB per operand.
_PAIRS_PER_BLOCK = 4096


def retrieval_ranks(
    query_embeds: Any,
    audio_embeds: Any,
    *,
    pools: Sequence[Pool] | None = None,
    corrections: np.ndarray | None = None,
    chunk_size: int = 1024,
) -> np.ndarray:
    """Rank audio `i` for query `i` among the tracks of its pool (the protocol of the paper's tables 1 and 2).

    The rank is 1 + the number of *other* tracks whose cosine similarity to the query is at least the match's: ties
    count against the model, so a model that gives everything the same embedding ranks last. Rows are L2-normalised
    and compared in float64. Equal rows tie exactly, and the ranks do not depend on `chunk_size`, bit for bit.

    Args:
        query_embeds: `(n, dim)`, array or CPU tensor; rows of any length except zero.
        audio_embeds: `(n, dim)`; row `i` is the one match of query `i`.
        pools: Pools in which each of the `n` queries appears once; by default all `n` tracks are one pool.
        corrections: `(n,)`, taken from the similarities of each track, as those of a [`QueryBank`] for hubs.
        chunk_size: Queries and tracks per block. Memory beyond the float64 inputs grows with its square, not with `n²`.

    Returns:
        Ranks from 1, int64 `(n,)`, in the order of the queries.

    Example:
        >>> retrieval_ranks([[1.0, 0.0], [0.0, 1.0]], [[2.0, 1.0], [3.0, 0.0]])
        array([2, 2])
    """
    if chunk_size < 1:
        raise ViMLError(f"chunk_size={chunk_size}; accepted: 1 or more")
    queries = unit_rows("query_embeds", query_embeds)
    audio = unit_rows("audio_embeds", audio_embeds)
    if queries.shape != audio.shape:
        raise ViMLError(
            f"query_embeds {queries.shape} and audio_embeds {audio.shape} differ; accepted: the same shape, "
            "audio row i being the match of query row i"
        )
    if pools is None:
        pools = [Pool(np.arange(len(queries)), np.arange(len(queries)))]
    else:
        _check_cover(pools, len(queries))
    taken = checked_corrections(corrections, len(audio))
    match_scores = _pair_scores(queries, audio) - taken
    ranks = np.zeros(len(queries), dtype=np.int64)
    for pool in pools:
        for rows in chunks(pool.queries, chunk_size):
            for columns in chunks(pool.tracks, chunk_size):
                # The match is among its pool's tracks and counts itself: the sum over the pool is the rank.
                ranks[rows] += _count_at_least(queries[rows], audio[columns], taken[columns], match_scores[rows])
    return ranks


def unit_rows(name: str, embeds: Any) -> np.ndarray:
    """Embeddings `(n, dim)` as L2-normalised float64 rows; an error calls them `name`."""
    try:
        rows = np.asarray(embeds, dtype=np.float64, order="C")
    except (TypeError, ValueError, RuntimeError) as error:
        raise ViMLError(
            f"{name}: not an array ({error}); accepted: (n, dim) numbers; from torch, x.detach().float().cpu()"
        ) from error
    if rows.ndim != 2 or 0 in rows.shape:
        raise ViMLError(f"{name}: shape {rows.shape}; accepted: (n, dim), neither of them 0")
    finite = np.isfinite(rows).all(axis=1)
    if not finite.all():
        raise ViMLError(
            f"{name}: row {np.argmin(finite)} holds NaN or infinity; accepted: finite numbers; embed that item again"
        )
    largest = np.abs(rows).max(axis=1, keepdims=True)
    if not largest.all():
        raise ViMLError(f"{name}: row {np.argmin(largest)} is all zeros and has no direction; embed that item again")
    # Squares of very large or small numbers leave the range of float64: scale by the largest first.
    scaled = rows / largest
    return scaled / np.sqrt(_pair_scores(scaled, scaled))[:, None]


def checked_corrections(corrections: Any, tracks: int) -> np.ndarray:
    """What is taken from the similarities of each track, `(tracks,)` float64; zeros for `None`."""
    taken = np.zeros(tracks) if corrections is None else np.asarray(corrections, np.float64)
    if taken.shape != (tracks,) or not np.isfinite(taken).all():
        raise ViMLError(f"corrections of shape {taken.shape}; accepted: one finite number for each of {tracks} tracks")
    return taken


def _count_at_least(queries: np.ndarray, tracks: np.ndarray, taken: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Count, per query `(q, dim)`, the tracks `(t, dim)` whose pair score, less what is taken from it `(t,)`, is at
    least the query's threshold `(q,)`.

    A matrix product is fast, but its last bits depend on the shapes and on the column: equal tracks may differ. It
    only decides pairs further from the threshold than rounding can reach; `_pair_scores` compares the others.
    """
    margins = queries @ tracks.T - taken - thresholds[:, None]
    # For unit rows, either way of summing is off by at most dim * eps / 2, a margin by twice that; doubled for safety.
    tolerance = 2 * (queries.shape[1] + 4) * np.finfo(np.float64).eps
    counts = np.count_nonzero(margins > tolerance, axis=1)
    rows, columns = np.nonzero(np.abs(margins) <= tolerance)
    for start in range(0, len(rows), _PAIRS_PER_BLOCK):
        row, column = rows[start : start + _PAIRS_PER_BLOCK], columns[start : start + _PAIRS_PER_BLOCK]
        reached = _pair_scores(queries[row], tracks[column]) - taken[column] >= thresholds[row]
        counts += np.bincount(row[reached], minlength=len(counts))
    return counts


def _pair_scores(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Dot product of row `i` with row `i`, `(m, dim)` -> `(m,)`: the same bits for the same two rows in any company."""
    return (left * right).sum(axis=1)


def _check_cover(pools: Sequence[Pool], n: int) -> None:
    """Refuses pools whose queries are not 0 … n-1, each once, or whose tracks lie outside."""
    counts = np.zeros(n, dtype=np.int64)
    for pool in pools:
        # A pool's queries are among its tracks.
        largest = np.max(pool.tracks, initial=0)
        if largest >= n:
            raise ViMLError(
                f"pools: index {largest} for {n} embeddings; accepted: 0 to {n - 1}; make the pools with n={n}"
            )
        counts[pool.queries] += 1
    if (counts != 1).any():
        query = int(np.argmax(counts != 1))
        raise ViMLError(
            f"pools: query {query} appears {counts[query]} times; accepted: each of the {n} queries exactly once"
        )


def chunks(indices: np.ndarray, size: int) -> list[np.ndarray]:
    """The indices, so many at a time."""
    return [indices[start : start + size] for start in range(0, len(indices), size)]
