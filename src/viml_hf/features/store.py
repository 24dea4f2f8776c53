"""Reading a store: the base features of many items on disk, with their texts and where they came from.

A store is a folder: `store.json`, `items.parquet`, `journal.jsonl` and one safetensors file per shard and modality, of
packed float16 rows. `viml_hf.features.store_writer` makes one.
"""

import contextlib
import hashlib
import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from viml_hf.errors import ViMLError

SCHEMA_VERSION = 1
MODALITIES = ("video", "audio", "text")
STORE_FILE, ITEMS_FILE, JOURNAL_FILE = "store.json", "items.parquet", "journal.jsonl"
NULL_TEXT_FILE, VERIFIED_FILE = "text-null.safetensors", "verified.json"


@dataclass(frozen=True)
class StoreSpec:
    """What the features of a store are: the same for all of its items.

    Args:
        encoders: Encoder name per modality, as `NAME[:HUB_ID[@REVISION]]`.
        widths: Width of the base features per modality.
        fingerprints: Checksum per modality of the encoder's weights and settings.
        frames_per_second: Frames read per second of video.
        segment_seconds: Seconds per row of video and audio.
        dtype: Of the stored rows.
    """

    encoders: dict[str, str]
    widths: dict[str, int]
    fingerprints: dict[str, str] = field(default_factory=dict)
    frames_per_second: float = 6
    segment_seconds: float = 10.0
    dtype: str = "float16"


@dataclass(frozen=True)
class RowRange:
    """Rows `start … stop` of one shard. Empty where an item lacks the modality."""

    shard: int = 0
    start: int = 0
    stop: int = 0

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class StoreItem:
    """One item: a video with its music, or one of the two.

    Args:
        id: Unique name of the item.
        video: Its rows of video features, one per 10 s segment.
        audio: Its rows of audio features.
        text: Its rows of text features, one per text.
        texts: The texts.
        fields: Everything else that is known: paths, split, tags, licence, content hash.
        error: Why it has no features, where extraction failed.
    """

    id: str
    video: RowRange = field(default_factory=RowRange)
    audio: RowRange = field(default_factory=RowRange)
    text: RowRange = field(default_factory=RowRange)
    texts: tuple[str, ...] = ()
    fields: dict[str, Any] = field(default_factory=dict)
    error: str | None = None


