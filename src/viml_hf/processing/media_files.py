"""Which files are media, by their names, and where they lie."""

import logging
import os
from pathlib import Path

from viml_hf.processing.media import printable

_AUDIO = ".aac .aif .aiff .flac .m4a .mka .mp2 .mp3 .oga .ogg .opus .wav .wma"
_VIDEO = ".avi .m4v .mkv .mov .mp4 .mpg .webm"
AUDIO_SUFFIXES = frozenset(_AUDIO.split())
MEDIA_SUFFIXES = AUDIO_SUFFIXES | frozenset(_VIDEO.split())

logger = logging.getLogger(__name__)


def suffix_of(path: str) -> str:
    """A path's suffix with its dot, in lower case.

    Example:
        >>> suffix_of("music/Song.MP3")
        '.mp3'
    """
    return os.path.splitext(path)[1].lower()


def find_media_files(folder: str | Path) -> list[Path]:
    """All media files below a folder, sorted; none if there is no such folder.

    Hidden files and folders are left out. A link to a file counts as a file, even if the file is missing; links to
    folders are not followed, and are counted in a warning.

    Args:
        folder: A folder, or a link to one.

    Returns:
        Paths that begin with `folder`, of files whose suffix is in `MEDIA_SUFFIXES`.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("b.wav", "a.MP4", ".c.mp4", "notes.txt"): (folder / name).touch()
        >>> [path.name for path in find_media_files(folder)]
        ['a.MP4', 'b.wav']
    """
    files: list[Path] = []
    links: list[str] = []
    for parent, folders, names in os.walk(folder, onerror=_warn_unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        links += [path for name in folders if os.path.islink(path := os.path.join(parent, name))]
        for name in names:
            if suffix_of(name) in MEDIA_SUFFIXES and not name.startswith("."):
                path = os.path.join(parent, name)
                # A pipe or a device would be waited for; what a broken link names is to be reported as missing.
                if os.path.isfile(path) or not os.path.exists(path):
                    files.append(Path(path))
    if links:
        logger.warning(
            "linked folders not read: %d, such as %s; give them as sources", len(links), printable(min(links))
        )
    return sorted(files)


def _warn_unreadable(error: OSError) -> None:
    logger.warning("%s: not read (%s)", printable(str(error.filename)), error.strerror)
