"""What a store's folder holds: names of its files, its items and row ranges, and how these are read and written."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from viml_hf.errors import ViMLError
from viml_hf.features.checksums import digest, unsealed
from viml_hf.features.json_files import misfit

SCHEMA_VERSION = 3
MODALITIES = ("video", "audio", "text")
STORE_FILE, ITEMS_FILE, JOURNAL_FILE = "store.json", "items.parquet", "journal.jsonl"
NULL_TEXT_FILE, VERIFIED_FILE = "text-null.safetensors", "verified.json"
# Fields that are columns of items.parquet, to be filtered by. `sha256` is that of the media; `start` and `end` say in
# seconds which part of it was read, `…_seconds` how much was decoded, `…_coverage` its share of what the file declares.
TEXT_COLUMNS = ("video_path", "audio_path", "licence", "split", "sha256")
NUMBER_COLUMNS = ("start", "end", "video_seconds", "audio_seconds", "video_coverage", "audio_coverage")
FIELD_TYPES: dict[str, type] = dict.fromkeys(TEXT_COLUMNS, str) | dict.fromkeys(NUMBER_COLUMNS, float)
_JOURNAL_ENTRY = {"shard": int, "files": {...: str}, "items": list}
JOURNAL_ITEMS = [
    {
        **{modality: {"shard": int, "start": int, "stop": int} for modality in MODALITIES},
        **{"id": str, "texts": [str], "fields": dict, "error": (str, type(None))},
    }
]


@dataclass(frozen=True)
class StoreSpec:
    """What the features of a store are: the same for all of its items.

    Args:
        encoders: Encoder name per modality, as `NAME[:HUB_ID[@REVISION]]`.
        widths: Width of the base features per modality.
        fingerprints: Checksum per modality of the encoder's weights and settings.
        frames_per_second: Frames read per second of video.
        segment_seconds: Seconds per row of video and audio; 0 where a row is the mean of a whole file.
        dtype: Of the stored rows.
        dtypes: Dtype per modality that the encoder computes in, such as "bfloat16".
        revisions: Commit per modality of the encoder; information only, as the fingerprints decide.
        licences: Licence per modality of the encoder; information only.
        fast: Whether only reference frames of the videos were decoded.
        spaces: The joint space of those modalities whose encoder has one: rows of one space can be compared.
    """

    encoders: dict[str, str]
    widths: dict[str, int]
    fingerprints: dict[str, str] = field(default_factory=dict)
    frames_per_second: float = 6
    segment_seconds: float = 10.0
    dtype: str = "float16"
    dtypes: dict[str, str] = field(default_factory=dict)
    revisions: dict[str, str | None] = field(default_factory=dict)
    licences: dict[str, str | None] = field(default_factory=dict)
    fast: bool = False
    spaces: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class RowRange:
    """Rows `start … stop` of one shard. Empty where an item lacks the modality."""

    shard: int = 0
    start: int = 0
    stop: int = 0

    def __len__(self) -> int:
        return self.stop - self.start

    def __getitem__(self, part: slice) -> "RowRange":
        first, stop, _ = part.indices(len(self))
        return RowRange(self.shard, self.start + first, self.start + max(first, stop))


@dataclass(frozen=True)
class StoreItem:
    """One item: a video with its music, or one of the two."""

    id: str
    video: RowRange = field(default_factory=RowRange)  # one row per 10 s segment
    audio: RowRange = field(default_factory=RowRange)  # likewise
    text: RowRange = field(default_factory=RowRange)  # one per text
    texts: tuple[str, ...] = ()
    # Everything else that is known. Those of `FIELD_TYPES` with a value of that type (paths, licence, split, times,
    # coverage) are columns of `items.parquet`; all others are kept as JSON.
    fields: dict[str, Any] = field(default_factory=dict)
    error: str | None = None  # what could not be extracted, and why; other modalities may be there all the same

    @property
    def has_features(self) -> bool:
        """Whether there is a row of any modality."""
        return any(len(getattr(self, modality)) for modality in MODALITIES)


def shard_name(modality: str, shard: int) -> str:
    """The name of a shard's file."""
    return f"{modality}-{shard:05d}.safetensors"


