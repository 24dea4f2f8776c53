import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.modeling.tiny import HEADS, tiny_model
from viml_hf import ViMLConfig, ViMLError, ViMLForMusicRetrieval, ViMLModel
from viml_hf.hub.saved_weights import parameter_counts, saved_parameters, weights_checksum


def counted(model):
    return parameter_counts((name, parameter.numel()) for name, parameter in model.named_parameters())


@pytest.mark.parametrize("audio", ["ast", "clap"])
def test_the_headers_tell_the_parameters_of_every_part_and_no_buffers(audio, tmp_path):
    model = tiny_model(audio, learned_temperature=True)
    model.save_pretrained(tmp_path)
    found = saved_parameters(tmp_path)
    assert found == counted(model)
    assert sum(found.values()) == sum(parameter.numel() for parameter in model.parameters())
    assert list(found) == [
        *("video encoder", "text encoder", "audio encoder"),
        *("video tower", "text tower", "fusion", "audio tower", "temperature"),
    ]


@pytest.mark.parametrize(
    "config",
    [
        {"encoder": "linear", "num_hidden_layers": 2, "query_modalities": ["video"], "hidden_size": 32},
        {"encoder": "mlp", "fusion": "addition"},
        {"fusion": "linear"},
    ],
)
def test_heads_alone_are_counted_without_their_batch_norms_statistics(config, tmp_path):
    model = ViMLModel(ViMLConfig(**{**HEADS, **config}))
    model.save_pretrained(tmp_path)
    assert saved_parameters(tmp_path) == counted(model)
    assert sum(counted(model).values()) == sum(parameter.numel() for parameter in model.parameters())


def test_the_checksum_is_of_the_tensors_and_of_the_heads_config(tmp_path):
    torch.manual_seed(0)
    model = ViMLForMusicRetrieval.from_encoders(**HEADS)
    model.save_pretrained(tmp_path / "one")
    ViMLForMusicRetrieval.from_pretrained(tmp_path / "one").save_pretrained(tmp_path / "shards", max_shard_size="10KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    heads = model.config.viml_config
    checksum = weights_checksum(tmp_path / "one", heads)
    assert checksum == weights_checksum(tmp_path / "shards", heads)
    assert checksum != weights_checksum(tmp_path / "one", ViMLConfig(**{**HEADS, "null_text": "zero"}))
    weights = load_file(tmp_path / "one" / "model.safetensors")
    name = max(weights)
    weights[name].view(-1)[-1] += 1e-3
    save_file(weights, tmp_path / "one" / "model.safetensors", {"format": "pt"})
    assert checksum != weights_checksum(tmp_path / "one", heads)


def test_weights_of_half_precision_have_a_checksum(tmp_path):
    model = ViMLModel(ViMLConfig(**HEADS)).bfloat16()
    model.save_pretrained(tmp_path)
    assert len(weights_checksum(tmp_path, model.config)) == 64


def test_missing_and_damaged_weights_are_named(tmp_path):
    with pytest.raises(ViMLError, match=r"no model\.safetensors"):
        saved_parameters(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no weights" + json.dumps({}).encode())
    with pytest.raises(ViMLError, match="its weights cannot be read"):
        weights_checksum(tmp_path, ViMLConfig())
