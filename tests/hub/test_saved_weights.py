import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.modeling.tiny import HEADS, tiny_model
from viml_hf import ViMLConfig, ViMLError, ViMLForMusicRetrieval, ViMLModel
from viml_hf.hub.saved_weights import parameter_counts, saved_parameters, weights_checksum
from viml_hf.retrieval.model_loading import fingerprint, heads_fingerprint


def counted(model):
    return parameter_counts((name, parameter.numel()) for name, parameter in model.named_parameters())


def test_the_headers_tell_the_parameters_of_every_part_and_no_buffers(tmp_path):
    model = tiny_model("clap", learned_temperature=True)
    model.save_pretrained(tmp_path)
    found = saved_parameters(tmp_path)
    assert found == counted(model)
    assert sum(found.values()) == sum(parameter.numel() for parameter in model.parameters())
    assert list(found) == [
        *("video encoder", "text encoder", "audio encoder"),
        *("video tower", "text tower", "fusion", "audio tower", "temperature"),
    ]


@pytest.mark.parametrize("config", [{"encoder": "linear", "query_modalities": ["video"]}, {"fusion": "linear"}])
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


def test_checksums_are_those_that_earlier_indexes_exports_and_results_hold(tmp_path):
    small = {"encoder": "linear", "fusion": "addition", "hidden_size": 16, "projection_dim": 16}
    model = ViMLModel(ViMLConfig(**small))
    for tensor in model.state_dict().values():
        tensor.copy_(torch.arange(tensor.numel()).reshape(tensor.shape) % 97 / 64)
    model.save_pretrained(tmp_path)
    whole = SimpleNamespace(model=SimpleNamespace(viml=model), fingerprints=lambda: {"audio": "a"})
    found = [fingerprint(whole), heads_fingerprint(model), weights_checksum(tmp_path, model.config)]
    assert found == [
        "a2061c025f5a57be9b50946bf4e38a21037fd86874d97bb42a8b49b84f5baed5",
        "b2593d98f4800b12dc11fd33c3da2c47c97762b0b6571d81ef0e9c45b1b78d6e",
        "988db88918bcec4d093d8e7f07f55145882aa5dbbf4d844a47e692387ca47821",
    ]


def test_weights_of_half_precision_have_a_checksum_missing_and_damaged_ones_are_named(tmp_path):
    with pytest.raises(ViMLError, match=r"no model\.safetensors"):
        saved_parameters(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no weights" + json.dumps({}).encode())
    with pytest.raises(ViMLError, match="its weights cannot be read"):
        weights_checksum(tmp_path, ViMLConfig())
    model = ViMLModel(ViMLConfig(**HEADS)).bfloat16()
    model.save_pretrained(tmp_path)
    assert len(weights_checksum(tmp_path, model.config)) == 64