def read_journal(folder: Path) -> Iterator[dict[str, Any] | None]:
    """The committed shards, line by line; `None` for a damaged line.

    A last line cut short by a crash does not count: no finished store knows of it.
    """
    path = folder / JOURNAL_FILE
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            if line.endswith(b"\n"):
                entry = unsealed(line)
                yield None if misfit(entry, _JOURNAL_ENTRY) else entry


def read_items(path: Path) -> list[StoreItem]:
    """The items of `items.parquet`; a file that is missing or damaged is an error."""
    try:
        table = pq.read_table(path)
        rows = table.to_pylist()
        whole = (table.schema.metadata or {}).get(b"sha256") == digest(rows).encode()
    except Exception:  # whatever a damaged file does to the reader
        whole = False
    if not whole:
        raise ViMLError(f"{path}: the file is {'damaged' if path.exists() else 'missing'}; run the extraction again")
    items = []
    for row in rows:
        ranges = {m: RowRange(*(row[f"{m}_{part}"] for part in ("shard", "start", "stop"))) for m in MODALITIES}
        fields = json.loads(row["fields"]) | {name: row[name] for name in FIELD_TYPES if row[name] is not None}
        items.append(StoreItem(row["id"], **ranges, texts=tuple(row["texts"]), fields=fields, error=row["error"]))
    return items


def write_items(path: Path, items: list[StoreItem]) -> None:
    """Write `items.parquet`: ids, row ranges, texts, errors and the known fields as columns, other fields as JSON."""
    columns: dict[str, pa.Array] = {"id": pa.array([item.id for item in items], pa.string())}
    for modality in MODALITIES:
        for part in ("shard", "start", "stop"):
            numbers = [getattr(getattr(item, modality), part) for item in items]
            columns[f"{modality}_{part}"] = pa.array(numbers, pa.int64())
    columns["texts"] = pa.array([list(item.texts) for item in items], pa.list_(pa.string()))
    columns["error"] = pa.array([item.error for item in items], pa.string())
    split = [split_fields(item.fields) for item in items]
    for name, kind in FIELD_TYPES.items():
        columns[name] = pa.array([known.get(name) for known, _ in split], pa.string() if kind is str else pa.float64())
    columns["fields"] = pa.array([others for _, others in split], pa.string())
    table = pa.table(columns)
    pq.write_table(table.replace_schema_metadata({"sha256": digest(table.to_pylist())}), path)


def split_fields(fields: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """The fields that have a column, and all others as JSON, among them those whose type is not the column's."""
    known = {name: value for name, value in fields.items() if type(value) is FIELD_TYPES.get(name)}
    return known, json.dumps({name: fields[name] for name in fields.keys() - known.keys()}, sort_keys=True)


def with_todays_names(spec: dict[str, Any]) -> dict[str, Any]:
    """A spec as it was written, with the names that its encoders have now.

    Where nothing is said of spaces, it is from before `pe_av` had its contrastive heads: it means the class tokens.
    """
    encoders = spec.get("encoders")
    if "spaces" in spec or not isinstance(encoders, dict):
        return spec
    return spec | {"encoders": {m: re.sub(r"^pe_av(?=:|$)", "pe_av_class", str(one)) for m, one in encoders.items()}}


def item_from_record(record: dict[str, Any]) -> StoreItem:
    """The item of a line of the journal, made by `asdict`."""
    ranges = {modality: RowRange(**record[modality]) for modality in MODALITIES}
    return StoreItem(**{**record, **ranges, "texts": tuple(record["texts"])})


def as_rows(name: str, features: Any, width: int) -> np.ndarray:
    """Features as float16 rows `(length, width)`; another shape, or a value that is not finite then, is an error."""
    rows = np.asarray(features)
    if rows.ndim != 2 or rows.shape[1] != width:
        raise ViMLError(f"{name}: features of shape {rows.shape}, but this store holds rows of width {width}")
    with np.errstate(over="ignore"):
        rows = rows.astype(np.float16)
    if not np.isfinite(rows).all():
        raise ViMLError(f"{name}: features are not finite (NaN, or beyond 65,504); check the encoder")
    return rows
