"""The losses that make DeepSim's embedding one of similarity in genre, mood, instruments and tempo, each by itself.

Lee, Bryan, Salamon, Jin, Nam, "Disentangled Multidimensional Metric Learning for Music Similarity", ICASSP 2020.

For excerpts a (anchor), p (positive) and n (negative), with an embedding f and a mask m_c per condition c,

    D_c(x, y) = ‖ g_c(x) − g_c(y) ‖²   with g_c(x) = m_c ⊙ f(x) / ‖ m_c ⊙ f(x) ‖
    L_c = mean over triplets of max(0, D_c(a, p) − D_c(a, n) + margin)
    L = mean over c of L_c + track_weight · L_track

where m_c keeps the c-th quarter of the embedding, and L_track is the same hinge on the whole embedding for two
excerpts a, p of one track and an excerpt n of another. Published are the masks, the margin of 0.1 and the track
weight of 0.5. Open, and chosen here: which excerpts count as similar (below), that a quarter is normalised by itself,
and that a batch gives all triplets that it holds, where the paper draws them one by one.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from .loss_viml import at_least_float32, full_precision

CONDITIONS = ("genre", "mood", "instrument", "tempo")
# Two sets of tags are similar if at least half of all their tags are shared, and different if less than a fifth are:
# with one tag each, the same or another one. Most bands share some instrument.
SIMILAR_OVERLAP, DIFFERENT_OVERLAP = 0.5, 0.2
# Two tempi are similar within 7 %, and different from 19 % on.
SIMILAR_OCTAVES, DIFFERENT_OCTAVES = 0.1, 0.25

Relation = tuple[Tensor, Tensor]  # which excerpts are similar and which different, each (batch, batch) bool


def condition_masks(hidden_size: int) -> Tensor:
    """The masks `(4, hidden_size)` in the order of `CONDITIONS`, disjoint quarters of the embedding.

    Example:
        >>> condition_masks(8).int().tolist()
        [[1, 1, 0, 0, 0, 0, 0, 0], [0, 0, 1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0, 1, 1]]
    """
    return torch.eye(len(CONDITIONS)).repeat_interleave(hidden_size // len(CONDITIONS), dim=1)


def tag_relation(labels: Tensor) -> Relation:
    """By their tags of one category `(batch, tags)`: the overlap |A ∩ B| / |A ∪ B|. Without a tag, neither is true.

    Example:
        >>> similar, different = tag_relation(torch.tensor([[1, 0], [1, 0], [0, 1], [0, 0]]))
        >>> similar[0].tolist(), different[0].tolist()
        ([True, True, False, False], [False, False, True, False])
    """
    tags = labels.float()
    shared, counts = tags @ tags.T, tags.sum(1)
    known = (counts[:, None] > 0) & (counts[None] > 0)
    overlap = shared / (counts[:, None] + counts[None] - shared).clamp(min=1)
    return known & (overlap >= SIMILAR_OVERLAP), known & (overlap < DIFFERENT_OVERLAP)


def tempo_relation(tempo: Tensor) -> Relation:
    """By their tempo `(batch,)` in beats per minute. Where it is unknown, NaN or 0, neither is true.

    Example:
        >>> similar, different = tempo_relation(torch.tensor([100.0, 104.0, 130.0, math.nan]))
        >>> similar[0].tolist(), different[0].tolist()
        ([True, True, False, False], [False, False, True, False])
    """
    octaves = torch.where(tempo > 0, tempo, math.nan).log2()
    apart = (octaves[:, None] - octaves[None]).abs()
    return apart <= SIMILAR_OCTAVES, apart >= DIFFERENT_OCTAVES  # no comparison with NaN is true


def condition_relations(
    labels: Tensor, label_categories: list[str], tempo: Tensor | None = None, track_ids: Tensor | None = None
) -> dict[str, Relation]:
    """Per condition, by labels `(batch, num_labels)` with the category of each, and the tempo, if it is given.

    Excerpts of one track, by `track_ids` `(batch,)`, are not similar to each other: that would be too easy.
    """
    relations = {}
    for category in CONDITIONS[:-1]:
        columns = [index for index, name in enumerate(label_categories) if name == category]
        if columns:
            relations[category] = tag_relation(labels[:, columns])
    if tempo is not None:
        relations["tempo"] = tempo_relation(tempo)
    ids = torch.arange(len(labels), device=labels.device) if track_ids is None else track_ids
    other = ids[:, None] != ids[None]
    return {name: (similar & other, different) for name, (similar, different) in relations.items()}


def triplet_hinge(embeds: Tensor, relation: Relation, margin: float) -> Tensor:
    """Mean of `max(0, D(a, p) − D(a, n) + margin)` over all triplets of a batch of L2-normalised embeddings, or 0.

    Memory grows with the cube of the batch.

    Example:
        >>> relation = tag_relation(torch.eye(2).repeat_interleave(2, 0))
        >>> round(triplet_hinge(torch.ones(4, 1), relation, margin=0.1).item(), 3)
        0.1
    """
    similar, different = relation
    distance = 2 - 2 * embeds @ embeds.T
    triplets = similar[:, :, None] & different[:, None, :]
    hinges = (distance[:, :, None] - distance[:, None, :] + margin).clamp(min=0)
    return (hinges * triplets).sum() / triplets.sum().clamp(min=1)


def deepsim_loss(
    embeddings: Tensor,
    relations: dict[str, Relation],
    track_ids: Tensor | None = None,
    *,
    margin: float = 0.1,
    track_weight: float = 0.5,
) -> Tensor:
    """The loss L of embeddings `(batch, hidden_size)`, see the module; without `track_ids` it has no L_track.

    Example:
        >>> relations = {"tempo": tempo_relation(torch.tensor([60.0, 61.0, 120.0]))}
        >>> deepsim_loss(torch.tensor([[1.0, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, -1]]), relations).item()
        0.0
    """
    with full_precision(embeddings):
        embeddings = at_least_float32(embeddings)
        masks = condition_masks(embeddings.shape[-1]).to(embeddings)
        loss = embeddings.sum() * 0.0
        for name, relation in relations.items():
            part = F.normalize(embeddings * masks[CONDITIONS.index(name)], dim=-1)
            loss = loss + triplet_hinge(part, relation, margin) / len(relations)
        if track_ids is not None:
            same = track_ids[:, None] == track_ids[None]
            pairs = same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)
            loss = loss + track_weight * triplet_hinge(F.normalize(embeddings, dim=-1), (pairs, ~same), margin)
        return loss
