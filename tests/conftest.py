from pathlib import Path

import numpy as np
import pytest

from tests.stores import write_store
from viml_hf import Store, StoreSpec, StoreWriter
from viml_hf.cli.main import main


@pytest.fixture(scope="session")
def shared_media() -> Path:
    """Real media files beside the repository; they are no part of it."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "media"
    if not folder.is_dir():
        pytest.skip("no folder ../shared/media with real media files beside the repository")
    return folder


@pytest.fixture
def viml(capsys):
    """Run the command line; its exit status, and the lines of its output and of its errors."""

    def run(*arguments):
        capsys.readouterr()
        status = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return status, captured.out.splitlines(), [line for line in captured.err.splitlines() if line.strip()]

    return run


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="session")
def descriptors_store(tmp_path_factory):
    """A store of 24 items as wide as the descriptors, beside whose heads `train_model` can put the encoders."""
    widths = {"video": 160, "audio": 168, "text": 512}
    folder, generator = tmp_path_factory.mktemp("descriptors"), np.random.default_rng(0)
    with StoreWriter(folder, StoreSpec(dict.fromkeys(widths, "descriptors"), widths), np.zeros(512)) as writer:
        for index in range(24):
            rows = {modality: generator.standard_normal((4, width)) for modality, width in widths.items()}
            split = ("train", "train", "train", "validation", "train", "test")[index % 6]
            writer.add(f"{index:02d}", **rows, texts=["one", "two", "three", "four"], split=split)
    return Store(folder)
