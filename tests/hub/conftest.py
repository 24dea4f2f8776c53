import json
import os
import shutil
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest
import torch
import transformers.dynamic_module_utils
import transformers.utils.hub
from huggingface_hub import close_session, constants, hf_api

from tests.hub.cards import result
from tests.hub.server import READ_TOKEN, TOKEN, Hub, concerns_the_hub
from tests.media import sine, write_audio, write_video
from tests.modeling.tiny import HEADS
from viml_hf import DeepSimConfig, DeepSimModel, ViMLForMusicRetrieval, ViMLProcessor
from viml_hf.hub.evaluation_results import save_evaluation

# Placed before a snippet, has it run as where the package is not installed.
WITHOUT_PACKAGE = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "viml_hf":
            raise ModuleNotFoundError(name)

sys.meta_path.insert(0, Missing())
"""


@pytest.fixture
def hub():
    """A running Hub. Only processes with its `environment(…)` know of it; see `connected_hub`."""
    hub = Hub()
    yield hub
    hub.close()


@pytest.fixture
def connected_hub(hub, monkeypatch, tmp_path):
    """A running Hub that this very process talks to, with its token, an empty cache, and no waits between retries.

    huggingface_hub reads the environment when it is imported, so its constants are replaced; they are looked up when
    used. Tokens alone are read from the environment in time: `monkeypatch.setenv("HF_TOKEN", …)` works. For offline,
    `monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)`. Load remote code in a process of its own (`run_clean`).
    """
    for name in filter(concerns_the_hub, list(os.environ)):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    home = tmp_path / "hf_home"
    values = {
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HOME": str(home),
        "HF_HUB_CACHE": str(home / "hub"),
        "HF_TOKEN_PATH": str(home / "token"),
        "HF_STORED_TOKENS_PATH": str(home / "stored_tokens"),
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_TELEMETRY": True,
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": False,
    }
    for name, value in values.items():
        monkeypatch.setattr(constants, name, value)
    # `huggingface_hub.create_repo` and the like are methods of one object; transformers makes another at first use.
    monkeypatch.setattr(hf_api.api, "endpoint", hub.url)
    monkeypatch.setattr(hf_api.api, "_whoami_cache", {})
    monkeypatch.setattr(transformers.utils.hub, "_hf_api", None)
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(home / "modules"))
    monkeypatch.setattr(sys, "path", list(sys.path))
    for module in ("huggingface_hub.utils._http", "huggingface_hub.file_download"):
        monkeypatch.setattr(f"{module}.time", SimpleNamespace(sleep=lambda seconds: None))
    close_session()  # the session keeps connections, and the proxies that it was made with
    yield hub
    close_session()


@pytest.fixture
def run_clean():
    """`run_clean(code, *args, env=…)` runs a snippet in a new process and returns what it printed.

    `env` is from `Hub.environment`; with `without_package=True` the process cannot import `viml_hf`. No token may be
    printed.
    """

    def run(code, *args, env, without_package=False):
        code = (WITHOUT_PACKAGE if without_package else "") + textwrap.dedent(code)
        words = [sys.executable, "-c", code, *map(str, args)]
        done = subprocess.run(words, capture_output=True, text=True, env=env, timeout=120)
        assert done.returncode == 0, done.stderr
        assert not any(token in done.stdout + done.stderr for token in (TOKEN, READ_TOKEN))
        return done.stdout

    return run


@pytest.fixture(scope="session")
def published_model(tmp_path_factory):
    """The folder of a model with its processor, what training leaves beside them, and one result."""
    folder = tmp_path_factory.mktemp("published") / "my model"
    torch.manual_seed(0)
    model = ViMLForMusicRetrieval.from_encoders(**HEADS)
    model.save_pretrained(folder)
    ViMLProcessor.from_encoders().save_pretrained(folder)
    store = {"video": "clip:/home/somebody/clip", "text": "descriptors", "audio": "descriptors"}
    training = {"store": store, "training_items": 320, "evaluation_items": 80, "settings": {"epochs": 3}}
    (folder / "training.json").write_text(json.dumps(training))
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "optimizer.pt").write_bytes(b"not for others")
    (folder / "training_args.bin").write_bytes(b"a pickle")
    dataset = {"id": "tester/benchmark", "task": "default"}
    save_evaluation(folder, model.config.viml_config, result(store=str(folder / "STORE")), dataset)
    return folder


@pytest.fixture
def folder(published_model, tmp_path):
    """A copy of `published_model`."""
    return shutil.copytree(published_model, tmp_path / "saved")


@pytest.fixture
def non_commercial(tmp_path):
    """The folder of a model with an audio encoder that is not for commercial use."""
    model = ViMLForMusicRetrieval.from_encoders(audio=DeepSimModel(DeepSimConfig()), **HEADS)
    model.config.encoder_sources["audio"] = {"name": "weights-of-mine", "licence": "cc-by-nc-4.0"}
    model.save_pretrained(tmp_path / "non-commercial")
    ViMLProcessor.from_encoders().save_pretrained(tmp_path / "non-commercial")
    return tmp_path / "non-commercial"


@pytest.fixture(scope="session")
def media(tmp_path_factory):
    """A video and two pieces of music, as paths."""
    folder = tmp_path_factory.mktemp("media")
    music = [write_audio(folder / f"{pitch}.wav", sine(pitch, 5, 22050), 22050) for pitch in (220, 440)]
    return [str(write_video(folder / "query.mp4", 48)), *map(str, music)]
