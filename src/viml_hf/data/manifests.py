"""Reads a manifest: a table of media files with their excerpts, texts and licences, into the items to extract.

A manifest is a `.csv`, `.tsv`, `.jsonl`, `.ndjson` or `.parquet` file with one item a row; paths are relative to its
folder. Its columns, each of which a row may leave empty:

    file_name, video or path   the video, with its own sound, or a music file
    audio or music             the sound, if it is another file
    id                         a unique name; by default the path as written
    start, end                 the excerpt: seconds, mm:ss or hh:mm:ss
    text, texts                one description of the music, or a list (in a CSV file a JSON list)
    licence or license, …      every other column is kept with the item
"""

import csv
import io
import json
import logging
import math
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from viml_hf.errors import ViMLError, in_one_line
from viml_hf.features.media_item import MediaItem
from viml_hf.processing.media import printable
from viml_hf.processing.media_files import AUDIO_SUFFIXES, suffix_of

MAX_DEPTH = 50  # of lists and objects in a field
MANIFEST_SUFFIXES = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
FILE_COLUMNS = ("file_name", "video", "path")  # the first that a row has; the others are kept as fields
SOUND_COLUMNS = ("audio", "music")
_CLOCK = re.compile(r"(?:(\d+):(?=[0-5]?\d:))?(\d+):([0-5]?\d(?:\.\d*)?)", re.ASCII)

logger = logging.getLogger(__name__)

Row = dict[str, Any] | ViMLError  # the cells by column, or what is wrong with the line
Placed = tuple[str, MediaItem | ViMLError]  # file and line, and what is there


def read_manifest(path: str, prefix: str = "") -> list[Placed]:
    """The place (file and line) of each row of a manifest, with its item or its error.

    Rows without an id that are excerpts of one file get the excerpt's times after the path. The prefix goes before ids
    that are paths.

    Raises:
        ViMLError: The file cannot be read, has no row, or has no column that names a media file.

    Example:
        >>> import tempfile
        >>> path = os.path.join(tempfile.mkdtemp(), "m.csv")
        >>> with open(path, "w") as file: _ = file.write("path,start,end\\na.mp4,0,10\\na.mp4,10,20\\n")
        >>> [item.id for _, item in read_manifest(path)]
        ['a.mp4#0-10', 'a.mp4#10-20']
    """
    found: list[Placed] = []
    unnamed: list[tuple[int, MediaItem]] = []  # without an id of their own, by their place in `found`
    folder, shown = os.path.dirname(path), printable(path)
    for place, row in _read_rows(path):
        try:
            if isinstance(row, ViMLError):
                raise row
            item = parse_row(row, folder)
        except ViMLError as error:
            found.append((f"{shown} {place}", error))
            continue
        if _is_missing(row.get("id")):
            unnamed.append((len(found), item))
        found.append((f"{shown} {place}", item))
    if not found:
        raise ViMLError(f"{shown}: no row; give one row a media file")
    count = Counter(item.id for _, item in unnamed)
    for index, item in unnamed:
        item_id = prefix + item.id
        if count[item.id] > 1 and (item.start, item.end) != (None, None):
            item_id += f"#{item.start or 0:.15g}-" + ("" if item.end is None else f"{item.end:.15g}")
        if item_id != item.id:
            found[index] = (found[index][0], replace(item, id=item_id))
    return found


def parse_row(row: Mapping[str, Any], folder: str = "") -> MediaItem:
    """The item of one row, with cells by column; empty texts, `None` and NaN are missing. No file is opened.

    Raises:
        ViMLError: The row names no media file, or a value cannot be used.

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
            raise ViMLError(f"audio={_shown(sound)}: {_shown(file)} is music already; give a video, or one music file")
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
        raise ViMLError(f"licence={_shown(fields['licence'])}: not a text; give its name, such as CC0")
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

    Raises:
        ViMLError: It is not a time, or negative.

    Example:
        >>> parse_seconds("1:02:03.5")
        3723.5
    """
    text = str(value).strip()
    clock = _CLOCK.fullmatch(text)
    try:
        if clock:
            hours, minutes, rest = map(float, clock.groups("0"))
            seconds = 3600 * hours + 60 * minutes + rest
        else:
            seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise ViMLError(f"{_shown(value)}: not a time; give seconds (12.5), mm:ss or hh:mm:ss")
    if seconds < 0:
        raise ViMLError(f"{_shown(value)}: negative; give seconds from the file's start")
    return seconds


def _read_rows(path: str) -> Iterable[tuple[str, Row]]:
    """A manifest's rows, each with its line number as text."""
    suffix = suffix_of(path)
    if suffix == ".parquet":
        return _parquet_rows(path)
    try:
        with open(path, "rb") as file:
            content = file.read()
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise ViMLError(f"{printable(path)}: cannot be read ({error.strerror}); give a readable manifest") from error
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ViMLError(f"{printable(path)} line {line}: not UTF-8; save the manifest as UTF-8") from error
    if suffix in (".jsonl", ".ndjson"):
        return _json_rows(path, text)
    return _csv_rows(path, text, "\t" if suffix == ".tsv" else ",")


