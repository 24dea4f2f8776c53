"""Rows as padded batches, and which rows of an item a clip is."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from viml_hf.features.store import Store
from viml_hf.features.store_format import RowRange


def clip_rows(rows: Any, first: int, length: int) -> Any:
    """Rows `first … first + length` of a range, a tensor or a list; all of them where there are not so many."""
    first = max(0, first)
    return rows if len(rows) <= length else rows[first : first + length]


def gather(
    store: Store, modality: str, ranges: Sequence[RowRange], pad_to_multiple_of: int = 1
) -> tuple[Tensor, Tensor]:
    """Padded rows `(items, time, width)` float32 of one modality, and their mask `(items, time)`."""
    rows = [store.rows(modality, one) for one in ranges]
    return pad_rows(rows, store.spec.widths[modality], pad_to_multiple_of)


def pad_rows(rows: Sequence[Tensor], width: int, pad_to_multiple_of: int = 1) -> tuple[Tensor, Tensor]:
    """Rows `(time, width)` of several items as `(items, longest time, width)` float32, and their mask `(items, time)`.

    Example:
        >>> features, mask = pad_rows([torch.ones(2, 1), torch.ones(1, 1)], width=1)
        >>> features[:, :, 0].tolist(), mask.tolist()
        ([[1.0, 1.0], [1.0, 0.0]], [[1, 1], [1, 0]])
    """
    longest = max(1, *(len(one) for one in rows)) if rows else 1
    longest += -longest % pad_to_multiple_of
    features = torch.zeros(len(rows), longest, width)
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for index, one in enumerate(rows):
        if len(one):
            features[index, : len(one)] = one
            mask[index, : len(one)] = 1
    return features, mask
