"""Reads a manifest: a table with one media file a row, into the items to extract.

Paths are relative to the manifest's folder. Its columns, each of which a row may leave empty:

    file_name, video or path   the video, with its own sound, or a music file
    audio or music             the sound, if it is another file
    id                         a unique name; by default the path as written
    start, end                 the excerpt: seconds, mm:ss or hh:mm:ss
    text, texts                one description of the music, or a list (in a CSV file a JSON list)
    licence or license, …      every other column is kept with the item
"""

import json
import math
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from viml_hf.data.table_rows import parsed, quoted, read_rows
from viml_hf.errors import ViMLError
from viml_hf.features.media_item import MediaItem
from viml_hf.processing.media import printable
from viml_hf.processing.media_files import AUDIO_SUFFIXES, suffix_of

MAX_DEPTH = 50  # of lists and objects in a field
FILE_COLUMNS = ("file_name", "video", "path")  # the first that a row has; the others are kept as fields
SOUND_COLUMNS = ("audio", "music")
_CLOCK = re.compile(r"(?:(\d+):(?=[0-5]?\d:))?(\d+):([0-5]?\d(?:\.\d*)?)", re.ASCII)

Placed = tuple[str, MediaItem | ViMLError]  # file and line, and what is there


def read_manifest(path: str, prefix: str = "") -> list[Placed]:
    """The place (file and line) of each row of a manifest, with its item or its error.

    A row without an id is named by its path, with the prefix before it, and with the excerpt's times behind it where
    several rows are excerpts of one file.

    Example:
        >>> import tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "m.csv")
        >>> with open(path, "w") as file: _ = file.write("path,start,end\\na.mp4,0,10\\na.mp4,10,20\\n")
        >>> [item.id for _, item in read_manifest(path)]
        ['a.mp4#0-10', 'a.mp4#10-20']
    """
    columns, rows = read_rows(path)
    if columns and not {*FILE_COLUMNS, *SOUND_COLUMNS}.intersection(columns):
        raise ViMLError(
            f"{printable(path)}: its columns are {quoted(columns, 200)}, of which none names a media file; "
            f"call the one with the paths {', '.join([*FILE_COLUMNS, *SOUND_COLUMNS])}"
        )
    folder = os.path.dirname(path)
    found: list[Placed] = []
    unnamed: dict[int, MediaItem] = {}  # without an id of their own, by their place in `found`
    for place, one in parsed(rows, lambda row: (parse_row(row, folder), _is_missing(row.get("id")))):
        if isinstance(one, tuple) and one[1]:
            unnamed[len(found)] = one[0]
        found.append((place, one[0] if isinstance(one, tuple) else one))
    if not found:
        raise ViMLError(f"{printable(path)}: no row; give one row a media file")
    count = Counter(item.id for item in unnamed.values())
    for at, item in unnamed.items():
        item_id = prefix + item.id
        if count[item.id] > 1 and (item.start, item.end) != (None, None):
            item_id += f"#{item.start or 0:.15g}-" + ("" if item.end is None else f"{item.end:.15g}")
        if item_id != item.id:
            found[at] = (found[at][0], replace(item, id=item_id))
    return found


def parse_row(row: Mapping[str, Any], folder: str = "") -> MediaItem:
    """The item of one row, with cells by column; empty texts, `None` and NaN are missing. No file is opened.

    Example:
        >>> item = parse_row({"path": "a.wav", "end": "1:30", "license": "CC0", "mood": ""}, "music")
        >>> item.id, item.video, item.audio, item.end, item.fields
        ('a.wav', None, 'music/a.wav', 90.0, {'licence': 'CC0'})
    """
    given = {name: value for name, value in row.items() if name and not _is_missing(value)}
    file, sound = _take_path(given, FILE_COLUMNS), _take_path(given, SOUND_COLUMNS)
    written = file or sound
    if written is None:
        raise ViMLError("no media file; give its path as file_name, video, path or audio")
    if file is not None and suffix_of(file) in AUDIO_SUFFIXES:
        if sound is not None:
            raise ViMLError(f"audio={quoted(sound)}: {quoted(file)} is music already; give a video, or one music file")
        file, sound = None, file
    item_id = _take_id(given, written)
    texts = _take_texts(given)
    start, end = _take_seconds(given, "start"), _take_seconds(given, "end")
    if end is not None and (start or 0.0) >= end:
        raise ViMLError(f"end={end:.15g}: not after start={start or 0:.15g}; give the end of the excerpt in seconds")
    fields = {printable(name): _storable(value) for name, value in given.items()}
    if "license" in fields:
        fields.setdefault("licence", fields.pop("license"))
    if not isinstance(fields.get("licence", ""), str):
        raise ViMLError(f"licence={quoted(fields['licence'])}: not a text; give its name, such as CC0")
    video = None if file is None else _as_on_disk(os.path.join(folder, file))
    return MediaItem(
        id=item_id,
        video=video,
        audio=video if sound is None else _as_on_disk(os.path.join(folder, sound)),
        texts=texts,
        start=start,
        end=end,
        fields=fields,
    )


