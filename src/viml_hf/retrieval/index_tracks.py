"""The tracks of an index: one row of a table each, from which their windows follow."""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np

from viml_hf.errors import ViMLError

try:
    import pyarrow as pa
except ImportError:  # where a model's code runs without this package, and needs it for saved indexes alone
    pa = None

WINDOW_SECONDS, HOP_SECONDS = 30.0, 10.0


@dataclass(frozen=True)
class Window:
    """One 30 s window of a track, in seconds."""

    start: float
    end: float


@dataclass(frozen=True, eq=False)
class Track:
    """One track of the library.

    Args:
        name: Its path below the library's folder, with forward slashes.
        path: Where the file was when it was indexed.
        sha256: Checksum of the file's content.
        duration: Seconds.
        windows: Its windows, in the order of its rows: 30 s each, one every 10 s, the last one to the end.
        error: Why it could not be indexed, where it could not.
        licence: Under which it may be used, where a manifest says so.
        fields: The manifest's other columns.
    """

    name: str
    path: str
    sha256: str
    duration: float
    windows: tuple[Window, ...]
    error: str | None = None
    licence: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)


def track_key(name: str) -> int:
    """A track's name as a signed number of 64 bits, for engines and addresses.

    Example:
        >>> track_key("jazz/slow piano.mp3")
        174725991194392177
    """
    content = name.encode(errors="surrogateescape")
    return int.from_bytes(hashlib.sha256(content).digest()[:8], "big", signed=True)


# Columns that every table has, by field of `Track`; `start`, `hop` and `windows` (how many) stand for the windows.
_FACTS = {"track": "name", "path": "path", "sha256": "sha256", "duration": "duration", "error": "error"}
_FACTS |= {"licence": "licence"}
_WINDOWS = ("start", "hop", "windows")
_TRACKS_AT_A_TIME = 10_000
_ASIDE = "manifest_"  # before a manifest's column that is called like one of these


class StoredTracks(Sequence[Track]):
    """The tracks of a table; each becomes an object when it is asked for.

    Args:
        table: As `tracks_to_table` makes it.
        root: Where the library has been moved to; `None` where it has not.
    """

    def __init__(self, table: "pa.Table", root: str | None = None):
        self.table = table
        self.root = root

    def __len__(self) -> int:
        return len(self.table)

    @overload
    def __getitem__(self, index: int) -> Track: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Track]: ...

    def __getitem__(self, index: int | slice) -> Track | Sequence[Track]:
        if isinstance(index, slice):
            return self.at(np.arange(len(self))[index])
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self.at(np.array([index % len(self)]))[0]

    def __iter__(self) -> Iterator[Track]:
        for first in range(0, len(self), _TRACKS_AT_A_TIME):
            yield from self[first : first + _TRACKS_AT_A_TIME]

    def at(self, positions: np.ndarray) -> list[Track]:
        """The tracks at these positions."""
        return [self._track(row) for row in self.table.take(positions).to_pylist()]

    def _track(self, row: dict[str, Any]) -> Track:
        known = {name: row[column] for column, name in _FACTS.items()}
        if self.root is not None and known["path"].endswith(f"/{known['name']}"):
            known["path"] = f"{self.root}/{known['name']}"
        windows = _windows(row["start"], row["hop"], row["windows"], row["duration"])
        others = [name for name in row if name not in _FACTS and name not in _WINDOWS and row[name] is not None]
        return Track(**known, windows=windows, fields={_field_name(name): row[name] for name in others})


def _windows(start: float, hop: float, count: int, duration: float) -> tuple[Window, ...]:
    """The windows of a track of which the first begins at `start`, and `duration` seconds were read."""
    starts = [start + hop * number for number in range(count)]
    ends = [start + (hop * number + WINDOW_SECONDS) for number in range(count - 1)] + [start + duration]
    return tuple(Window(begin, end) for begin, end in zip(starts, ends, strict=False))


def tracks_at(tracks: Sequence[Track], positions: np.ndarray) -> list[Track]:
    """Several tracks, read at once where they are stored."""
    return tracks.at(positions) if isinstance(tracks, StoredTracks) else [tracks[at] for at in positions.tolist()]