def _csv_rows(path: str, text: str, delimiter: str) -> Iterator[tuple[str, Row]]:
    # Strict: a quote that is never closed would silently swallow the rows after it.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    columns: list[str] | None = None
    while True:
        first = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if columns is None:
                raise ViMLError(f"{printable(path)}: the line of column names cannot be read ({error})") from error
            lines = f"line {first}" if reader.line_num <= first else f"lines {first}-{reader.line_num}"
            yield lines, ViMLError(f"{error}; put a cell with commas or quotes in quotes, and write its quotes twice")
            continue
        if not any(cell.strip() for cell in cells):
            continue
        if columns is None:
            columns = [cell.strip() for cell in cells]
            _check_columns(path, columns)
        elif any(cells[len(columns) :]):
            yield f"line {first}", ViMLError(f"{len(cells)} cells for {len(columns)} columns; put commas in quotes")
        else:
            yield f"line {first}", dict(zip(columns, cells, strict=False))


def _json_rows(path: str, text: str) -> list[tuple[str, Row]]:
    rows: list[tuple[str, Row]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            row = ViMLError(f"{_shown(line.strip())}: not JSON ({error}); give one object a line")
        if not isinstance(row, (dict, ViMLError)):
            row = ViMLError(f"{_shown(row)}: not an object; give one object a line")
        rows.append((f"line {number}", row))
    readable = [row for _, row in rows if isinstance(row, dict)]
    if readable:
        _check_columns(path, list(dict.fromkeys(name for row in readable for name in row)))
    return rows


def _parquet_rows(path: str) -> list[tuple[str, Row]]:
    try:
        # From an open file: by its name a folder like `split=test` would be taken for a column.
        with open(path, "rb") as file:
            parquet = pq.ParquetFile(file)
            schema = parquet.schema_arrow
            columns = [column.name for column in schema if not _holds_bytes(column.type)]
            _check_columns(path, columns)
            rows = parquet.read(columns=columns).to_pylist()
    except ViMLError:
        raise
    except (OSError, ValueError, pa.ArrowException) as error:
        cause = printable(in_one_line(error))
        raise ViMLError(f"{printable(path)}: cannot be read as Parquet ({cause}); write it again") from error
    if len(columns) < len(schema):
        logger.warning("%s: columns of bytes left out: %s", printable(path), set(schema.names) - set(columns))
    return [(f"row {number}", row) for number, row in enumerate(rows, start=1)]


def _holds_bytes(kind: pa.DataType) -> bool:
    """Whether a column holds bytes, or records with bytes, such as embedded media."""
    kinds = [kind, *(kind.field(index).type for index in range(kind.num_fields))]
    bytes_kinds = (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_fixed_size_binary)
    return any(is_kind(one) for one in kinds for is_kind in bytes_kinds)


def _check_columns(path: str, columns: Sequence[str]) -> None:
    """Refuse a manifest with no column for a media file, or with two columns of one name."""
    name, count = Counter(filter(None, columns)).most_common(1)[0] if any(columns) else ("", 0)
    if count > 1:
        raise ViMLError(f"{printable(path)}: column {_shown(name)} is there {count} times; rename or remove the others")
    if not {*FILE_COLUMNS, *SOUND_COLUMNS}.intersection(columns):
        accepted = ", ".join([*FILE_COLUMNS, *SOUND_COLUMNS])
        raise ViMLError(
            f"{printable(path)}: its columns are {_shown(list(columns), 200)}, of which none names a media file; "
            f"call the one with the paths {accepted}"
        )


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
    raise ViMLError(f"{column}={_shown(path)}: not a path; give the path of a media file")


def _take_id(given: dict[str, Any], default: str) -> str:
    value = given.pop("id", default)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ViMLError(f"id={_shown(value)}: not a name; give a text or a number")
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
        raise ViMLError(f"text={_shown(text)}: not a text; give one description, or a list of them as texts")
    listed = texts
    if isinstance(texts, str):
        try:
            listed = json.loads(texts)
        except (ValueError, RecursionError):
            listed = None
    if not isinstance(listed, list) or not all(isinstance(one, str) or _is_missing(one) for one in listed):
        raise ViMLError(f'texts={_shown(texts)}: not a list of texts; give ["one", "another"], or one of them as text')
    return tuple(dict.fromkeys(printable(one) for one in [text, *listed] if not _is_missing(one)))


def _is_missing(value: Any) -> bool:
    if isinstance(value, str):
        return not value.strip()
    return value is None or value != value  # NaN


def _as_on_disk(path: str) -> str:
    """A path with its letters coded as the file's name has them: é may be one character or two."""
    spellings = [path] if path.isascii() else [path, *(unicodedata.normalize(form, path) for form in ("NFC", "NFD"))]
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
    if _depth(value) > MAX_DEPTH:
        raise ViMLError(f"{_shown(value)}: nested deeper than {MAX_DEPTH} levels; give simpler values")
    return json.loads(json.dumps(value, ensure_ascii=False, default=str).encode("utf-8", "replace"))


def _shown(value: Any, length: int = 80) -> str:
    """A value for an error message, on one line and shortened."""
    text = repr(value)
    return text if len(text) <= length else f"{text[: length - 1]}…"
