"""FSDP wraps the layers that a model has: those of its towers, and those of its encoders."""

from functools import partial

import pytest
import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from torch.distributed.fsdp.wrap import transformer_auto_wrap_policy

from tests.modeling.tiny import tiny_model
from viml_hf import ViMLConfig, ViMLForMusicRetrieval, ViMLModel
from viml_hf.train.recipes import load_recipe, recipe_names

LAYERS = {"transformer": "ViMLEncoderLayer", "mlp": "ViMLMlpBlock", "linear": "ViMLLinearTower"}
LAYERS |= {"residual": "ViMLMlpBlock"}  # for features of one joint space


def wrapped(model):
    """Names of the classes that FSDP wraps one by one; no processes are needed to ask."""
    plugin = FullyShardedDataParallelPlugin(auto_wrap_policy="transformer_based_wrap")
    plugin.set_auto_wrap_policy(model)
    assert isinstance(plugin.auto_wrap_policy, partial)
    assert plugin.auto_wrap_policy.func is transformer_auto_wrap_policy
    return {one.__name__ for one in plugin.auto_wrap_policy.keywords["transformer_layer_cls"]}


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_can_be_wrapped(name):
    recipe, sizes = load_recipe(name).config, ("video_dim", "text_dim", "audio_dim", "hidden_size", "projection_dim")
    joint = dict.fromkeys(sizes, 64) if recipe.get("encoder") == "residual" else {}
    config = ViMLConfig(**recipe, **joint)
    with torch.device("meta"):
        model = ViMLModel(config)
    fusion_has_layers = model.fusion is not None and config.fusion == "transformer"
    assert wrapped(model) == {LAYERS[config.encoder]} | ({"ViMLEncoderLayer"} if fusion_has_layers else set())


@pytest.mark.parametrize("encoder", ["transformer", "mlp", "linear"])
def test_the_layers_of_the_encoders_are_wrapped_too(encoder, tmp_path):
    model = tiny_model("clap", encoder=encoder, fusion="linear")
    model.save_pretrained(tmp_path)
    for one in (model, ViMLForMusicRetrieval.from_pretrained(tmp_path)):
        assert {"CLIPEncoderLayer", LAYERS[encoder]} <= wrapped(one)
