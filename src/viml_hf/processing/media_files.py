"""Which files are media, by their names, and where they lie."""

import logging
import mimetypes
import os
from pathlib import Path

from viml_hf.processing.media import holds_media, printable

_AUDIO = (
    ".aac .ac3 .aif .aifc .aiff .amr .ape .au .caf .dts .eac3 .flac .m4a .m4b .mka .mp2 .mp3 .mpc .oga .ogg .opus .snd "
    ".spx .tta .w64 .wav .weba .wma .wv"
)
_VIDEO = (
    ".3g2 .3gp .asf .avi .divx .dv .f4v .flv .m1v .m2ts .m2v .m4v .mkv .mov .mp4 .mpe .mpeg .mpg .mts .mxf .ogv .qt "
    ".rm .rmvb .ts .vob .webm .wmv"
)
# Of lists, notes and data that lie beside media, and that the table of the operating system may not know.
_OTHERS = ".cue .db .ini .jsonl .log .lrc .m3u .m3u8 .nfo .parquet .pls .safetensors .sfv .url".split()  # noqa: SIM905
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

    Pictures, texts and archives are known by their suffix and left out, as are hidden files and folders. A file of an
    unknown suffix is opened to see whether it holds media; those that do not are counted in a warning. So are links to
    folders, which are not followed. A link to a file counts as a file, even if the file is missing.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> for name in ("b.wav", "a.MP4", ".c.mp4", "notes.txt"): (folder / name).touch()
        >>> [path.name for path in find_media_files(folder)]
        ['a.MP4', 'b.wav']
    """
    files: list[Path] = []
    links: list[str] = []
    others: list[Path] = []
    for parent, folders, names in os.walk(folder, onerror=_warn_unreadable):
        folders[:] = [name for name in folders if not name.startswith(".")]
        links += [path for name in folders if os.path.islink(path := os.path.join(parent, name))]
        for name in names:
            path = os.path.join(parent, name)
            # A pipe or a device would be waited for; what a broken link names is to be reported as missing.
            if name.startswith(".") or not (os.path.isfile(path) or not os.path.exists(path)):
                continue
            if suffix_of(name) in MEDIA_SUFFIXES:
                files.append(Path(path))
            elif not _is_of_other_kind(name):
                (files if holds_media(path) else others).append(Path(path))
    if others:
        logger.warning(
            "files without sound or video, not read: %d, such as %s", len(others), printable(str(min(others)))
        )
    if links:
        logger.warning(
            "linked folders not read: %d, such as %s; give them as sources", len(links), printable(min(links))
        )
    return sorted(files)


def _warn_unreadable(error: OSError) -> None:
    logger.warning("%s: not read (%s)", printable(str(error.filename)), error.strerror)


def _is_of_other_kind(name: str) -> bool:
    """Whether a suffix is known to be that of a picture, a text, a program or an archive."""
    kind, _ = mimetypes.guess_type(name)
    if suffix_of(name) in _OTHERS:
        return True
    return kind is not None and kind.partition("/")[0] in ("image", "text", "application", "font", "message")