def window_counts(tracks: Sequence[Track]) -> np.ndarray:
    """How many windows each track has, `(tracks,)` int64."""
    if isinstance(tracks, StoredTracks):
        return tracks.table["windows"].to_numpy().astype(np.int64)
    return np.array([len(track.windows) for track in tracks], np.int64)


def columns_of(tracks: Sequence[Track]) -> list[str]:
    """The names of the columns of the tracks' table, which is not made for it."""
    if isinstance(tracks, StoredTracks):
        return tracks.table.column_names
    others = dict.fromkeys(name for track in tracks for name in track.fields)
    return [*_FACTS, *_WINDOWS, *map(_column_name, others)]


def tracks_to_table(tracks: Sequence[Track]) -> "pa.Table":
    """One row per track.

    Raises:
        ViMLError: Windows that do not follow from start, hop and duration.
    """
    check_pyarrow()
    if isinstance(tracks, StoredTracks):
        return tracks.table
    types = dict.fromkeys(_FACTS, pa.string()) | {"duration": pa.float64()}
    columns = {
        column: pa.array([getattr(track, name) for track in tracks], types[column]) for column, name in _FACTS.items()
    }
    starts = [track.windows[0].start if track.windows else 0.0 for track in tracks]
    hops = [t.windows[1].start - t.windows[0].start if len(t.windows) > 1 else HOP_SECONDS for t in tracks]
    hops = [HOP_SECONDS if abs(hop - HOP_SECONDS) < 1e-6 else hop for hop in hops]  # 0.1 + 10 - 0.1 is not 10
    for track, start, hop in zip(tracks, starts, hops, strict=True):
        if track.windows != _windows(start, hop, len(track.windows), track.duration):
            raise ViMLError(
                f"{track.name}: windows that are not {WINDOW_SECONDS:g} s long, at equal distances and the last one to "
                f"the end ({track.duration:g} s), cannot be saved; give others"
            )
    columns |= {"start": pa.array(starts, pa.float64()), "hop": pa.array(hops, pa.float64())}
    columns["windows"] = pa.array([len(track.windows) for track in tracks], pa.int32())
    for name in dict.fromkeys(name for track in tracks for name in track.fields):
        columns[_column_name(name)] = _column([track.fields.get(name) for track in tracks])
    return pa.table(columns)


def _is_taken(name: str) -> bool:
    return name in _FACTS or name in _WINDOWS or name.startswith(_ASIDE)


def _column_name(name: str) -> str:
    return f"{_ASIDE}{name}" if _is_taken(name) else name


def _field_name(column: str) -> str:
    name = column.removeprefix(_ASIDE)
    return name if _is_taken(name) else column


def _column(values: list[Any]) -> "pa.Array":
    """A manifest's column: texts, numbers, truth values or lists of texts; anything else as JSON."""
    given = [value for value in values if value is not None]
    kinds: tuple[tuple[type, ...], ...] = ((str,), (bool,), (int, float))
    plain = any(all(type(value) in kind for value in given) for kind in kinds)
    if plain or all(isinstance(value, list) and all(isinstance(one, str) for one in value) for value in given):
        try:
            return pa.array(values)
        except (pa.ArrowException, OverflowError, UnicodeError):  # as a whole number beyond 64 bits
            pass
    return pa.array([value if value is None else json.dumps(value) for value in values], pa.string())


def concat_tables(tables: Iterable["pa.Table"]) -> "pa.Table":
    """The rows of several tables; a column that has another type in each becomes text."""
    tables = list(tables)
    names = dict.fromkeys(name for table in tables for name in table.column_names)
    merged = {}
    for name in names:
        parts = [
            table[name].combine_chunks() if name in table.column_names else pa.nulls(len(table)) for table in tables
        ]
        kinds = {part.type for part in parts if not pa.types.is_null(part.type)}
        if len(kinds) > 1:
            parts = [_column([None if one is None else str(one) for one in part.to_pylist()]) for part in parts]
            kinds = {pa.string()}
        kind = kinds.pop() if kinds else pa.null()
        merged[name] = pa.chunked_array([part.cast(kind) for part in parts], kind).combine_chunks()
    return pa.table(merged)


def check_pyarrow() -> None:
    """Raise a `ViMLError` where pyarrow is missing."""
    if pa is None:
        raise ViMLError("A saved index and a filter need pyarrow: pip install pyarrow")
