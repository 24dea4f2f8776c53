"""Which items of a store are learned from, evaluated on while choosing, and reported: by their field `split`."""

from collections.abc import Sequence
from dataclasses import asdict

from viml_hf.features.checksums import digest
from viml_hf.features.store import Store
from viml_hf.features.store_format import StoreItem

# Values of the field `split`, by what the items are for.
SPLITS = {"train": ("train",), "validation": ("validation", "val", "eval"), "test": ("test",)}


def split_items(store: Store, *, to_choose: bool = False) -> tuple[list[StoreItem], list[StoreItem]]:
    """Training and evaluation items, by their field `split`.

    Evaluated on is `validation` (or `val`, `eval`), else `test`, which is never trained on. Where nothing is said to be
    `train`, all else is, and without anything to evaluate on every tenth item is held out. With `to_choose`, what is
    evaluated chooses among models: then never `test`, but every tenth training item.
    """
    train, validation, test = (items_for(store, purpose) for purpose in SPLITS)
    if to_choose and test and not validation:
        reserved = {item.id for item in test}
        return _hold_out(train or [item for item in store.usable() if item.id not in reserved])
    if train:
        return train, validation or test
    reserved = {item.id for item in (*validation, *test)}
    others = [item for item in store.usable() if item.id not in reserved]
    if reserved:
        return others, validation or test
    return _hold_out(others)


def _hold_out(items: list[StoreItem]) -> tuple[list[StoreItem], list[StoreItem]]:
    """All but every tenth item, and these; of few items every second."""
    held_out = {item.id for item in items[9::10] or items[1::2]}
    return [i for i in items if i.id not in held_out], [i for i in items if i.id in held_out]


def items_for(store: Store, purpose: str) -> list[StoreItem]:
    """The usable items whose field `split` says that they are for a purpose of `SPLITS`."""
    return [item for item in store.usable() if item.fields.get("split") in SPLITS[purpose]]


def items_digest(store: Store, items: Sequence[StoreItem]) -> str:
    """A checksum of what is trained on: the encoders, and the content, texts and weights of the items."""
    contents = [[i.id, i.texts, i.fields.get("weight"), i.fields.get("sha256"), len(i.video)] for i in items]
    spec = asdict(store.spec)
    del spec["spaces"]  # the fingerprints say as much, and checksums from before stay
    return digest([spec, contents])
