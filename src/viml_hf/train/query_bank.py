"""Leaving a query bank in a trained model, by which similarities are corrected for hubs."""

import hashlib
from collections.abc import Sequence

import torch

from viml_hf.evaluation.store_evaluation import embed_items
from viml_hf.features.store import Store
from viml_hf.features.store_format import StoreItem
from viml_hf.modeling.modeling_viml import ViMLModel
from viml_hf.train.dataset import checked_weight

BANK_SIZE = 2048


def bank_items(items: Sequence[StoreItem], size: int = BANK_SIZE, seed: int = 0) -> list[StoreItem]:
    """A sample of items, drawn by their ids: the same whatever their order.

    Items of more weight come first. What a model is trained to rank, queries will be like; items of less weight are
    there to learn from.

    Example:
        >>> [item.id for item in bank_items([StoreItem("a"), StoreItem("b"), StoreItem("c")], size=2)]
        ['b', 'a']
    """

    def order(item: StoreItem) -> tuple[float, bytes]:
        weight = checked_weight(item.fields.get("weight", 1.0), item.id)
        return -weight, hashlib.blake2b(f"{seed}/{item.id}".encode()).digest()

    return sorted(items, key=order)[:size]


def leave_query_bank(
    model: ViMLModel, store: Store, items: Sequence[StoreItem], *, size: int = BANK_SIZE, seed: int = 0
) -> None:
    """Embed a sample of training queries, with and without their text, and keep them in the model.

    Args:
        model: Trained heads.
        store: The features that they were trained on.
        items: The training items, and no others: what is evaluated must not be in the bank.
        size: Queries of each kind, at most.
        seed: Of the sample.

    Example:
        >>> leave_query_bank(model, store, train.items)  # doctest: +SKIP
    """
    takes = model.config.query_modalities
    kinds = {"with_text": takes} if "text" in takes else {}
    kinds |= {"without_text": ["video"]} if "video" in takes else {}
    usable = [item for item in items if all(len(getattr(item, modality)) for modality in (*takes, "audio"))]
    if chosen := bank_items(usable, size, seed):
        banks = {kind: embed_items(model, store, chosen, query_modalities=query)[0] for kind, query in kinds.items()}
        model.set_query_bank(**{kind: torch.from_numpy(bank) for kind, bank in banks.items()})
