"""Evaluation of a store: the items that can be ranked, their embeddings or mean features, and their ranks."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from viml_hf.errors import ViMLError
from viml_hf.evaluation.pools import Pool, make_pools, pools_from_groups
from viml_hf.evaluation.ranks import retrieval_ranks
from viml_hf.features.batches import clip_rows, gather
from viml_hf.features.splits import split_items
from viml_hf.features.store import Store
from viml_hf.features.store_format import MODALITIES, RowRange, StoreItem
from viml_hf.modeling.clip_windows import CLIP_SEGMENTS
from viml_hf.modeling.modeling_viml import ViMLModel
from viml_hf.modeling.modeling_viml_towers import masked_mean


def can_be_ranked(item: StoreItem, query_modalities: Sequence[str]) -> bool:
    """Whether an item has music and at least one modality of the query; an absent text becomes the null text."""
    return len(item.audio) > 0 and any(len(getattr(item, modality)) for modality in query_modalities)


@dataclass(frozen=True, eq=False)
class EvaluationItems:
    """The items of a split that are ranked, the same for every kind of query so that their ranks can be compared."""

    split: str
    items: list[StoreItem]
    left_out: dict[str, int]  # the number of other items by the reason
    without_text: int  # the number of ranked items without a text


def select_items(
    store: Store,
    *,
    split: str | None = None,
    queries: Sequence[Sequence[str]] = (("video", "text"),),
    group_by: str | None = None,
) -> EvaluationItems:
    """Choose the items of a split that every kind of query can rank, and count the others by the reason.

    The default split is `test`; in a store without one, the items that training holds out. With `group_by`, an item
    must share the value of that field with another item.
    """
    name, candidates = _split(store, split)
    left_out: Counter[str] = Counter()
    items = []
    for item in candidates:
        lacking = next((modality for modality in ("video", "audio") if not len(getattr(item, modality))), None)
        if lacking is None and not all(can_be_ranked(item, query) for query in queries):
            lacking = "text"
        if lacking is None and group_by is not None and item.fields.get(group_by) is None:
            lacking = f"the field {group_by}"
        if lacking is None:
            items.append(item)
        else:
            left_out[f"without {lacking}"] += 1
    if group_by is not None:
        sizes = Counter(str(item.fields[group_by]) for item in items)
        if alone := list(sizes.values()).count(1):
            left_out[f"alone with their {group_by}"] = alone
            items = [item for item in items if sizes[str(item.fields[group_by])] > 1]
    if len(items) < 2:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items()) or "there are no others"
        raise ViMLError(
            f"{store.folder}: {len(items)} items of {name} can be ranked ({reasons}); accepted: 2 or more; name "
            "another split with --split, or other queries"
        )
    return EvaluationItems(name, items, dict(left_out), sum(not len(item.text) for item in items))


def pools_of(
    items: Sequence[StoreItem], *, group_by: str | None = None, pool_size: int | None = None, seed: int = 0
) -> list[Pool]:
    """Pools of the items: one per value of the field `group_by`, or random ones of `pool_size` (default: one pool)."""
    if group_by is None:
        return make_pools(len(items), len(items) if pool_size is None else pool_size, seed=seed)
    for item in items:
        if item.fields.get(group_by) is None:
            raise ViMLError(f"{item.id} has no field {group_by!r}; group by another, or leave it out")
    return pools_from_groups(str(item.fields[group_by]) for item in items)


def _split(store: Store, split: str | None) -> tuple[str, list[StoreItem]]:
    """Name and items of a split, also those without features."""
    splits = Counter(str(item.fields["split"]) for item in store.items if item.fields.get("split") is not None)
    if split is None and not splits["test"]:
        return "those that training holds out", split_items(store)[1]
    chosen = split or "test"
    if not splits[chosen]:
        known = ", ".join(f"{name} ({count})" for name, count in sorted(splits.items())) or "none"
        raise ViMLError(f"{store.folder}: no item of the split {chosen!r}; its splits: {known}")
    return f"the split {chosen}", [item for item in store.items if str(item.fields.get("split")) == chosen]


def check_query(model: ViMLModel, query_modalities: Sequence[str]) -> None:
    """Refuse a query with a modality that the model's queries are not made of."""
    known = model.config.query_modalities
    if not set(query_modalities) <= set(known):
        raise ViMLError(
            f"a query of {'+'.join(query_modalities)}, but this model's queries are made of {' and '.join(known)}; ask "
            "with these, or train a model with the other"
        )


