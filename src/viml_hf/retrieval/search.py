"""Exact search: a first look at all rows, block by block, then the exact scores of those that can be among the best."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numkong
import numpy as np

from viml_hf.errors import ViMLError
from viml_hf.retrieval.index_blocks import Block

FIRST_ROWS, MANY_ROWS, BATCH_ROWS = 4096, 262_144, 16_384  # looked at together
ROWS_IN_CACHE = 1024


@dataclass(frozen=True)
class Hit:
    """A track that was found.

    Args:
        track: Its position in the index's tracks.
        window: Which of its windows is nearest, from 0.
        score: The similarity of that window, corrected for hubs where asked for.
        similarity: Cosine similarity of the query and that window.
    """

    track: int
    window: int
    score: float
    similarity: float


@dataclass
class Candidates:
    """What was found for one query: rows, counted over all blocks, that may be among the best, and their scores."""

    rows: np.ndarray
    scores: np.ndarray
    floor: float = -np.inf  # the k-th best track reaches this in the first look


class Layout:
    """Where the blocks' rows and tracks lie when they are counted from the first block to the last."""

    def __init__(self, blocks: Sequence[Block]):
        self.blocks = blocks
        self.starts = np.cumsum([0, *(len(block.embeddings) for block in blocks)])
        bounds = [block.first_rows + start for block, start in zip(blocks, self.starts, strict=False)]
        self.first_rows = np.concatenate([np.zeros(0, np.int64), *(one[:-1] for one in bounds)])
        self.ends = np.concatenate([np.zeros(0, np.int64), *(one[1:] for one in bounds)])
        self.live = np.flatnonzero(~np.concatenate([np.zeros(0, bool), *(block.deleted for block in blocks)]))
        # For each track, deleted ones too, its position among those that are not.
        self.positions = np.cumsum(~np.concatenate([np.zeros(0, bool), *(block.deleted for block in blocks)])) - 1

    def tracks_of(self, rows: np.ndarray) -> np.ndarray:
        """The track of each row. One without rows begins where the next one does, and the later one is found."""
        return np.searchsorted(self.first_rows, rows, "right") - 1

    def rows_of(self, tracks: np.ndarray) -> np.ndarray:
        """All rows of tracks."""
        ranges = zip(self.first_rows[tracks], self.ends[tracks], strict=True)
        return np.concatenate([np.zeros(0, np.int64), *(np.arange(first, stop) for first, stop in ranges)])


def search_blocks(
    blocks: Sequence[Block],
    queries: np.ndarray,
    k: int,
    kept: Sequence[np.ndarray],
    columns: np.ndarray | None = None,
) -> list[list[Hit]]:
    """The k nearest tracks of each query `(queries, dim)`, each once with its best window; ties in index order.

    Args:
        blocks: The index.
        queries: Float32, L2-normalised.
        k: How many tracks.
        kept: Per block which tracks `(tracks,)` bool are searched.
        columns: Per query the column of the corrections; `None` for none.
    """
    if not len(queries):
        return []
    layout = Layout(blocks)
    best = [Candidates(np.zeros(0, np.int64), np.zeros(0, np.float32)) for _ in queries]
    given = np.ascontiguousarray(queries, np.float32)
    # A row whose first score is this far below another row's is not above it.
    margin = 2 * _first_error(blocks, given)
    for block, start, tracks in zip(blocks, layout.starts, kept, strict=False):
        left_out = None if tracks.all() else ~block.row_mask(tracks)
        for rows in _chunks(block, tracks, len(queries)):
            scores = _first_look(block, rows, given)
            if columns is not None and block.corrections is not None:
                scores -= block.corrections[rows][:, columns].T
            if isinstance(rows, slice) and left_out is not None:
                scores[:, left_out[rows]] = -np.inf
            numbers = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else rows
            _keep_best(best, scores, numbers + start, layout, k, margin)
    found = []
    for number, one in enumerate(best):
        column = None if columns is None else int(columns[number])
        found.append(rank_exactly(layout, queries[number], one, k, column, margin))
    return found


def _chunks(block: Block, tracks: np.ndarray, queries: int) -> "list[slice | np.ndarray]":
    """The rows to look at, as slices, or as row numbers where few are left; small ones first, for a first floor."""
    size = MANY_ROWS if queries == 1 else BATCH_ROWS
    wanted = int(block.counts[tracks].sum())
    if 2 * wanted >= len(block.embeddings):
        bounds = [0]
        while bounds[-1] < len(block.embeddings):
            # The first few rows give a floor: then fewer of the others have to be kept.
            bounds.append(min(bounds[-1] + min(max(FIRST_ROWS, 3 * bounds[-1]), size), len(block.embeddings)))
        return [slice(*part) for part in pairwise(bounds)]
    positions = np.flatnonzero(tracks)
    counts = block.counts[positions]
    offsets = np.arange(wanted) - np.repeat(np.cumsum(counts) - counts, counts)
    numbers = np.repeat(block.first_rows[positions], counts) + offsets
    return [numbers[first : first + 4 * FIRST_ROWS] for first in range(0, wanted, 4 * FIRST_ROWS)]


