"""The code that a saved model carries. That it loads without the package is tested in test_clean_processes.py."""

import json
import shutil

import pytest
import torch
from transformers import AutoModel, AutoProcessor, pipeline

from tests.modeling.tiny import HEADS
from viml_hf import (
    DeepSimConfig,
    DeepSimModel,
    VideoToMusicPipeline,
    ViMLError,
    ViMLForMusicRetrieval,
    ViMLProcessor,
    save_with_code,
)
from viml_hf.hub.model_code import CODE_FOLDER, add_code, flattened_code


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return ViMLForMusicRetrieval.from_encoders(**HEADS)


@pytest.fixture(scope="module")
def coded(model, tmp_path_factory):
    """The folder of a model with its processor and their code."""
    folder = tmp_path_factory.mktemp("with-code") / "model"
    save_with_code(model, folder, ViMLProcessor.from_encoders())
    return folder


@pytest.mark.parametrize("trust", [None, True])
def test_where_the_package_is_no_code_of_the_folder_is_run(coded, tmp_path, trust):
    folder = shutil.copytree(coded, tmp_path / "model")
    for path in (folder / CODE_FOLDER).iterdir():
        path.write_text("raise SystemExit('code of the folder was run')")
    kwargs = {} if trust is None else {"trust_remote_code": trust}
    assert type(AutoModel.from_pretrained(folder, **kwargs)) is ViMLForMusicRetrieval
    assert type(AutoProcessor.from_pretrained(folder, **kwargs)) is ViMLProcessor
    assert type(pipeline("video-to-music", model=str(folder), device="cpu", **kwargs)) is VideoToMusicPipeline


def test_a_plain_save_before_and_after_holds_no_code(coded, model, tmp_path):
    model.save_pretrained(tmp_path / "plain")
    again = AutoModel.from_pretrained(coded)
    again.save_pretrained(tmp_path / "again")
    for name in ("plain", "again"):
        assert not list((tmp_path / name).rglob("*.py"))
        config = json.loads((tmp_path / name / "config.json").read_text())
        assert not {"custom_pipelines", "auto_map"} & set(config)


def test_a_model_of_features_needs_few_files(tmp_path):
    save_with_code(DeepSimModel(DeepSimConfig()), tmp_path)
    assert {path.name for path in (tmp_path / CODE_FOLDER).iterdir()} == {
        *("configuration_deepsim.py", "modeling_deepsim.py", "checked_loading.py"),
        *("loss_deepsim.py", "loss_viml.py"),
    }


def test_all_imports_are_of_siblings_that_travel_too(coded):
    files = {path.stem: path.read_text() for path in (coded / CODE_FOLDER).iterdir()}
    assert not any("from viml_hf" in line for text in files.values() for line in text.splitlines() if ">>>" not in line)
    again = flattened_code(["viml_hf.retrieval.video_to_music_pipeline"])
    assert all(files[name.removesuffix(".py")] == text for name, text in again.items())


@pytest.mark.parametrize("module", ["viml_hf.retrieval", "viml_hf.train.nothing"])
def test_what_cannot_travel_is_refused(module):
    with pytest.raises(ValueError, match="cannot travel"):
        flattened_code([module])


def test_a_folder_without_a_model_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ViMLError, match="not a saved model of viml_hf"):
        add_code(tmp_path)