class Store:
    """A finished store, opened for reading.

    Args:
        folder: The store's folder.

    Raises:
        ViMLError: The folder is not a store, is unfinished, is of another schema, or a shard is damaged.

    Example:
        >>> import numpy as np, tempfile
        >>> from viml_hf.features import Store, StoreSpec, StoreWriter
        >>> folder = tempfile.mkdtemp()
        >>> names = dict.fromkeys(["video", "audio", "text"], "descriptors")
        >>> with StoreWriter(folder, StoreSpec(names, {"video": 4, "audio": 3, "text": 2}), np.zeros(2)) as writer:
        ...     writer.add("a", video=np.ones((2, 4)), audio=np.ones((3, 3)), text=np.ones((1, 2)), texts=["pop"])
        >>> store = Store(folder)
        >>> store.rows("video", store.items[0].video).shape
        torch.Size([2, 4])
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        description = self._read_description()
        self.spec = StoreSpec(**description["spec"])
        self.journal = read_journal(self.folder)
        self.items = read_items(self.folder / ITEMS_FILE)
        self.null_text = self._load(NULL_TEXT_FILE)["features"]
        self._shards: dict[tuple[str, int], Tensor] = {}
        self._verify_once()

    def __len__(self) -> int:
        return len(self.items)

    def __getstate__(self) -> dict[str, Any]:
        # Workers map the shards themselves: sending the rows would copy them.
        return {**self.__dict__, "_shards": {}}

    def usable(self, modalities: tuple[str, ...] = ("video", "audio")) -> list[StoreItem]:
        """The items that have features of all the given modalities."""
        return [item for item in self.items if all(len(getattr(item, modality)) for modality in modalities)]

    def rows(self, modality: str, rows: RowRange) -> Tensor:
        """Rows `(length, width)` float16, a view into the shard."""
        if not len(rows):
            return torch.zeros(0, self.spec.widths[modality], dtype=torch.float16)
        key = (modality, rows.shard)
        if key not in self._shards:
            self._shards[key] = self._load(f"{modality}-{rows.shard:05d}.safetensors")["features"]
        return self._shards[key][rows.start : rows.stop]

    def check_finite(self) -> None:
        """Refuse a store with NaN or infinite features, naming the first item.

        Raises:
            ViMLError: An item has such a row.
        """
        for item in self.items:
            for modality in MODALITIES:
                if not torch.isfinite(self.rows(modality, getattr(item, modality))).all():
                    raise ViMLError(
                        f"{self.folder}: item {item.id!r} has {modality} features that are not finite; extract it again"
                    )

    def verify(self) -> None:
        """Compare every shard with its checksum.

        Raises:
            ViMLError: A shard is missing or damaged; the message names it.
        """
        for entry in self.journal:
            name = damaged_file(self.folder, entry)
            if name is not None:
                state = "damaged" if (self.folder / name).exists() else "missing"
                raise ViMLError(f"{self.folder / name}: the file is {state}; run the extraction again")
        self._remember_verified()

    def _verify_once(self) -> None:
        """Verify at the first open, and again when the size or time of a shard is another one than then."""
        path = self.folder / VERIFIED_FILE
        if not path.exists() or path.read_text() != self._stamps():
            self.verify()

    def _remember_verified(self) -> None:
        # A store on a read-only disk is verified at every open.
        with contextlib.suppress(OSError):
            (self.folder / VERIFIED_FILE).write_text(self._stamps())

    def _stamps(self) -> str:
        """Names, sizes and times of all shards."""
        names = sorted(name for entry in self.journal for name in entry["files"])
        paths = [self.folder / name for name in names]
        return json.dumps([(p.name, p.stat().st_size, p.stat().st_mtime_ns) if p.exists() else p.name for p in paths])

    def _load(self, name: str) -> dict[str, Tensor]:
        try:
            return load_file(self.folder / name)
        except (OSError, SafetensorError) as error:
            raise ViMLError(f"{self.folder / name}: cannot be read ({error}); run the extraction again") from error

    def _read_description(self) -> dict[str, Any]:
        path = self.folder / STORE_FILE
        if not path.exists():
            journal = (self.folder / JOURNAL_FILE).exists()
            hint = "its extraction is unfinished: run it again" if journal else "give the folder of an extracted store"
            raise ViMLError(f"{self.folder}: not a store (no {STORE_FILE}); {hint}")
        try:
            description = json.loads(path.read_text())
        except json.JSONDecodeError as error:
            raise ViMLError(f"{path}: damaged ({error}); run the extraction again") from error
        if description.get("schema_version") != SCHEMA_VERSION:
            raise ViMLError(
                f"{path}: schema version {description.get('schema_version')}, but this version reads {SCHEMA_VERSION}; "
                "extract the store again"
            )
        return description


def read_journal(folder: Path) -> list[dict[str, Any]]:
    """The committed shards, one dict per line. A last line cut short by a crash does not count."""
    path = folder / JOURNAL_FILE
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]


def read_items(path: Path) -> list[StoreItem]:
    """The items of `items.parquet`."""
    items = []
    for row in pq.read_table(path).to_pylist():
        ranges = {m: RowRange(*(row[f"{m}_{part}"] for part in ("shard", "start", "stop"))) for m in MODALITIES}
        fields = json.loads(row["fields"])
        items.append(StoreItem(row["id"], **ranges, texts=tuple(row["texts"]), fields=fields, error=row["error"]))
    return items


def write_items(path: Path, items: list[StoreItem]) -> None:
    """Write `items.parquet`: ids, row ranges, texts and errors as columns, all other fields as JSON."""
    columns = [pa.array([item.id for item in items], pa.string())]
    names = ["id"]
    for modality in MODALITIES:
        for part in ("shard", "start", "stop"):
            columns.append(pa.array([getattr(getattr(item, modality), part) for item in items], pa.int64()))
            names.append(f"{modality}_{part}")
    columns.append(pa.array([list(item.texts) for item in items], pa.list_(pa.string())))
    columns.append(pa.array([item.error for item in items], pa.string()))
    columns.append(pa.array([json.dumps(item.fields, sort_keys=True) for item in items], pa.string()))
    temporary = path.with_name(f"{path.name}.tmp")
    pq.write_table(pa.table(columns, names=[*names, "texts", "error", "fields"]), temporary)
    temporary.replace(path)


def item_to_record(item: StoreItem) -> dict[str, Any]:
    """A JSON-able dict of an item."""
    return asdict(item)


def item_from_record(record: dict[str, Any]) -> StoreItem:
    """The item of a dict made by `item_to_record`."""
    ranges = {modality: RowRange(**record[modality]) for modality in MODALITIES}
    return StoreItem(**{**record, **ranges, "texts": tuple(record["texts"])})


def damaged_file(folder: Path, entry: dict[str, Any]) -> str | None:
    """The first file of a journal entry that is missing or has another checksum."""
    for name, expected in entry["files"].items():
        if not (folder / name).is_file() or sha256_of(folder / name) != expected:
            return name
    return None


def sha256_of(path: Path) -> str:
    """Checksum of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def as_rows(name: str, features: Any, width: int) -> np.ndarray:
    """Features as float16 rows `(length, width)`.

    Raises:
        ViMLError: The shape is another one, or a value is not finite in float16.
    """
    rows = np.asarray(features)
    if rows.ndim != 2 or rows.shape[1] != width:
        raise ViMLError(f"{name}: features of shape {rows.shape}, but this store holds rows of width {width}")
    with np.errstate(over="ignore"):
        rows = rows.astype(np.float16)
    if not np.isfinite(rows).all():
        raise ViMLError(f"{name}: features are not finite (NaN, or beyond 65,504); check the encoder")
    return rows
