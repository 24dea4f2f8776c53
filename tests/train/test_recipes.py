import json

import pytest
import torch

from viml_hf import TrainingSettings, ViMLConfig, ViMLError, ViMLModel
from viml_hf.paper.table_definitions import TABLES
from viml_hf.train.recipes import load_recipe, recipe_names

WIDTHS = {"video_dim": 6, "audio_dim": 5, "text_dim": 4}


@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_makes_a_model_and_settings(name):
    recipe = load_recipe(name)
    assert recipe.description.endswith(".")
    TrainingSettings(**recipe.settings)
    widths = dict.fromkeys(("video_dim", "audio_dim", "text_dim"), 6) if name == "joint" else WIDTHS
    config = ViMLConfig(**widths, **recipe.config)
    with torch.device("meta"):
        model = ViMLModel(config)
    assert (model.fusion is None) == (config.has_parts or len(config.query_modalities) == 1)


def test_the_video_only_recipe_is_the_video_part_of_viml():
    """So that without text `viml` ranks as it does."""
    configs = [ViMLConfig(**load_recipe(name).config) for name in ("viml", "viml-video-only")]
    assert configs[0].has_parts
    assert configs[0].part_dim == configs[1].part_dim == configs[1].projection_dim
    assert load_recipe("viml").settings == load_recipe("viml-video-only").settings


def test_recipes_are_those_of_the_paper():
    fusions = {
        name: load_recipe(name).config for name in recipe_names() if name.startswith("viml-") and "video" not in name
    }
    with torch.device("meta"):
        counts = {
            name: sum(p.numel() for p in ViMLModel(ViMLConfig(**config)).fusion.parameters())
            for name, config in fusions.items()
        }
    assert counts == {
        "viml-addition": 0,
        "viml-linear": 131_328,
        "viml-mlp": 1_575_168,
        "viml-transformer-1": 1_446_400,
        "viml-paper": 2_761_472,
        "viml-no-text-dropout": 2_761_472,
    }
    assert TrainingSettings(**load_recipe("viml-paper").settings).text_dropout == 0.8
    assert TrainingSettings(**load_recipe("viml-no-text-dropout").settings).text_dropout == 0


def test_tables_ask_for_recipes_that_there_are():
    asked = {system.recipe for table in TABLES.values() for row in table.rows for system in row.systems} - {"cca"}
    assert asked == set(recipe_names()) - {"joint"}  # whose features those of the tables are not


def test_a_recipe_of_ones_own_adds_to_another(tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(json.dumps({"based_on": "mvpt", "config": {"dropout": 0.5}, "settings": {"epochs": 3}}))
    recipe = load_recipe(str(path))
    assert recipe.name == "mine"
    assert recipe.config == {"query_modalities": ["video"], "temperature": 0.3, "dropout": 0.5}
    assert recipe.settings == {"epochs": 3}


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ("{", "no recipe"),
        ("[]", "no recipe; give a JSON object"),
        ('{"model": {}}', "no recipe; give a JSON object"),
        ('{"config": {"hidden": 1}}', "ViMLConfig has no field hidden"),
        ('{"settings": {"lr": 1}}', "TrainingSettings has no field lr"),
        ('{"based_on": "vimle"}', "based_on 'vimle'; give one of joint, mt, "),
        ('{"based_on": 5}', "no recipe; give a JSON object"),
        ('{"config": null}', "no recipe; give a JSON object"),
        ('{"settings": {"epochs": "20"}}', "settings: .*give numbers as numbers"),
    ],
)
def test_what_is_no_recipe_is_refused(tmp_path, content, cause):
    path = tmp_path / "mine.json"
    path.write_text(content)
    with pytest.raises(ViMLError, match=cause):
        load_recipe(str(path))