def parse_seconds(value: Any) -> float:
    """A time in seconds, of a number or a text such as "12.5", "1:05" or "1:02:03.5".

    Example:
        >>> parse_seconds("1:02:03.5")
        3723.5
    """
    text = "" if type(value) in (int, float) else str(value).strip()
    try:
        if not text:
            seconds = float(value)
        elif clock := _CLOCK.fullmatch(text):
            hours, minutes, rest = map(float, clock.groups("0"))
            seconds = 3600 * hours + 60 * minutes + rest
        else:
            seconds = float(text)
    except (ValueError, OverflowError):
        seconds = math.nan
    if not math.isfinite(seconds):
        raise ViMLError(f"{quoted(value)}: not a time; give seconds (12.5), mm:ss or hh:mm:ss")
    if seconds < 0:
        raise ViMLError(f"{quoted(value)}: negative; give seconds from the file's start")
    return seconds


def _take_path(given: dict[str, Any], columns: Sequence[str]) -> str | None:
    """Remove the first of these columns that the row has, and return its path."""
    column = next((name for name in columns if name in given), None)
    if column is None:
        return None
    path = given.pop(column)
    try:
        if isinstance(path, str) and b"\0" not in os.fsencode(path):
            return path
    except UnicodeEncodeError:
        pass
    raise ViMLError(f"{column}={quoted(path)}: not a path; give the path of a media file")


def _take_id(given: dict[str, Any], default: str) -> str:
    value = given.pop("id", default)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ViMLError(f"id={quoted(value)}: not a name; give a text or a number")
    return printable(str(value))


def _take_seconds(given: dict[str, Any], column: str) -> float | None:
    value = given.pop(column, None)
    try:
        return None if value is None else parse_seconds(value)
    except ViMLError as error:
        raise ViMLError(f"{column}={error}") from None


def _take_texts(given: dict[str, Any]) -> tuple[str, ...]:
    """The description under `text`, then those under `texts`, without repetitions."""
    text, texts = given.pop("text", ""), given.pop("texts", [])
    if not isinstance(text, str):
        raise ViMLError(f"text={quoted(text)}: not a text; give one description, or a list of them as texts")
    listed = texts
    if isinstance(texts, str):
        try:
            listed = json.loads(texts)
        except (ValueError, RecursionError):
            listed = None
    if not isinstance(listed, list) or not all(isinstance(one, str) or _is_missing(one) for one in listed):
        raise ViMLError(f'texts={quoted(texts)}: not a list of texts; give ["one", "another"], or one of them as text')
    return tuple(dict.fromkeys(printable(one) for one in [text, *listed] if not _is_missing(one)))


def _is_missing(value: Any) -> bool:
    if isinstance(value, str):
        return not value or value.isspace()
    return value is None or value != value  # NaN


def _as_on_disk(path: str) -> str:
    """A path with its letters coded as the file's name has them: é may be one character or two."""
    if path.isascii():
        return path
    spellings = [path, *(unicodedata.normalize(form, path) for form in ("NFC", "NFD"))]
    return next((spelling for spelling in spellings if os.path.exists(spelling)), path)


def _depth(value: Any) -> int:
    """How deep lists and objects are nested, counted up to a little over `MAX_DEPTH`."""
    depth, level = 0, [value]
    while level and depth <= MAX_DEPTH:
        nested = [one for one in level if isinstance(one, list | dict)]
        level = [inner for one in nested for inner in (one.values() if isinstance(one, dict) else one)]
        depth += bool(nested)
    return depth


def _storable(value: Any) -> Any:
    """A field's value as JSON in UTF-8 can store it; dates and the like become text."""
    if isinstance(value, str):
        return printable(value)
    if type(value) in (bool, int, float):
        return value
    if _depth(value) > MAX_DEPTH:
        raise ViMLError(f"{quoted(value)}: nested deeper than {MAX_DEPTH} levels; give simpler values")
    return json.loads(json.dumps(value, ensure_ascii=False, default=str).encode("utf-8", "replace"))
