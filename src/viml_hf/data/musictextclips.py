"""YouTube8M-MusicTextClips (McKee et al. 2023, Zenodo 8040754): a text for the music of 10 s of a video.

Its CSV files have the columns `video_id`, `start`, `end` and `text`. They contain no media: users have the videos
themselves, each in a file named by its id. The texts are under a non-commercial licence of Adobe Research.
"""

import csv
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from viml_hf.data.manifests import FILE_COLUMNS, SOUND_COLUMNS, Placed, parse_row
from viml_hf.data.table_rows import parsed, read_rows
from viml_hf.errors import ViMLError
from viml_hf.features.media_item import MediaItem
from viml_hf.modeling.clip_windows import CLIP_SEGMENTS
from viml_hf.processing.media import printable
from viml_hf.processing.media_files import AUDIO_SUFFIXES, suffix_of
from viml_hf.processing.segments import SEGMENT_SECONDS

COLUMNS = ("video_id", "start", "end", "text")
CLIP_SECONDS = CLIP_SEGMENTS * SEGMENT_SECONDS
LICENCE = "Adobe Research, non-commercial"
_SPLIT = re.compile(r"(?<![a-z])(train|test|val|valid|validation)(?![a-z])")

logger = logging.getLogger(__name__)


def is_musictextclips(path: str) -> bool:
    """Whether a file is a CSV with these columns and, unlike a manifest, without one that names a media file."""
    if suffix_of(path) != ".csv":
        return False
    try:
        with open(path, "rb") as file:
            header = file.readline(10_000).decode("utf-8-sig")
        columns = {name.strip() for name in next(csv.reader([header]), [])}
    except (OSError, ValueError, csv.Error):
        return False  # the reader of manifests says what is wrong
    return columns.issuperset(COLUMNS) and columns.isdisjoint((*FILE_COLUMNS, *SOUND_COLUMNS))


def read_musictextclips(path: str, files: Iterable[str | os.PathLike[str]]) -> list[Placed]:
    """File and line of each row of the CSV, with its item or its error; missing videos are also counted in a warning.

    The `files` are named by the ids of the videos. An item is the 30 s around its 10 s (PAPER section 3, clip level).
    Its split is the column `split`, or the split that the CSV's name contains. Its id is the video's, followed by the
    described times if a video has several.
    """
    by_id = files_by_id(files)
    split = _SPLIT.search(Path(path).stem.lower())
    default = {"split": "validation" if split[0].startswith("val") else split[0]} if split else {}
    columns, lines = read_rows(path)
    rows = list(lines)
    if not rows:
        raise ViMLError(f"{printable(path)}: no row; give a CSV of YouTube8M-MusicTextClips")
    video_ids = [row.get("video_id", "").strip() for _, row in rows if isinstance(row, dict)]
    count = Counter(video_ids)
    missing = sum(video_id not in by_id for video_id in video_ids)
    if missing:
        logger.warning("%s: of %d clips %d have no video at hand", printable(path), len(rows), missing)

    def parse(row: dict[str, str]) -> MediaItem:
        if len(row) < len(columns):
            raise ViMLError(f"{len(row)} cells for {len(columns)} columns; put commas in quotes")
        cells = {name: cell.strip() for name, cell in row.items()}
        item = _item(default | {name: cell for name, cell in cells.items() if cell}, by_id)
        if count[cells["video_id"]] > 1:
            item = replace(item, id="{}#{:.15g}-{:.15g}".format(item.id, *item.fields["described"]))
        return item

    return list(parsed(rows, parse))


def clip_around(start: float, end: float) -> tuple[float, float]:
    """The 30 s around an excerpt; moved to start at 0 if they would start before the file."""
    clip_start = max(0.0, (start + end - CLIP_SECONDS) / 2)
    return clip_start, clip_start + CLIP_SECONDS


def files_by_id(files: Iterable[str | os.PathLike[str]]) -> dict[str, str]:
    """Media files by their names without the suffix; of one name the first video, else the first music file."""
    by_id: dict[str, str] = {}
    for path in sorted((os.fspath(file) for file in files), key=lambda path: (suffix_of(path) in AUDIO_SUFFIXES, path)):
        by_id.setdefault(Path(path).stem, path)
    return by_id


def _item(row: Mapping[str, str], by_id: Mapping[str, str]) -> MediaItem:
    video_id = row.get("video_id", "")
    if video_id not in by_id:
        raise ViMLError(f"video_id={video_id!r:.80}: no file of that name; put the video there, or name its folder")
    # The rules of a manifest hold for the times, the text, and all other columns.
    others = {name: value for name, value in row.items() if name != "video_id"}
    item = parse_row({**others, "id": video_id, "path": by_id[video_id]})
    if item.start is None or item.end is None:
        raise ViMLError(f"video_id={video_id!r:.80}: no start or no end; give the described seconds")
    start, end = clip_around(item.start, item.end)
    fields = item.fields | {"described": [item.start, item.end], "text_licence": LICENCE}
    return replace(item, start=start, end=end, fields=fields)
