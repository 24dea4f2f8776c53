import os
import subprocess
import sys

import pytest
import torch

from viml_hf import ViMLForMusicRetrieval, ViMLProcessor, save_with_code

# In the process below `viml_hf` cannot be imported, as where it is not installed.
CODE = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "viml_hf":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
import torch
from transformers import AutoConfig, AutoModel

folder, inputs, embeds = sys.argv[1:]
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
assert "transformers_modules" in type(model).__module__
found = model.get_query_features(**torch.load(inputs)).pooler_output
print(config.model_type, torch.equal(found, torch.load(embeds)))
"""

SMALL = {"hidden_size": 16, "projection_dim": 16, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return ViMLForMusicRetrieval.from_encoders(**SMALL)


def load_elsewhere(folder, inputs, embeds, tmp_path):
    torch.save(inputs, tmp_path / "inputs.pt")
    torch.save(embeds, tmp_path / "embeds.pt")
    words = [sys.executable, "-c", CODE, folder, tmp_path / "inputs.pt", tmp_path / "embeds.pt"]
    environment = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([str(w) for w in words], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@torch.no_grad()
def test_heads_load_without_the_package(model, tmp_path):
    save_with_code(model.viml, tmp_path / "model")
    inputs = {"video_features": torch.randn(2, 3, 160)}
    embeds = model.viml.get_query_features(**inputs).pooler_output
    assert load_elsewhere(tmp_path / "model", inputs, embeds, tmp_path) == ["viml", "True"]


@torch.no_grad()
def test_the_whole_model_loads_without_the_package(model, tmp_path):
    save_with_code(model, tmp_path / "model")
    inputs = dict(ViMLProcessor.from_encoders()(text=["slow piano", None]))
    embeds = model.get_query_features(**inputs).pooler_output
    assert load_elsewhere(tmp_path / "model", inputs, embeds, tmp_path) == ["viml_music_retrieval", "True"]


def test_a_plain_save_before_and_after_holds_no_code(model, tmp_path):
    save_with_code(model, tmp_path / "code")
    model.save_pretrained(tmp_path / "plain")
    assert list((tmp_path / "code").glob("*.py"))
    assert not list((tmp_path / "plain").glob("*.py"))
    assert "auto_map" not in (tmp_path / "plain" / "config.json").read_text()
