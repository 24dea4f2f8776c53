import pytest

from viml_hf.cli.main import main

SMALL = ["--pairs=14", "--held-out=6", "--seeds=1", "--epochs=2", "--workers=1", "--library=16", "--quiet"]


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """A small demo, left by the command itself."""
    folder = tmp_path_factory.mktemp("demo") / "out"
    assert main(["demo", "-o", str(folder), *SMALL]) == 0
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
