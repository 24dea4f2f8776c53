import contextlib
import io

import pytest
import torch

from tests.retrieval.conftest import make_encoder
from viml_hf import DeepSimConfig, DeepSimFeatureExtractor, DeepSimForMusicTagging
from viml_hf.cli.main import main

SMALL = ["--pairs=14", "--held-out=6", "--seeds=1", "--epochs=2", "--workers=1", "--library=16", "--quiet"]


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """The folder of a small model with random weights."""
    folder = tmp_path_factory.mktemp("model")
    encoder = make_encoder(0)
    encoder.model.save_pretrained(folder)
    encoder.processor.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tagger(tmp_path_factory):
    """A tiny tagger without training."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tagger")
    config = DeepSimConfig(
        hidden_size=16,
        num_blocks=1,
        id2label={0: "pop", 1: "sad", 2: "piano"},
        label_categories=["genre", "mood", "instrument"],
    )
    DeepSimForMusicTagging(config).save_pretrained(folder)
    DeepSimFeatureExtractor().save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """A small demo, left by the command itself; `printed.txt` beside it is what it printed."""
    folder = tmp_path_factory.mktemp("demo") / "out"
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert main(["demo", "-o", str(folder), *SMALL]) == 0
    (folder.parent / "printed.txt").write_text(printed.getvalue())
    return folder
