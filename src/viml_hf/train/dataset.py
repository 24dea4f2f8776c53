"""Training and evaluation items of a store: row ranges only, which the collator gathers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from viml_hf.errors import ViMLError
from viml_hf.features.store import Store
from viml_hf.features.store_format import RowRange, StoreItem


@dataclass(frozen=True)
class StoreExample:
    """One item of a [`StoreDataset`]. No dict: of a dict, `Trainer` removes what is no argument of the model.

    `epoch` is `None` in evaluation: no dropout, and the middle clip. `weight` is `None` where all items count the same.
    """

    id: str
    epoch: int | None
    video: RowRange
    audio: RowRange
    text: RowRange
    weight: float | None


class StoreDataset(Dataset):
    """Items of a store with both video and audio, for `transformers.Trainer`.

    In training every item carries the epoch, from which the collator draws its text dropout and clips. The epoch is
    set by Trainer (through accelerate), except after a mid-epoch resume and in data-parallel training: there pass
    `callbacks=[EpochCallback(dataset)]`. An item read before any epoch was set is an error, never a silent repeat.

    Args:
        store: Where the features are.
        items: Items to use; by default all with video and audio.
        training: Whether the collator may drop texts and draw clips.

    Raises:
        ViMLError: There is no usable item.
    """

    def __init__(self, store: Store, items: Sequence[StoreItem] | None = None, *, training: bool = True):
        self.items = list(store.usable() if items is None else items)
        if not self.items:
            raise ViMLError(
                f"{store.folder}: no item has both video and audio features; see its errors in items.parquet"
            )
        self.training = training
        weighed = self.items if training else []
        weights = [checked_weight(one.fields.get("weight", 1.0), f"{store.folder}: {one.id}") for one in weighed]
        self.weights = weights if set(weights) - {1.0} else None
        # Shared memory: loader workers that outlive an epoch see the next one.
        self._epoch = torch.full((1,), -1, dtype=torch.long).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch, from 0, the next items belong to."""
        self._epoch[0] = epoch

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> StoreExample:
        item, epoch = self.items[index], None
        if self.training:
            epoch = int(self._epoch)
            if epoch < 0:
                raise ViMLError(
                    "The training dataset was not told its epoch: pass callbacks=[EpochCallback(dataset)] to Trainer, "
                    "or call dataset.set_epoch(epoch) before each epoch of your own loop."
                )
        weight = None if self.weights is None else self.weights[index]
        return StoreExample(item.id, epoch, item.video, item.audio, item.text, weight)


def checked_weight(weight: Any, of: str) -> float:
    """The weight of an item in the loss; what is no number above 0 is an error."""
    if isinstance(weight, np.generic | torch.Tensor):
        weight = weight.item()
    if not isinstance(weight, int | float) or isinstance(weight, bool) or not 0 < weight < float("inf"):
        raise ViMLError(f"{of} has the weight {weight!r}; give a number above 0, 1 as usual")
    return float(weight)
