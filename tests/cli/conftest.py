import pytest

from viml_hf.cli.main import main

SMALL = ["--pairs=14", "--held-out=6", "--seeds=1", "--epochs=2", "--workers=1", "--library=16", "--quiet"]


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """A small demo, left by the command itself."""
    folder = tmp_path_factory.mktemp("demo") / "out"
    assert main(["demo", "-o", str(folder), *SMALL]) == 0
    return folder