@torch.inference_mode()
def embed_items(
    model: ViMLModel,
    store: Store,
    items: Sequence[StoreItem],
    *,
    query_modalities: Sequence[str] = ("video", "text"),
    clip_segments: int | None = CLIP_SEGMENTS,
    batch_size: int = 256,
) -> tuple[np.ndarray, np.ndarray]:
    """Embed the query and the music of each item.

    Args:
        model: The heads.
        store: The features.
        items: Items that `can_be_ranked`.
        query_modalities: What the queries hold, of those that the model's queries are made of.
        clip_segments: Segments of the middle clip that is embedded; `None` for whole tracks.
        batch_size: Items embedded at a time.

    Returns:
        Query and audio embeddings, `(items, projection_dim)` float32 each.

    Raises:
        ViMLError: The model knows no such query, an item cannot be ranked, or `batch_size` is below 1.
    """
    check_query(model, query_modalities)
    model.eval()
    queries, audio = [], []
    for batch in _batches(store, items, query_modalities, clip_segments, batch_size):
        output = model(**{name: value.to(model.device) for name, value in batch.items()})
        queries.append(output.query_embeds.cpu())
        audio.append(output.audio_embeds.cpu())
    return torch.cat(queries).numpy(), torch.cat(audio).numpy()


def evaluate_ranks(
    model: ViMLModel,
    store: Store,
    items: Sequence[StoreItem],
    *,
    query_modalities: Sequence[str] = ("video", "text"),
    clip_segments: int | None = CLIP_SEGMENTS,
    batch_size: int = 256,
    pools: Sequence[Pool] | None = None,
    hubness_correction: bool = True,
) -> np.ndarray:
    """The rank of each item's own music in its pool, from 1, int64 `(items,)`.

    The arguments and errors are those of `embed_items`. `pools` hold items by their index, each once as a query; by
    default all items are one pool. Similarities are corrected for hubs where the model has a query bank.
    """
    options: dict[str, Any] = {"clip_segments": clip_segments, "batch_size": batch_size}
    queries, audio = embed_items(model, store, items, query_modalities=query_modalities, **options)
    corrections = corrections_of(model, audio, query_modalities) if hubness_correction else None
    return retrieval_ranks(queries, audio, pools=pools, corrections=corrections)


@torch.inference_mode()
def corrections_of(model: ViMLModel, audio_embeds: np.ndarray, query_modalities: Sequence[str]) -> np.ndarray | None:
    """What is taken from the similarities of each track `(tracks,)` for these queries; `None` without a query bank."""
    if model.query_bank is None:
        return None
    found = model.query_bank.corrections(torch.from_numpy(audio_embeds).to(model.device))
    return found[:, int("text" in query_modalities)].cpu().numpy()


def mean_features(
    store: Store,
    items: Sequence[StoreItem],
    *,
    query_modalities: Sequence[str] = ("video", "text"),
    clip_segments: int | None = CLIP_SEGMENTS,
    batch_size: int = 256,
) -> tuple[np.ndarray, np.ndarray]:
    """Means of base features over the rows that a model would see, for `fit_cca`, float32.

    Queries `(items, query_dim)` hold the means of their modalities side by side, music is `(items, audio_dim)`. An
    absent text is the store's null text, an absent video is zeros.
    """
    queries, audio = [], []
    for batch in _batches(store, items, query_modalities, clip_segments, batch_size):
        means = {
            modality: masked_mean(batch[f"{modality}_features"], batch[f"{modality}_attention_mask"])
            for modality in ("audio", *query_modalities)
        }
        if "text" in means:
            absent = ~batch["text_attention_mask"].bool().any(1)
            means["text"][absent] = store.null_text.float()
        queries.append(torch.cat([means[modality] for modality in query_modalities], dim=1))
        audio.append(means["audio"])
    return torch.cat(queries).numpy(), torch.cat(audio).numpy()


def _batches(
    store: Store, items: Sequence[StoreItem], query: Sequence[str], clip_segments: int | None, batch_size: int
) -> Iterator[dict[str, Tensor]]:
    if batch_size < 1:
        raise ViMLError(f"batch_size={batch_size}; accepted: 1 or more items at a time")
    for item in items:
        if not can_be_ranked(item, query):
            lacking = "music" if not len(item.audio) else " or ".join(query)
            raise ViMLError(
                f"{store.folder}: item {item.id!r} has no {lacking} to be ranked by; leave it out, see can_be_ranked"
            )
    for start in range(0, len(items), batch_size):
        chosen = [_rows_of(item, query, clip_segments) for item in items[start : start + batch_size]]
        batch: dict[str, Tensor] = {}
        for modality in MODALITIES:
            features, mask = gather(store, modality, [rows[modality] for rows in chosen])
            batch |= {f"{modality}_features": features, f"{modality}_attention_mask": mask}
        yield batch


def _rows_of(item: StoreItem, query: Sequence[str], clip_segments: int | None) -> dict[str, RowRange]:
    """Rows of the item's middle clip and its first text; modalities that the query does not hold are empty."""
    video, audio, text = item.video, item.audio, item.text
    if clip_segments is not None:
        first = (min(len(video), len(audio)) - clip_segments) // 2
        video, audio = (clip_rows(rows, first, clip_segments) for rows in (video, audio))
    found = {"video": video, "text": text[:1]}
    return {"audio": audio} | {name: rows if name in query else RowRange() for name, rows in found.items()}
