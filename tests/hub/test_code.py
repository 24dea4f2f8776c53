"""A saved model with its code loads, and computes the same bits, where this package is not installed."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoProcessor, pipeline

from tests.media import sine, write_audio, write_video
from viml_hf import (
    DeepSimConfig,
    DeepSimFeatureExtractor,
    DeepSimModel,
    VideoToMusicPipeline,
    ViMLError,
    ViMLForMusicRetrieval,
    ViMLProcessor,
    save_with_code,
)
from viml_hf.hub.code import CODE_FOLDER, add_code, flattened_code

SMALL = {"hidden_size": 16, "projection_dim": 16, "num_attention_heads": 2, "intermediate_size": 32}

LOAD_MODEL = """
import sys
import torch
from transformers import AutoConfig, AutoModel

folder, inputs, method, embeds = sys.argv[1:]
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
assert "transformers_modules" in type(model).__module__
found = getattr(model, method)(**torch.load(inputs)).pooler_output
print(config.model_type, torch.equal(found, torch.load(embeds)))
"""

RANK = """
import json, sys
import torch
from transformers import AutoModel, AutoProcessor, pipeline

folder, video, *music = sys.argv[1:]
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
with torch.inference_mode():
    output = model(**processor(videos=[video], text=["slow piano"], audio=music))
recommend = pipeline("video-to-music", model=folder, trust_remote_code=True, music=music, device="cpu")
assert all("transformers_modules" in type(part).__module__ for part in (model, processor, recommend))
print(json.dumps([output.logits_per_query.tolist(), recommend({"video": video, "text": "slow piano"})]))
"""


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return ViMLForMusicRetrieval.from_encoders(**SMALL)


@pytest.fixture(scope="module")
def processor():
    return ViMLProcessor.from_encoders()


@pytest.fixture(scope="module")
def folder(model, processor, tmp_path_factory):
    folder = tmp_path_factory.mktemp("with-code") / "model"
    save_with_code(model, folder, processor)
    return folder


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    music = [write_audio(folder / f"{pitch}.wav", sine(pitch, 5, 22050), 22050) for pitch in (220, 440)]
    return [str(write_video(folder / "query.mp4", 48)), *map(str, music)]


@pytest.fixture
def environment(tmp_path):
    return {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}


def same_elsewhere(run_clean, environment, model, inputs, method, tmp_path):
    """Whether a model saved with code gives the same features in a process without the package, and its model type."""
    save_with_code(model, tmp_path / "model")
    with torch.no_grad():
        embeds = getattr(model, method)(**inputs).pooler_output
    torch.save(inputs, tmp_path / "inputs.pt")
    torch.save(embeds, tmp_path / "embeds.pt")
    words = tmp_path / "model", tmp_path / "inputs.pt", method, tmp_path / "embeds.pt"
    return run_clean(LOAD_MODEL, *words, env=environment, without_package=True).split()


def test_heads_alone(run_clean, environment, model, tmp_path):
    inputs = {"video_features": torch.randn(2, 3, 160)}
    same = same_elsewhere(run_clean, environment, model.viml, inputs, "get_query_features", tmp_path)
    assert same == ["viml", "True"]
    assert not (tmp_path / "model" / CODE_FOLDER / "modeling_deepsim.py").exists()


def test_the_whole_model(run_clean, environment, model, processor, tmp_path):
    inputs = dict(processor(text=["slow piano", None]))
    same = same_elsewhere(run_clean, environment, model, inputs, "get_query_features", tmp_path)
    assert same == ["viml_music_retrieval", "True"]


def test_a_model_with_deepsim(run_clean, environment, tmp_path):
    model = ViMLForMusicRetrieval.from_encoders(audio=DeepSimModel(DeepSimConfig()), **SMALL)
    features = DeepSimFeatureExtractor()(np.zeros(66150, np.float32), sampling_rate=22050, return_tensors="pt")
    inputs = {"input_features": features["input_features"][None, None], "audio_window_mask": torch.ones(1, 1, 1)}
    same = same_elsewhere(run_clean, environment, model, inputs, "get_audio_features", tmp_path)
    assert same == ["viml_music_retrieval", "True"]


def test_from_files_to_a_ranking(run_clean, environment, folder, model, processor, media):
    video, *music = media
    logits, ranking = json.loads(run_clean(RANK, folder, *media, env=environment, without_package=True))
    with torch.inference_mode():
        expected = model.eval()(**processor(videos=[video], text=["slow piano"], audio=music)).logits_per_query
    assert logits == expected.tolist()
    here = pipeline("video-to-music", model=str(folder), music=music, device="cpu")
    assert ranking == here({"video": video, "text": "slow piano"})
    assert [found["rank"] for found in ranking] == [1, 2]


@pytest.mark.parametrize("trust", [None, False, True])
def test_where_the_package_is_no_code_of_the_folder_is_run(folder, tmp_path, trust):
    folder = shutil.copytree(folder, tmp_path / "model")
    for path in (folder / CODE_FOLDER).iterdir():
        path.write_text("raise SystemExit('code of the folder was run')")
    kwargs = {} if trust is None else {"trust_remote_code": trust}
    assert type(AutoModel.from_pretrained(folder, **kwargs)) is ViMLForMusicRetrieval
    assert type(AutoProcessor.from_pretrained(folder, **kwargs)) is ViMLProcessor
    assert type(pipeline("video-to-music", model=str(folder), device="cpu", **kwargs)) is VideoToMusicPipeline


def test_a_plain_save_before_and_after_holds_no_code(folder, model, tmp_path):
    model.save_pretrained(tmp_path / "plain")
    again = AutoModel.from_pretrained(folder)
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


def test_all_imports_are_of_siblings_that_travel_too(folder):
    files = {path.stem: path.read_text() for path in (folder / CODE_FOLDER).iterdir()}
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
