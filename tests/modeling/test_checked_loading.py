"""A checkpoint that is damaged, lacks something or is a pickle is refused in one line."""

import json
import pickle
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from viml_hf import DeepSimConfig, DeepSimModel, ViMLConfig, ViMLForMusicRetrieval, ViMLModel
from viml_hf.retrieval.model_loading import load_encoder_and_model

SMALL = {"hidden_size": 16, "projection_dim": 16, "num_attention_heads": 2, "intermediate_size": 32}
WEIGHT = "audio_tower.projection.weight"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    ViMLModel(ViMLConfig(**SMALL)).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


def change(folder, edit):
    weights = load_file(folder / "model.safetensors")
    edit(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def refusal(folder, model_class=ViMLModel, **kwargs):
    with pytest.raises((ValueError, OSError)) as error:
        model_class.from_pretrained(folder, **kwargs)
    line = str(error.value)
    assert "\n" not in line
    assert line.startswith(str(folder))
    return line


def test_a_missing_weight(folder):
    change(folder, lambda weights: weights.pop(WEIGHT))
    assert f"{WEIGHT} is missing" in refusal(folder)


def test_a_weight_of_another_shape(folder):
    change(folder, lambda weights: weights.update({WEIGHT: torch.zeros(3, 5)}))
    assert f"{WEIGHT} has the shape (3, 5), not (16, 256)" in refusal(folder)


def test_the_config_of_another_model(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 32, "projection_dim": 32}))
    assert "more like that" in refusal(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers(folder, value):
    change(folder, lambda weights: weights[WEIGHT].__setitem__((0, 0), value))
    assert f"{WEIGHT} holds NaN or infinite" in refusal(folder)


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('the pickle was read')",))


def test_a_pickle_instead(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    assert "is a pickle, which can run code" in refusal(folder)
    assert "asks for a pickle" in refusal(folder, use_safetensors=False)


def test_a_pickle_that_the_config_names(folder):
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "transformers_weights": "pytorch_model.bin"}))
    assert "pytorch_model.bin" in refusal(folder)


def test_a_pickle_that_an_index_names_is_not_even_opened(folder, monkeypatch):
    """To find out the dtype of a checkpoint whose config states none, transformers opens its first file."""
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    index = {"metadata": {}, "weight_map": {WEIGHT: "pytorch_model.bin"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": None}))
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("the pickle was opened"))
    assert "pytorch_model.bin is a pickle" in refusal(folder, dtype="auto")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"weight_map": 1}', "[" * 100_000])
def test_a_damaged_index(folder, content):
    (folder / "model.safetensors.index.json").write_text(content)
    assert "model.safetensors.index.json is damaged" in refusal(folder)


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, None])
def test_a_damaged_file(folder, content):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100] if content is None else content)
    assert "is damaged" in refusal(folder)


def test_encoders_inside_are_looked_at_too(tmp_path):
    ViMLForMusicRetrieval.from_encoders(audio=DeepSimModel(DeepSimConfig()), **SMALL).save_pretrained(tmp_path)
    change(tmp_path, lambda weights: weights["audio_encoder.stem.convolution.bias"].fill_(float("nan")))
    assert "audio_encoder.stem.convolution.bias holds NaN" in refusal(tmp_path, ViMLForMusicRetrieval)
    with pytest.raises(ValueError, match="not a saved ViML model"):
        load_encoder_and_model(tmp_path)


def test_a_tagger_too(tmp_path):
    DeepSimModel(DeepSimConfig()).save_pretrained(tmp_path)
    change(tmp_path, lambda weights: weights.popitem())
    assert "is missing" in refusal(tmp_path, DeepSimModel)


def test_who_asks_for_it_gets_random_weights(folder):
    change(folder, lambda weights: weights.pop(WEIGHT))
    model = ViMLModel.from_pretrained(folder, ignore_mismatched_sizes=True)
    assert model.audio_tower.projection.weight.isfinite().all()
    _, report = ViMLModel.from_pretrained(folder, output_loading_info=True)
    assert report["missing_keys"] == {WEIGHT}


def test_weights_that_are_not_used_are_told(folder, caplog):
    change(folder, lambda weights: weights.update(more=torch.zeros(1)))
    ViMLModel.from_pretrained(folder)
    assert [record.getMessage() for record in caplog.records] == [f"{folder}: more is not used"]