def _eight_bits(queries: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Queries as int8, the scale of each, and the longest difference of a query and what they stand for."""
    scales = np.abs(queries).max(1, keepdims=True).clip(1e-6) / 127
    rounded = (queries / scales).round().astype(np.int8)
    return rounded, scales, float(np.linalg.norm(queries - rounded * scales, axis=1).max())


def _first_error(blocks: Sequence[Block], queries: np.ndarray) -> float:
    """How far a similarity of the first look may be off."""
    longest = float(np.linalg.norm(queries, axis=1).max())
    sketch_error = max((block.sketch_error for block in blocks), default=0.0)
    return 1.001 * (sketch_error * longest + (1 + sketch_error) * _eight_bits(queries)[2]) + 1e-5


def _first_look(block: Block, rows: "slice | np.ndarray", queries: np.ndarray) -> np.ndarray:
    """Similarities `(queries, rows)` float32 of queries and sketches, both of 8 bits."""
    rounded, query_scales, _ = _eight_bits(queries)
    sketch = block.sketch.numpy()[rows]  # numpy gathers rows several times faster than torch
    found = np.empty((len(queries), len(sketch)), np.float32)
    if len(queries) == 1:
        numkong.cdist(rounded, sketch, metric="dot", out=found, out_dtype="float32")
    else:
        packed = numkong.dots_pack(rounded)
        for first in range(0, len(sketch), ROWS_IN_CACHE):
            part = slice(first, first + ROWS_IN_CACHE)
            found[:, part] = np.asarray(numkong.dots_packed(sketch[part], packed)).T
    found *= query_scales
    found *= block.scales[rows].float().numpy()
    return found


def _keep_best(
    best: list[Candidates], scores: np.ndarray, rows: np.ndarray, layout: Layout, k: int, margin: float
) -> None:
    """Keep the rows whose scores `(queries, rows)` are not too far below the k-th best track's."""
    floors = np.array([[one.floor - margin] for one in best], np.float32)
    # What is no number is kept, to be found damaged.
    flat = np.flatnonzero(~(scores < floors))  # much faster than `nonzero` of two dimensions
    flat = flat[scores.ravel()[flat] != -np.inf]
    which, where = np.divmod(flat, scores.shape[1])
    for number in np.unique(which):
        one, chosen = best[number], where[which == number]
        all_rows = np.concatenate([one.rows, rows[chosen]])
        all_scores = np.concatenate([one.scores, scores[number, chosen]])
        begins = np.flatnonzero(np.diff(layout.tracks_of(all_rows), prepend=-1))
        if len(begins) >= k:
            reached = np.fmax.reduceat(all_scores, begins)
            one.floor = max(one.floor, float(np.partition(reached, -k)[-k]))
            above = ~(all_scores < one.floor - margin)
            all_rows, all_scores = all_rows[above], all_scores[above]
        one.rows, one.scores = all_rows, all_scores


def rank_exactly(
    layout: Layout, query: np.ndarray, best: Candidates, k: int, column: int | None, margin: float = np.inf
) -> list[Hit]:
    """The k best tracks of rows in ascending order, by their exact scores.

    Raises:
        ViMLError: A row is damaged: its score is not within the margin of the one that was found before.
    """
    near = _scores(layout, query, best.rows, column, np.float32)[1].astype(np.float32)
    if not (np.abs(near - best.scores) <= margin).all():
        raise ViMLError("the index is damaged (embeddings that differ from their sketch); `viml verify` says where")
    few = Candidates(best.rows[:0], best.scores[:0])
    # Twice the error of a float32 product, and more.
    _keep_best([few], near[None], best.rows, layout, k, 4e-7 * len(query) * float(np.linalg.norm(query)) + 1e-6)
    similarities, scores = _scores(layout, query, few.rows, column, np.float64)
    tracks = layout.tracks_of(few.rows)
    order = np.lexsort((few.rows, -scores))
    _, nearest = np.unique(tracks[order], return_index=True)
    return [
        Hit(
            int(layout.positions[tracks[one]]),
            int(few.rows[one] - layout.first_rows[tracks[one]]),
            scores[one].item(),
            similarities[one].item(),
        )
        for one in order[np.sort(nearest)][:k]
    ]


def _scores(
    layout: Layout, query: np.ndarray, rows: np.ndarray, column: int | None, dtype: type
) -> tuple[np.ndarray, np.ndarray]:
    """Similarities and scores `(rows,)` of rows in ascending order.

    In float64 each row is computed alone, so that equal rows have equal scores to the last bit.

    Raises:
        ViMLError: A row is not of length 1: it is damaged.
    """
    similarities, taken = np.empty(len(rows)), np.zeros(len(rows))
    for block, start, stop in zip(layout.blocks, layout.starts, layout.starts[1:], strict=False):
        begin, end = np.searchsorted(rows, [start, stop]).tolist()
        for first in range(begin, end, ROWS_IN_CACHE):
            part = slice(first, min(first + ROWS_IN_CACHE, end))
            numbers = rows[part] - start
            chosen = block.embeddings[numbers].astype(dtype)
            if not (np.abs(np.einsum("nd,nd->n", chosen, chosen) - 1) < 0.01).all():
                raise ViMLError("the index is damaged (embeddings that are not of length 1); `viml verify` says where")
            asked: np.ndarray = query.astype(dtype)
            similarities[part] = chosen @ asked if dtype is np.float32 else (chosen * asked).sum(1)
            if column is not None and block.corrections is not None:
                taken[part] = block.corrections[numbers, column]
    return similarities, similarities - taken
