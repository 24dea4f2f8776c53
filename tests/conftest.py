from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_media() -> Path:
    """Real media files beside the repository; they are no part of it."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "media"
    if not folder.is_dir():
        pytest.skip("no folder ../shared/media with real media files beside the repository")
    return folder
