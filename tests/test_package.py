import importlib.metadata
import subprocess
import sys

import pytest

import viml_hf
from tests.surface import SURFACE_FILE, surface

BASE = "import torch, transformers; from transformers import AutoModel, PreTrainedModel"
STARTED = f"""
import sys, time; {BASE}
before, began = set(sys.modules), time.process_time()
import viml_hf
print(time.process_time() - began, *(set(sys.modules) - before))
from viml_hf import Store, StoreWriter
print("datasets" in sys.modules)
"""


def test_an_import_adds_little_and_leaves_the_rest_alone():
    """Under 0.3 s of computing over what every user of transformers has imported anyway.

    Neither training, nor the demo's generator, nor a data frame library is loaded; `datasets` not even by a store.
    """
    seconds = []
    # The least of several counts: a busy machine only adds.
    while min(seconds, default=1.0) >= 0.3 and len(seconds) < 5:
        done = subprocess.run([sys.executable, "-c", STARTED], capture_output=True, text=True, check=True)
        (spent, *loaded), (with_store,) = (line.split() for line in done.stdout.splitlines())
        seconds.append(float(spent))
    assert min(seconds) < 0.3, seconds
    unwanted = {"pyarrow", "pandas", "datasets", "accelerate", "viml_hf.train", "viml_hf.data", "viml_hf.retrieval"}
    assert not unwanted & {*loaded}
    assert with_store == "False"
    assert done.stderr == ""


@pytest.mark.parametrize("name", viml_hf.__all__)
def test_every_public_name_loads_and_is_documented(name):
    assert getattr(viml_hf, name).__doc__


def test_public_names_and_commands_are_those_taken_down():
    """Whoever changes one on purpose takes them down anew, and says so in the CHANGELOG."""
    assert surface() == SURFACE_FILE.read_text(encoding="utf-8").splitlines()


def test_an_unknown_name_is_named():
    with pytest.raises(AttributeError, match="ViMLModel"):
        viml_hf.ViMLModle  # noqa: B018


def test_the_version_is_the_installed_one():
    assert viml_hf.__version__ == importlib.metadata.version("viml-hf")


def test_auto_classes_know_the_package():
    from transformers import AutoConfig, AutoModel

    config = AutoConfig.for_model("viml", hidden_size=16, projection_dim=16, num_attention_heads=2)
    assert type(AutoModel.from_config(config)) is viml_hf.ViMLModel
