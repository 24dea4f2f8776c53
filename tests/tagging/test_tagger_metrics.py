import math
from itertools import product

import numpy as np
import pytest

from viml_hf.tagging.tagger_metrics import auroc, auroc_report, tagger_metrics, triplet_accuracy


def naive_auroc(scores, positive):
    """The definition, pair by pair."""
    pairs = [(p > n) + (p == n) / 2 for p, n in product(scores[positive], scores[~positive])]
    return sum(pairs) / len(pairs)


def test_auroc_is_the_share_of_pairs_in_the_right_order():
    rng = np.random.default_rng(0)
    for count in (2, 5, 40):
        for levels in (2, 5, 1000):  # many ties, some, hardly any
            scores = rng.integers(0, levels, count) / levels
            positive = rng.random(count) < 0.3
            positive[:2] = [True, False]
            assert auroc(scores, positive) == pytest.approx(naive_auroc(scores, positive), abs=1e-12)


def test_auroc_of_one_class_is_not_a_number():
    assert math.isnan(auroc(np.array([0.1, 0.2]), np.array([True, True])))
    assert math.isnan(auroc(np.array([0.1, 0.2]), np.array([False, False])))


def test_triplet_accuracy_is_the_share_of_all_triplets():
    rng = np.random.default_rng(1)
    embeddings = rng.normal(size=(12, 3))
    kind = rng.integers(0, 3, (12, 12))
    similar, different = (kind == 1) & ~np.eye(12, dtype=bool), kind == 2
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    right = [
        unit[a] @ unit[p] > unit[a] @ unit[n]
        for a, p, n in product(range(12), repeat=3)
        if similar[a, p] and different[a, n]
    ]
    assert triplet_accuracy(embeddings, similar, different) == pytest.approx(np.mean(right), abs=1e-12)
    assert math.isnan(triplet_accuracy(embeddings, similar, np.zeros((12, 12), bool)))


def test_categories_and_the_whole_are_means_over_tags_that_differ_between_tracks():
    confidences = np.array([[0.9, 0.1, 0.3, 0.5], [0.8, 0.9, 0.2, 0.5], [0.1, 0.2, 0.1, 0.5]])
    labels = np.array([[1, 1, 0, 1], [1, 0, 1, 1], [0, 0, 0, 1]])
    report = auroc_report(
        confidences, labels, ["pop", "rock", "sad", "piano"], ["genre", "genre", "mood", "instrument"]
    )
    assert report == {
        "auroc": pytest.approx((1 + 0 + 0.5) / 3),
        "auroc_genre": pytest.approx(0.5),
        "auroc_mood": pytest.approx(0.5),
        "auroc_genre/pop": 1.0,
        "auroc_genre/rock": 0.0,
        "auroc_mood/sad": 0.5,
    }


def test_the_confidences_of_a_track_are_the_means_over_its_windows():
    # By its windows alone track 1, without the tag, would come before one of track 0's.
    logits = np.array([[3.0], [-3.0], [-1.0], [-1.0]], np.float32)
    arguments = {
        "embeddings": np.eye(4, 8, dtype=np.float32),
        "labels": np.array([[1.0], [1.0], [0.0], [0.0]], np.float32),
        "tempo": np.full(4, np.nan, np.float32),
        "names": ["pop"],
        "categories": ["genre"],
    }
    assert tagger_metrics(logits, track_ids=np.array([0, 0, 1, 1]), **arguments)["auroc_genre/pop"] == 1.0
    assert tagger_metrics(logits, track_ids=np.arange(4), **arguments)["auroc_genre/pop"] == 0.5


def test_a_perfect_embedding_has_perfect_triplets_in_every_mask():
    labels = np.array([[1, 0], [1, 0], [0, 1], [0, 1]] * 2, np.float32)
    tempo = np.array([80, 160] * 4, np.float32)
    tracks = np.repeat(np.arange(4), 2)
    embeddings = np.zeros((8, 8), np.float32)
    embeddings[:, :2] = labels
    embeddings[np.arange(8), np.where(tempo == 80, 6, 7)] = 1
    metrics = tagger_metrics(np.zeros((8, 2)), embeddings, labels, tempo, tracks, ["pop", "rock"], ["genre", "genre"])
    assert metrics["triplet_accuracy_genre"] == metrics["triplet_accuracy_tempo"] == metrics["triplet_accuracy"] == 1.0
    assert "triplet_accuracy_mood" not in metrics
    embeddings = np.roll(embeddings, 4, axis=1)  # the right numbers under the wrong masks
    metrics = tagger_metrics(np.zeros((8, 2)), embeddings, labels, tempo, tracks, ["pop", "rock"], ["genre", "genre"])
    assert metrics["triplet_accuracy"] == 0.5
