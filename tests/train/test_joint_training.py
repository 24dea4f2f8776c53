"""Training on features of one joint space: it begins as the model without training, and never ends below it."""

import json
import logging

import numpy as np
import pytest
import torch

from tests.encoders import checkpoints
from viml_hf import Store, StoreSpec, StoreWriter, ViMLModel, evaluate_ranks, extract, load_recipe, read_sources
from viml_hf.cli.main import main
from viml_hf.evaluation.store_evaluation import embed_items
from viml_hf.features.splits import split_items
from viml_hf.generated.corpus import generate_corpus
from viml_hf.train.training import new_model

MODALITIES = ("video", "text", "audio")
SPACE = dict.fromkeys(MODALITIES, "a space")
FREE = {"encoder": "identity", "fusion": "late"}


def write_store(folder, spaces=SPACE, splits=("train", "train", "train", "validation")):
    """Features of width 12: what a video and its text have in common with their music, and noise in half of it."""
    generator = np.random.default_rng(0)
    noise = np.repeat([1.0, 4.0], 6)
    spec = StoreSpec(dict.fromkeys(MODALITIES, "features:made"), dict.fromkeys(MODALITIES, 12), spaces=spaces)
    with StoreWriter(folder, spec, np.zeros(12)) as writer:
        for index in range(120):
            meant = generator.standard_normal(12)
            made = {modality: meant + noise * generator.standard_normal((3, 12)) for modality in ("video", "audio")}
            text = meant + noise * generator.standard_normal((1, 12))
            split = splits[index % len(splits)]
            writer.add(f"{index:03d}", **made, text=text, texts=["a text"], **({"split": split} if split else {}))
    return Store(folder)


def train(store, output, *words):
    base = ["train", str(store), "-o", str(output), "--batch-size", "16", "--epochs", "4", "--quiet"]
    assert main([*base, *words]) == 0
    return json.loads((output / "training.json").read_text())


def log_rank(model, store, items):
    asked = model.config.query_modalities
    ranks = evaluate_ranks(model, store, items, query_modalities=asked, hubness_correction=False)
    return float(np.log(ranks).mean())


def test_step_0_is_the_model_without_training(tmp_path):
    store = write_store(tmp_path)
    residual, free = new_model(store, 3, **load_recipe("joint").config), new_model(store, 0, **FREE)
    assert sum(parameter.numel() for parameter in residual.parameters()) > 0
    items = store.usable()
    for found, expected in zip(embed_items(residual, store, items), embed_items(free, store, items), strict=True):
        assert np.abs(found - expected).max() < 1e-5
    assert np.array_equal(evaluate_ranks(residual, store, items), evaluate_ranks(free, store, items))


@pytest.mark.parametrize("seed", range(3))
def test_it_learns_and_never_ends_below_where_it_began(tmp_path, seed):
    store = write_store(tmp_path / "store")
    facts = train(tmp_path / "store", tmp_path / "model", "--seed", str(seed), "--learning-rate", "0.01")
    assert facts["recipe"] == "joint"
    model = ViMLModel.from_pretrained(tmp_path / "model").eval()
    _, held_out = split_items(store)
    begun = log_rank(new_model(store, seed, **FREE), store, held_out)
    assert log_rank(model, store, held_out) == pytest.approx(facts["metrics"]["mean_log_rank"])
    assert facts["metrics"]["mean_log_rank"] < begun


def test_where_training_only_harms_the_beginning_is_kept(tmp_path, caplog):
    store = write_store(tmp_path / "store")
    with caplog.at_level(logging.WARNING):
        facts = train(tmp_path / "store", tmp_path / "model", "--learning-rate", "3")
    model = ViMLModel.from_pretrained(tmp_path / "model")
    for name, weight in model.state_dict().items():
        assert not name.endswith(("fc2.weight", "fc2.bias")) or not weight.any()
    _, held_out = split_items(store)
    assert facts["metrics"]["mean_log_rank"] == pytest.approx(log_rank(new_model(store, 0, **FREE), store, held_out))
    assert torch.isfinite(torch.cat([p.flatten() for p in model.parameters()])).all()


def test_what_is_reported_on_chooses_nothing(tmp_path):
    """The test split is left for `viml evaluate`: training items are held out to choose by."""
    for number, splits in enumerate([("train", "train", "train", "test"), (None, None, None, "test")]):
        store = write_store(tmp_path / str(number), splits=splits)
        training, chosen = split_items(store, to_choose=True)
        assert (len(training), len(chosen)) == (81, 9)
        assert {item.fields.get("split") for item in (*training, *chosen)} == {splits[0]}
        assert len(split_items(store)[1]) == 30


def test_two_spaces_are_trained_on_as_ever_and_not_called_one(tmp_path, capsys):
    write_store(tmp_path / "store", spaces={**SPACE, "audio": "another"})
    assert train(tmp_path / "store", tmp_path / "model", "--query", "text", "--epochs", "1")["recipe"] == "viml"
    capsys.readouterr()
    assert main(["train", str(tmp_path / "store"), "-o", str(tmp_path / "joint"), "--recipe", "joint"]) == 2
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert "share no joint space (audio another, video a space, text a space): give the same checkpoint" in error


@pytest.mark.slow
def test_the_generated_corpus_by_a_joint_encoder(tmp_path):
    """From media to a trained model: files, a joint encoder of all three modalities, and heads on it."""
    with checkpoints.pe_av_without_timm():
        checkpoints.make("pe_av", tmp_path / "encoder")
        generate_corpus(tmp_path / "corpus", 60, duration=6.0)
        names = dict.fromkeys(MODALITIES, f"pe_av:{tmp_path / 'encoder'}")
        items = read_sources([str(tmp_path / "corpus")]).items
        store = extract(items, tmp_path / "store", **names, workers=1, progress=False)
        for seed in range(3):
            facts = train(tmp_path / "store", tmp_path / f"model-{seed}", "--seed", str(seed), "--query", "video")
            assert facts["recipe"] == "joint"
            free = new_model(store, seed, **FREE, query_modalities=["video"])
            assert facts["metrics"]["mean_log_rank"] <= log_rank(free, store, split_items(store, to_choose=True)[1])
