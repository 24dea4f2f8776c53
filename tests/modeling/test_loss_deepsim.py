"""The losses of DeepSim's embedding against plain loops over triplets."""

import math
from itertools import product

import pytest
import torch
from torch.nn import functional as F

from viml_hf.modeling.loss_deepsim import (
    CONDITIONS,
    condition_masks,
    condition_relations,
    deepsim_loss,
    tag_relation,
    tempo_relation,
)

CATEGORIES = ["genre", "genre", "mood", "mood", "instrument", "instrument", "instrument"]
LABELS = torch.tensor(
    [[1, 0, 1, 0, 1, 1, 0], [1, 0, 0, 1, 1, 0, 0], [0, 1, 1, 0, 0, 0, 1], [0, 1, 0, 1, 0, 0, 1], [0, 1, 0, 0, 0, 1, 1]]
)
TEMPO = torch.tensor([100.0, 103.0, 150.0, 155.0, math.nan])
TRACKS = torch.tensor([0, 1, 1, 3, 4])


def some_embeddings(width=8):
    return torch.rand(len(LABELS), width, generator=torch.Generator().manual_seed(0))


def sets(row, category):
    return {i for i, name in enumerate(CATEGORIES) if name == category and LABELS[row, i]}


def is_similar(condition, i, j):
    """As the module's words say it, one pair at a time: True, False, or None where neither."""
    if condition == "tempo":
        octaves = abs(math.log2(TEMPO[i] / TEMPO[j]))
        return True if octaves <= 0.1 else False if octaves >= 0.25 else None
    one, other = sets(i, condition), sets(j, condition)
    if not one or not other:
        return None
    overlap = len(one & other) / len(one | other)
    return True if overlap >= 0.5 else False if overlap < 0.2 else None


def naive_hinge(embeddings, columns, positive, negative):
    hinges = []
    for a, p, n in product(range(len(embeddings)), repeat=3):
        if positive(a, p) and negative(a, n):
            rows = [F.normalize(embeddings[i, columns], dim=0) for i in (a, p, n)]
            near, far = (rows[0] - rows[1]).square().sum(), (rows[0] - rows[2]).square().sum()
            hinges.append(max(0.0, float(near - far) + 0.1))
    return sum(hinges) / len(hinges)


def test_the_four_masks_are_disjoint_and_of_64_dimensions_each():
    masks = condition_masks(256)
    assert masks.shape == (len(CONDITIONS), 256) == (4, 256)
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    assert masks.sum(1).tolist() == [64] * 4
    assert torch.equal(masks.sum(0), torch.ones(256))
    assert torch.equal(masks @ masks.T, 64 * torch.eye(4))


def test_the_loss_is_the_mean_hinge_of_each_mask_and_half_that_of_the_tracks():
    embeddings = some_embeddings()
    relations = condition_relations(LABELS, CATEGORIES, TEMPO, TRACKS)
    expected = 0.0
    for index, condition in enumerate(CONDITIONS):

        def positive(a, p, condition=condition):
            return TRACKS[a] != TRACKS[p] and is_similar(condition, a, p) is True

        def negative(a, n, condition=condition):
            return is_similar(condition, a, n) is False

        expected += naive_hinge(embeddings, slice(2 * index, 2 * index + 2), positive, negative) / 4
    assert deepsim_loss(embeddings, relations).item() == pytest.approx(expected, abs=1e-6)

    tracks = naive_hinge(
        embeddings, slice(None), lambda a, p: a != p and TRACKS[a] == TRACKS[p], lambda a, n: TRACKS[a] != TRACKS[n]
    )
    assert tracks > 0
    whole = deepsim_loss(embeddings, relations, TRACKS).item()
    assert whole == pytest.approx(expected + 0.5 * tracks, abs=1e-6)


def test_a_condition_moves_nothing_but_its_own_quarter():
    for index, condition in enumerate(CONDITIONS):
        embeddings = some_embeddings(16).requires_grad_()
        relations = condition_relations(LABELS, CATEGORIES, TEMPO)
        deepsim_loss(embeddings, {condition: relations[condition]}).backward()
        moved = embeddings.grad.abs().sum(0).view(4, 4).sum(1) > 0
        assert moved.tolist() == [i == index for i in range(4)]


def test_excerpts_of_one_track_are_no_triplet_of_a_condition():
    labels = torch.tensor([[1, 0], [1, 0], [0, 1]])
    similar, different = condition_relations(labels, ["mood", "mood"], track_ids=torch.tensor([5, 5, 6]))["mood"]
    assert not similar.any()
    assert different.tolist() == [[False, False, True], [False, False, True], [True, True, False]]


def test_unknown_tags_and_tempi_are_neither_similar_nor_different():
    for similar, different in (
        tag_relation(torch.tensor([[0, 0], [1, 0]])),
        tempo_relation(torch.tensor([0.0, 100.0])),
        tempo_relation(torch.tensor([math.nan, 100.0])),
    ):
        assert not similar[0].any()
        assert not different[0].any()


def test_a_batch_without_triplets_has_a_zero_loss_that_can_be_differentiated():
    embeddings = some_embeddings()[:2].requires_grad_()
    relations = condition_relations(LABELS[:1].repeat(2, 1), CATEGORIES)
    loss = deepsim_loss(embeddings, relations)
    loss.backward()
    assert loss.item() == 0
    assert embeddings.grad.abs().sum() == 0


def test_it_is_computed_in_single_precision_under_autocast():
    embeddings = some_embeddings(64)
    relations = condition_relations(LABELS, CATEGORIES, TEMPO)
    wanted = deepsim_loss(embeddings, relations, TRACKS)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(deepsim_loss(embeddings, relations, TRACKS), wanted)
    assert deepsim_loss(embeddings.half(), relations, TRACKS).dtype == torch.float32
