from pathlib import Path

import pytest

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
