"""Rows of a store as padded batches, and which rows of an item a clip is."""

from collections.abc import Sequence

import torch
from torch import Tensor

from viml_hf.features.store import Store
from viml_hf.features.store_format import RowRange


def clip_room(video: RowRange, audio: RowRange, length: int) -> int:
    """How many rows a clip of `length` rows can move inside both; where it is below 0, one of them is shorter.

    Video and music are two streams of one file. Where their lengths differ, the clip is inside both.
    """
    return min(len(video), len(audio)) - length


def clip_rows(rows: RowRange, first: int, length: int) -> RowRange:
    """Rows `first … first + length`; all of them where there are not so many."""
    if len(rows) <= length:
        return rows
    first = max(0, first)
    return RowRange(rows.shard, rows.start + first, rows.start + first + length)


def gather(
    store: Store, modality: str, ranges: Sequence[RowRange], pad_to_multiple_of: int = 1
) -> tuple[Tensor, Tensor]:
    """Padded rows `(items, time, width)` float32 of one modality, and their mask `(items, time)`."""
    longest = max(1, *(len(rows) for rows in ranges)) if ranges else 1
    longest += -longest % pad_to_multiple_of
    features = torch.zeros(len(ranges), longest, store.spec.widths[modality], dtype=torch.float16)
    mask = torch.zeros(len(ranges), longest, dtype=torch.long)
    for index, rows in enumerate(ranges):
        if len(rows):
            features[index, : len(rows)] = store.rows(modality, rows)
            mask[index, : len(rows)] = 1
    return features.float(), mask
