"""Reads what `viml extract` is given (folders, manifests, media files) into the items to extract.

A folder with one of `METADATA_FILES` (the `videofolder` and `audiofolder` layout of Hugging Face datasets) is read as
that manifest. In any other folder every media file is an item. A CSV of YouTube8M-MusicTextClips is recognised by its
columns.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from viml_hf.data.manifests import Placed, parse_row, read_manifest
from viml_hf.data.musictextclips import is_musictextclips, read_musictextclips
from viml_hf.data.table_rows import TABLE_SUFFIXES
from viml_hf.errors import ViMLError
from viml_hf.features.media_item import MediaItem
from viml_hf.processing.media import printable
from viml_hf.processing.media_files import MEDIA_SUFFIXES, find_media_files, suffix_of

_MEDIA = " ".join(sorted(MEDIA_SUFFIXES))
METADATA_FILES = ("metadata.csv", "metadata.jsonl", "metadata.parquet")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Sources:
    """What was found in the sources."""

    items: tuple[MediaItem, ...]  # in the order of the sources and of their rows; their files may be missing
    problems: tuple[str, ...] = ()  # rows that give no item: file, line, value and fix


def read_sources(sources: str | Path | Sequence[str | Path], *, media: str | Path | None = None) -> Sources:
    """The items of folders, manifests and media files.

    Files of a folder are named by their path in it, after the folder's own name if there are several sources. Of
    several rows with one id the first is an item.

    Args:
        sources: Paths. The same file or folder may not be given twice.
        media: Folder with the videos of YouTube8M-MusicTextClips, by default that of the CSV.

    Raises:
        ViMLError: A source is missing, is of no known kind, cannot be read or contains no item, or two folders have the
            same name.

    Example:
        >>> import tempfile
        >>> manifest = Path(tempfile.mkdtemp(), "manifest.csv")
        >>> _ = manifest.write_text("file_name,text,start,end\\na.mp4,calm piano,0:30,1:00\\n")
        >>> item = read_sources(manifest).items[0]
        >>> item.id, item.texts, item.start, item.end
        ('a.mp4', ('calm piano',), 30.0, 60.0)
    """
    paths = [os.fspath(source) for source in ([sources] if isinstance(sources, (str, Path)) else sources)]
    _refuse_ambiguous(paths)
    if media is not None and not any(map(is_musictextclips, paths)):
        raise ViMLError(f"media folder {printable(os.fspath(media))}: it is for a CSV of YouTube8M-MusicTextClips only")
    items: list[MediaItem] = []
    problems: list[str] = []
    places: dict[str, str] = {}  # where each id was first given
    for path in paths:
        prefix = f"{printable(_folder_name(path))}/" if len(paths) > 1 else ""
        for place, found in _read_source(path, prefix, media):
            if isinstance(found, ViMLError):
                problems.append(f"{place}: {found}")
            elif found.id in places:
                first = places[found.id]
                problems.append(f"{place}: id={found.id!r}: taken by {first}; give each item an id of its own")
            else:
                places[found.id] = place
                items.append(found)
    if not items:
        raise ViMLError(f"no item to extract; the first of {len(problems)} problems: {problems[0]}")
    return Sources(tuple(items), tuple(problems))


def _refuse_ambiguous(paths: Sequence[str]) -> None:
    """Refuse no source, a source given twice, and two folders with the same name."""
    if not paths:
        raise ViMLError("no source; give a folder, a manifest or a media file")
    names: dict[str, str] = {}
    for path in paths:
        is_folder = os.path.isdir(path)
        name = _folder_name(path) if is_folder else os.path.realpath(path)
        if name in names:
            fix = "rename one, or give the folder above them" if is_folder else "give it once"
            raise ViMLError(f"{printable(path)}: {printable(names[name])} has the same name; {fix}")
        names[name] = path


def _folder_name(path: str) -> str:
    return os.path.basename(os.path.abspath(path))


def _read_source(path: str, prefix: str, media: str | Path | None) -> Iterator[Placed]:
    """The items and problems of one source. The prefix goes before ids that are paths in a folder."""
    shown = printable(path)
    if os.path.isdir(path):
        metadata = [name for name in METADATA_FILES if os.path.isfile(os.path.join(path, name))]
        if len(metadata) > 1:
            raise ViMLError(f"{shown}: holds {' and '.join(metadata)}; keep one, or give the one to read as the source")
        return _read_metadata(path, metadata[0], prefix) if metadata else _read_folder(path, prefix)
    if not os.path.isfile(path):
        raise ViMLError(f"{shown}: no such file or folder; give a folder, a manifest or a media file")
    if is_musictextclips(path):
        videos = os.path.dirname(path) or "." if media is None else media
        if not os.path.isdir(videos):
            shown = printable(os.fspath(videos))
            raise ViMLError(f"{shown}: no such folder; give the one with the videos of the clips")
        return iter(read_musictextclips(path, find_media_files(videos)))
    if suffix_of(path) in TABLE_SUFFIXES:
        return iter(read_manifest(path))
    if suffix_of(path) in MEDIA_SUFFIXES:
        return iter([(shown, parse_row({"path": os.path.basename(path)}, os.path.dirname(path)))])
    raise ViMLError(f"{shown}: neither a manifest ({' '.join(TABLE_SUFFIXES)}) nor media ({_MEDIA})")


def _read_folder(folder: str, prefix: str) -> Iterator[Placed]:
    files = find_media_files(folder)
    if not files:
        raise ViMLError(f"{printable(folder)}: no media file in this folder; give one with media ({_MEDIA})")
    for file in files:
        item = parse_row({"path": file.relative_to(folder).as_posix()}, folder)
        yield printable(str(file)), replace(item, id=prefix + item.id)


def _read_metadata(folder: str, name: str, prefix: str) -> Iterator[Placed]:
    """The items of a folder's metadata file. A warning counts the media files that it does not name."""
    named = set()
    for place, found in read_manifest(os.path.join(folder, name), prefix):
        if isinstance(found, MediaItem):
            named |= {os.path.normpath(path) for path in (found.video, found.audio) if path}
        yield place, found
    unnamed = sum(os.path.normpath(file) not in named for file in find_media_files(folder))
    if unnamed:
        logger.warning("%s: %d media files are in no item of %s and are left out", printable(folder), unnamed, name)
