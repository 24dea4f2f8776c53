"""Correction for hubs: the pure function, the bank in a model, and one order of tracks wherever they are ranked."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from viml_hf import (
    EpochCallback,
    MediaEncoder,
    MusicIndex,
    Recommender,
    StoreDataset,
    ViMLConfig,
    ViMLError,
    ViMLModel,
)
from viml_hf.evaluation.hubness import hub_figures
from viml_hf.evaluation.pools import Pool
from viml_hf.evaluation.ranks import retrieval_ranks
from viml_hf.evaluation.store_evaluation import corrections_of, embed_items, evaluate_ranks
from viml_hf.features.store_format import StoreItem
from viml_hf.modeling.hubness_correction import BETA, bank_similarity
from viml_hf.retrieval.index import Track, Window
from viml_hf.retrieval.model_loading import fingerprint, heads_fingerprint
from viml_hf.retrieval.queries import Query
from viml_hf.train.query_bank import bank_items, leave_query_bank
from viml_hf.train.training import new_model

HEADS = {"hidden_size": 16, "projection_dim": 16, "num_attention_heads": 2, "intermediate_size": 32}


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


@pytest.fixture
def model(store):
    return new_model(store, 0, **HEADS)


def test_the_similarity_to_a_bank_equals_a_naive_loop():
    tracks, bank = unit(7, 5), unit(11, 5, seed=1)
    found = bank_similarity(tracks, bank, beta=5.0)
    for track, value in zip(tracks.double(), found, strict=True):
        naive = np.log(np.mean([np.exp(5 * float(track @ query.double())) for query in bank])) / 5
        assert value.item() == pytest.approx(naive, abs=1e-6)
    assert torch.equal(bank_similarity(tracks[3:4], bank, beta=5.0), found[3:4])
    assert bank_similarity(tracks[:0], bank, beta=5.0).shape == (0,)


def test_a_hub_comes_less_often_once_it_is_corrected():
    """All queries lean to one direction, and so does one track."""
    queries = F.normalize(unit(200, 8) + 2 * torch.eye(8)[0], dim=-1)
    bank = F.normalize(unit(300, 8, seed=1) + 2 * torch.eye(8)[0], dim=-1)
    tracks = unit(200, 8, seed=2)
    taken = bank_similarity(tracks, bank, BETA).numpy()
    before, after = hub_figures(queries, tracks), hub_figures(queries, tracks, corrections=taken)
    assert after["skewness"] < before["skewness"] / 2
    assert after["never"] < before["never"] / 2


def test_hub_figures_equal_a_naive_count_over_pools():
    queries, tracks, taken = unit(40, 6), unit(40, 6, seed=1), np.linspace(0, 0.5, 40)
    pools = [Pool(np.arange(25), np.arange(25)), Pool(np.arange(25, 40), np.arange(25, 40))]
    counts = np.zeros(40)
    for row in range(40):
        rows = range(25) if row < 25 else range(25, 40)
        scores = {track: float(queries[row].double() @ tracks[track].double()) - taken[track] for track in rows}
        for track in sorted(rows, key=lambda track: -scores[track])[:10]:
            counts[track] += 1
    found = hub_figures(queries, tracks, pools=pools, corrections=taken)
    assert found["never"] == pytest.approx(100 * np.mean(counts == 0))
    assert found["skewness"] == pytest.approx(np.mean((counts - counts.mean()) ** 3) / counts.std() ** 3)


def test_corrected_ranks_equal_a_naive_loop_and_ties_count_against():
    queries, tracks = unit(30, 6), unit(30, 6, seed=1)
    tracks[4], taken = tracks[3], np.random.default_rng(0).random(30)
    taken[4] = taken[3]
    found = retrieval_ranks(queries, tracks, corrections=taken, chunk_size=7)
    for row in range(30):
        scores = (queries[row].double() * F.normalize(tracks.double(), dim=-1)).sum(1).numpy() - taken
        assert found[row] == (scores >= scores[row] - 1e-12).sum()
    with pytest.raises(ViMLError, match="one finite number for each of 30 tracks"):
        retrieval_ranks(queries, tracks, corrections=taken[:3])


def test_a_bank_is_saved_with_the_model_and_tells_it_from_another(model, store, tmp_path):
    without = heads_fingerprint(model)
    leave_query_bank(model, store, store.usable())
    model.save_pretrained(tmp_path)
    loaded = ViMLModel.from_pretrained(tmp_path)
    for kind in ("with_text", "without_text"):
        assert torch.equal(getattr(loaded.query_bank, kind), getattr(model.query_bank, kind))
    assert heads_fingerprint(loaded) == heads_fingerprint(model) != without


def test_the_bank_holds_training_queries_alone(model, store):
    """Each of them as the model embeds it, with its text and without."""
    items = [item for item in store.usable() if len(item.text)][:9]
    leave_query_bank(model, store, items, size=5)
    chosen = bank_items(items, 5)
    assert len(chosen) == 5
    assert bank_items(list(reversed(items)), 5) == chosen
    for kind, query in (("with_text", ("video", "text")), ("without_text", ("video",))):
        expected = embed_items(model, store, chosen, query_modalities=query)[0]
        assert torch.equal(getattr(model.query_bank, kind), torch.from_numpy(expected))


def test_items_of_more_weight_come_first_into_the_bank():
    """Queries will be like them: a quarter of the weight is for what is there to learn from."""
    items = [StoreItem(str(n), fields={"weight": 0.25} if n % 3 else {}) for n in range(30)]
    chosen = bank_items(items, 15)
    assert {item.id for item in chosen[:10]} == {str(n) for n in range(0, 30, 3)}
    assert {item.fields["weight"] for item in chosen[10:]} == {0.25}
    assert bank_items(items[::-1], 15) == chosen


def test_training_removes_a_bank_that_it_makes_out_of_date(model, store):
    leave_query_bank(model, store, store.usable())
    state = SimpleNamespace(is_hyper_param_search=False)
    EpochCallback(StoreDataset(store)).on_train_begin(SimpleNamespace(seed=0), state, None, model=model)
    assert (model.query_bank, model.config.query_bank_size) == (None, 0)
    assert not [name for name in model.state_dict() if "query_bank" in name]


@pytest.mark.parametrize(("query", "kinds"), [(["video"], {"without_text"}), (["text"], {"with_text"})])
def test_a_model_keeps_the_kinds_of_queries_that_it_takes(store, query, kinds):
    model = new_model(store, 0, query_modalities=query, **HEADS)
    leave_query_bank(model, store, store.usable())
    assert {name for name, _ in model.query_bank.named_buffers()} == kinds
    column = int(query == ["text"])
    found = model.query_bank.corrections(unit(3, 16))
    assert found[:, column].abs().min() > 0
    assert not found[:, 1 - column].any()


def test_a_bank_of_other_shapes_is_refused():
    model = ViMLModel(ViMLConfig(**HEADS))
    for banks in ({}, {"with_text": unit(3, 16)}, {"with_text": unit(3, 16), "without_text": unit(2, 16)}):
        with pytest.raises(ValueError, match="give with_text and without_text, equally many rows of 16 numbers"):
            model.set_query_bank(**banks)


@pytest.mark.parametrize("query", [("video",), ("video", "text")])
def test_evaluation_recommender_and_a_naive_loop_give_one_order(encoder_of, store, tmp_path, query):
    """Of tracks with one window each: `viml evaluate` compares middle clips."""
    encoder = encoder_of(store)
    model = encoder.model.viml
    items = [item for item in store.usable() if len(item.text)]
    leave_query_bank(model, store, items[:15])
    held_out = items[15:]
    queries, audio = embed_items(model, store, held_out, query_modalities=query)
    taken = corrections_of(model, audio, query)
    tracks = tuple(Track(item.id, item.id, item.id, 30.0, (Window(0.0, 30.0),)) for item in held_out)
    corrections = model.query_bank.corrections(torch.from_numpy(audio)).numpy()
    index = MusicIndex(audio, tracks, "x", fingerprint(encoder), corrections=corrections)
    index.save(tmp_path)
    recommender = Recommender(encoder, MusicIndex.load(tmp_path))
    ranks = evaluate_ranks(model, store, held_out, query_modalities=query)
    rows = recommender.index.embeddings.astype(np.float64)  # as an index keeps them, in half precision
    changed = 0
    for row, item in enumerate(held_out):
        recommender.make_query = lambda *_, row=row: Query(queries[row], with_text="text" in query)
        text = "slow piano" if "text" in query else None
        found = recommender.recommend("clip.mp4", text, k=len(tracks))
        naive = sorted(range(len(tracks)), key=lambda track: -(float(queries[row] @ rows[track]) - taken[track]))
        assert [one.track for one in found] == [tracks[track].name for track in naive]
        assert [one.track for one in found].index(item.id) + 1 == ranks[row]
        assert found[0].score == pytest.approx(found[0].similarity - taken[naive[0]], abs=1e-6)
        plain = recommender.recommend("clip.mp4", text, k=len(tracks), hubness_correction=False)
        assert [one.score for one in plain] == [one.similarity for one in plain]
        changed += [one.track for one in plain] != [one.track for one in found]
    assert changed


@pytest.fixture
def encoder_of(monkeypatch):
    """An encoder with heads for a store's features; what it would encode is not asked for."""

    def make(store):
        encoder = object.__new__(MediaEncoder)
        heads = new_model(store, 0, **HEADS)
        encoder.model = type("Model", (), {"viml": heads, "name_or_path": "", "dtype": torch.float32})()
        monkeypatch.setattr(MediaEncoder, "fingerprints", lambda _: {})
        return encoder

    return make


def test_a_damaged_correction_is_told(tmp_path):
    tracks = (Track("a", "a", "a", 30.0, (Window(0.0, 30.0),)),)
    wrong = np.array([[np.nan, 0]], np.float32)
    MusicIndex(unit(1, 4).numpy(), tracks, "x", "y", corrections=wrong).save(tmp_path)
    with pytest.raises(ViMLError, match="the index is damaged"):
        MusicIndex.load(tmp_path)
