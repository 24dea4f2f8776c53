"""The rows of an index, block by block: what was added at one time lies together and is never changed."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from viml_hf.errors import ViMLError
from viml_hf.retrieval.index_tracks import StoredTracks, Track, concat_tables, tracks_to_table, window_counts

ROWS_AT_A_TIME = 65_536


@dataclass(frozen=True, eq=False)
class Block:
    """Rows of tracks, and which of the tracks have been deleted since.

    Args:
        embeddings: `(rows, dim)` float16, L2-normalised, track after track.
        sketch: `(rows, dim)` int8: each row divided by its scale and rounded, for a first look.
        scales: `(rows,)` bfloat16.
        corrections: `(rows, 2)` float32, for hubs: see [`MusicIndex`].
        tracks: The tracks of these rows; those with an error have none.
        deleted: `(tracks,)` bool.
        sketch_error: The longest difference of a row and its sketch.
        source: Where it is saved.
        files: Checksums of the files that it is saved in.
        inverted: The faiss index of its rows, once there is one: see `approximate`.
    """

    embeddings: np.ndarray
    sketch: torch.Tensor
    scales: torch.Tensor
    corrections: np.ndarray | None
    tracks: Sequence[Track]
    deleted: np.ndarray
    sketch_error: float
    source: Path | None = None
    files: dict[str, str] = field(default_factory=dict)
    inverted: Any = None

    @cached_property
    def counts(self) -> np.ndarray:
        """How many rows each track has, deleted or not."""
        return window_counts(self.tracks)

    @cached_property
    def first_rows(self) -> np.ndarray:
        """The row at which each track begins, and the end of the last one: `(tracks + 1,)`."""
        return np.concatenate([[0], np.cumsum(self.counts)])

    @property
    def live(self) -> np.ndarray:
        """Positions of the tracks that are not deleted."""
        return np.flatnonzero(~self.deleted)

    @property
    def live_rows(self) -> int:
        """How many rows the tracks have that are not deleted."""
        return int(self.counts[~self.deleted].sum())

    def row_mask(self, tracks: np.ndarray) -> np.ndarray:
        """The rows `(rows,)` bool of a mask of tracks."""
        return np.repeat(tracks, self.counts)


def make_block(embeddings: np.ndarray, tracks: Sequence[Track], corrections: np.ndarray | None = None) -> Block:
    """The block of embeddings `(rows, dim)`, rounded to float16."""
    counts = window_counts(tracks)
    if embeddings.ndim != 2 or len(embeddings) != counts.sum():
        raise ViMLError(f"Embeddings {embeddings.shape} for {counts.sum()} windows: give one row for each window")
    with np.errstate(over="ignore"):
        rows = np.ascontiguousarray(embeddings, dtype=np.float16)
    if corrections is not None:
        corrections = np.ascontiguousarray(corrections, dtype=np.float32)
    sketch = torch.empty(rows.shape, dtype=torch.int8)
    scales, error = torch.empty(len(rows), dtype=torch.bfloat16), 0.0
    for first in range(0, len(rows), ROWS_AT_A_TIME):
        part = slice(first, first + ROWS_AT_A_TIME)
        sketch[part], scales[part] = _sketch(torch.from_numpy(rows[part]).float())
        error = max(error, longest_difference(rows[part], sketch[part], scales[part]))
    return Block(rows, sketch, scales, corrections, tracks, np.zeros(len(tracks), bool), error)


def _sketch(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows as int8 and the scale of each."""
    # Rounding a scale to bfloat16 may make it smaller by 1 part in 256: then the largest number would be beyond 127.
    scales = (rows.abs().amax(1).clamp(min=1e-6) / 126).bfloat16()
    return (rows / scales.float()[:, None]).round().nan_to_num(0).clamp(-127, 127).to(torch.int8), scales


def longest_difference(rows: np.ndarray, sketch: torch.Tensor, scales: torch.Tensor) -> float:
    """The longest difference of a row `(rows, dim)` and its sketch; NaN where a row has one."""
    return float((torch.from_numpy(rows).float() - sketch.float() * scales.float()[:, None]).norm(dim=1).max())


def merged(blocks: Sequence[Block]) -> Block:
    """One block of the tracks that are not deleted."""
    keeps = [block.row_mask(~block.deleted) for block in blocks]
    corrections = None
    if blocks[0].corrections is not None:
        corrections = np.concatenate([b.corrections[k] for b, k in zip(blocks, keeps, strict=True)])  # type: ignore[index]
    tracks: Sequence[Track]
    if all(isinstance(block.tracks, StoredTracks) for block in blocks):
        root = blocks[0].tracks.root  # type: ignore[attr-defined]
        tables = [tracks_to_table(block.tracks).take(block.live) for block in blocks]
        tracks = StoredTracks(concat_tables(tables), root)
    else:
        tracks = tuple(block.tracks[position] for block in blocks for position in block.live)
    masks = [torch.from_numpy(keep) for keep in keeps]
    return Block(
        np.concatenate([b.embeddings[k] for b, k in zip(blocks, keeps, strict=True)]),
        torch.cat([b.sketch[m] for b, m in zip(blocks, masks, strict=True)]),
        torch.cat([b.scales[m] for b, m in zip(blocks, masks, strict=True)]),
        corrections,
        tracks,
        np.zeros(len(tracks), bool),
        max(block.sketch_error for block in blocks),
    )


def without(block: Block, positions: np.ndarray) -> Block:
    """A block of which more tracks are deleted."""
    deleted = block.deleted.copy()
    deleted[positions] = True
    return replace(block, deleted=deleted)
