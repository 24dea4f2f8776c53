"""How good a tagger is: AUROC per tag and category, and triplet accuracy of its embedding, by rank statistics."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import cast

import numpy as np
import torch
from transformers import EvalPrediction

from viml_hf.modeling.loss_deepsim import CONDITIONS, condition_masks, condition_relations
from viml_hf.tagging.track_tags import DEFAULT_THRESHOLD, TrackTags, confidence_table


def auroc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve: the probability that a positive scores higher than a negative, ties counting half.

    By the rank sum of the positives (Mann and Whitney). Both arguments are `(items,)`; NaN where all are of one kind.

    Example:
        >>> auroc(np.array([0.1, 0.4, 0.4, 0.9]), np.array([False, True, False, True]))
        0.875
    """
    positive = positive.astype(bool)
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if not positives or not negatives:
        return float("nan")
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]  # from 1; equal scores share the mean of theirs
    return float((ranks[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def auroc_report(
    confidences: np.ndarray, labels: np.ndarray, names: Sequence[str], categories: Sequence[str]
) -> dict[str, float]:
    """The mean AUROC of all tags, `auroc_CATEGORY` of each category, and `auroc_CATEGORY/TAG`.

    Tags that all tracks have, or none, have no AUROC: they are left out, and the means are over the others.
    `confidences` and the zeros and ones of `labels` are `(tracks, tags)`.
    """
    per_tag = {
        (category, name): value
        for column, (category, name) in enumerate(zip(categories, names, strict=True))
        if not np.isnan(value := auroc(confidences[:, column], labels[:, column] > 0))
    }
    report = {"auroc": _mean(list(per_tag.values()))}
    for category in dict.fromkeys(category for category, _ in per_tag):
        report[f"auroc_{category}"] = _mean([value for (own, _), value in per_tag.items() if own == category])
    return report | {f"auroc_{category}/{name}": value for (category, name), value in per_tag.items()}


def triplet_accuracy(embeddings: np.ndarray, similar: np.ndarray, different: np.ndarray) -> float:
    """Share of all triplets whose positive is nearer to the anchor than the negative; NaN without a triplet.

    Of one anchor, that is the AUROC of its cosines to the similar excerpts against those to the different ones.
    `embeddings` are `(excerpts, dim)`, the two masks `(excerpts, excerpts)`.
    """
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    unit = embeddings / np.maximum(norms, 1e-12)
    right = total = 0.0
    for anchor, row in enumerate(unit):
        used = similar[anchor] | different[anchor]
        triplets = float(similar[anchor].sum()) * float(different[anchor].sum())
        if triplets:
            right += triplets * auroc(unit[used] @ row, similar[anchor][used])
            total += triplets
    return right / total if total else float("nan")


def tagger_metrics(
    logits: np.ndarray,
    embeddings: np.ndarray,
    labels: np.ndarray,
    tempo: np.ndarray,
    track_ids: np.ndarray,
    names: Sequence[str],
    categories: Sequence[str],
) -> dict[str, float]:
    """All figures of a tagger on windows of tracks: those of `auroc_report`, and triplet accuracies.

    A track's confidences are the means over its windows. `triplet_accuracy_CONDITION` is of triplets of windows, by the
    rules of the training loss, `triplet_accuracy` their mean. Two windows of one track count as neither similar nor
    different, except in `triplet_accuracy_track`, which is about them.

    Args:
        logits: `(windows, tags)`, as are the labels.
        embeddings: `(windows, hidden_size)`.
        tempo: `(windows,)` beats per minute, NaN where unknown.
        track_ids: `(windows,)`.
        names: The tags, with their categories.
    """
    tracks, first = np.unique(track_ids, return_index=True)
    confidences = torch.from_numpy(logits).float().sigmoid().numpy()
    means = np.stack([confidences[track_ids == track].mean(0) for track in tracks])
    report = auroc_report(means, labels[first], names, categories)

    ids = torch.from_numpy(track_ids)
    relations = condition_relations(torch.from_numpy(labels), list(categories), torch.from_numpy(tempo), ids)
    masks = condition_masks(embeddings.shape[1]).bool().numpy()
    accuracies = {
        name: triplet_accuracy(embeddings[:, masks[CONDITIONS.index(name)]], similar.numpy(), different.numpy())
        for name, (similar, different) in relations.items()
    }
    accuracies = {name: value for name, value in accuracies.items() if not np.isnan(value)}
    report["triplet_accuracy"] = _mean(list(accuracies.values()))
    report |= {f"triplet_accuracy_{name}": value for name, value in accuracies.items()}
    same = track_ids[:, None] == track_ids[None]
    report["triplet_accuracy_track"] = triplet_accuracy(embeddings, same & ~np.eye(len(same), dtype=bool), ~same)
    return report


def make_tagger_metrics(
    names: Sequence[str], categories: Sequence[str]
) -> Callable[[EvalPrediction], dict[str, float]]:
    """`compute_metrics` for a Trainer of [`DeepSimForMusicTagging`] with `label_names` labels, tempo, track_ids."""

    def compute_metrics(prediction: EvalPrediction) -> dict[str, float]:
        logits, embeddings = cast(tuple, prediction.predictions)
        labels, tempo, track_ids = cast(tuple, prediction.label_ids)
        return tagger_metrics(logits, embeddings, labels, tempo, track_ids, names, categories)

    return compute_metrics


def tagging_report(
    tagged: Iterable[tuple[TrackTags, Mapping[str, Sequence[str]]]], threshold: float = DEFAULT_THRESHOLD
) -> dict[str, float]:
    """`precision` and `recall` of the tags above the threshold, all tracks taken together, then `auroc_report`.

    Each track has its predicted tags, and its true ones by category. NaN where there is nothing to take a share of.

    Example:
        >>> tags = TrackTags({"genre": {"pop": 0.9, "rock": 0.4}}), TrackTags({"genre": {"pop": 0.2, "rock": 0.1}})
        >>> tagging_report(zip(tags, [{"genre": ["pop"]}, {"genre": ["pop"]}]))
        {'precision': 0.5, 'recall': 0.5, 'auroc': nan}
    """
    rows = list(tagged)
    columns, scores = confidence_table([tags for tags, _ in rows])
    labels = np.array([[tag in truth.get(c, ()) for c, tag in columns] for _, truth in rows])
    kept = scores > threshold
    right, categories = (kept & labels).sum(), [category for category, _ in columns]
    return {
        "precision": float(right / kept.sum()) if kept.any() else float("nan"),
        "recall": float(right / labels.sum()) if labels.any() else float("nan"),
        **auroc_report(scores, labels, [tag for _, tag in columns], categories),
    }


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else float("nan")
