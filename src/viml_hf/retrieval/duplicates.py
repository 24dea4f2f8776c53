"""Tracks that are the same music: of nearly one length, with nearly one embedding."""

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from viml_hf.retrieval.index import MusicIndex
from viml_hf.retrieval.index_blocks import Block

COLUMN = "duplicate_of"  # the name of the first track of a group; that one has none
SECONDS = 0.5  # by which the lengths of two files of the same music differ at most
SIMILARITY = 0.95  # cosine of their mean embeddings, at least: lossy copies were measured at 0.96 and more
_TRACKS_AT_A_TIME = 512


def with_duplicates(added: MusicIndex, before: MusicIndex | None = None, gone: Collection[int] = ()) -> MusicIndex:
    """An index of new tracks in which each says of which earlier one it is a near-duplicate.

    Args:
        added: The new tracks, in one block.
        before: The index that they are to be added to.
        gone: Positions of the tracks of that one that it will lose.
    """
    indexes = [added] if before is None else [before.updated(removed=gone), added]
    names, firsts, durations, vectors = [], [], [], []
    for index in indexes:
        table = index.table
        usable = table["windows"].to_numpy() > 0
        names += np.array(table["track"].to_pylist(), object)[usable].tolist()
        known = (
            table[COLUMN].to_pylist() if COLUMN in table.column_names and index is not added else [None] * len(table)
        )
        firsts += np.array(known, object)[usable].tolist()
        durations.append(table["duration"].to_numpy()[usable])
        vectors += [mean_embeddings(block) for block in index.blocks]
    begin = len(names) - len(durations[-1])
    earlier = earliest_same(np.concatenate(vectors), np.concatenate(durations), begin)
    for at in range(begin, len(names)):
        if earlier[at - begin] >= 0:
            same = int(earlier[at - begin])
            firsts[at] = firsts[same] or names[same]
    found = iter(firsts[begin:])
    (block,) = added.blocks
    tracks = []
    for track in block.tracks:
        fields = {name: value for name, value in track.fields.items() if name != COLUMN}
        first = next(found) if track.windows else None
        tracks.append(replace(track, fields=fields | ({COLUMN: first} if first is not None else {})))
    blocks = [replace(block, tracks=tuple(tracks))]
    return MusicIndex.of_blocks(blocks, added.model, added.fingerprint, added.encoders, added.width)


def mean_embeddings(block: Block) -> np.ndarray:
    """`(tracks, dim)` float32, L2-normalised, of the tracks of a block that have windows and are not deleted."""
    kept = np.flatnonzero(~block.deleted & (block.counts > 0))
    found = np.empty((len(kept), block.embeddings.shape[1]), np.float32)
    for place, at in enumerate(kept.tolist()):
        found[place] = block.embeddings[block.first_rows[at] : block.first_rows[at + 1]].mean(0, dtype=np.float32)
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-9)


def earliest_same(vectors: np.ndarray, durations: np.ndarray, begin: int = 0) -> np.ndarray:
    """The position of the earliest track that is the same music, of each from `begin` on; -1 where there is none.

    Only tracks of nearly the same length are compared.

    Example:
        >>> vectors = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
        >>> earliest_same(vectors, np.array([60.0, 60.0, 60.2, 90.0]))
        array([-1, -1,  0, -1])
    """
    order = np.argsort(durations, kind="stable")
    lengths = durations[order]
    new = order[order >= begin]
    found = np.full(len(durations) - begin, -1)
    for part in (new[at : at + _TRACKS_AT_A_TIME] for at in range(0, len(new), _TRACKS_AT_A_TIME)):
        first = np.searchsorted(lengths, durations[part[0]] - SECONDS)
        stop = np.searchsorted(lengths, durations[part[-1]] + SECONDS, "right")
        others = order[first:stop]
        same = vectors[part] @ vectors[others].T >= SIMILARITY
        same &= np.abs(durations[part][:, None] - durations[others]) <= SECONDS
        same &= others < part[:, None]
        earliest = np.where(same, others, len(durations)).min(1)
        found[part - begin] = np.where(earliest < len(durations), earliest, -1)
    return found
