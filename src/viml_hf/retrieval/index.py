"""The index: the embeddings of a music library, one row per 30 s window, ready to be searched.

A folder: `index.json` (model fingerprint, widths, counts, checksums) names `embeddings-….safetensors` and
`tracks-….parquet` by their content.
"""

import hashlib
import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as deserialize
from safetensors.torch import save as serialize

from viml_hf.errors import ViMLError, in_one_line
from viml_hf.features.atomic_files import lock_folder, replacing, unlock_folder
from viml_hf.features.checksums import sealed, unsealed

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError:  # where a model's code runs without this package, and needs it for saved indexes alone
    pa = pq = None

SCHEMA_VERSION = 3
INDEX_FILE = "index.json"
READ_ATTEMPTS = 20  # while writers replace the index
# What a save may leave that the next one removes: files of older indexes, and of killed runs.
_OWN_FILE = re.compile(
    r"embeddings\.safetensors"
    r"|(embeddings-[0-9a-f]{16}\.safetensors|tracks-[0-9a-f]{16}\.parquet)(\.[0-9a-f]{8}\.tmp)?"
    r"|(embeddings\.safetensors|tracks\.parquet|index\.json)(\.[0-9a-f]{8})?\.tmp"
)


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
        windows: Its windows, in the order of its rows.
        error: Why it could not be indexed, where it could not.
        licence: Under which it may be used, where a manifest says so.
    """

    name: str
    path: str
    sha256: str
    duration: float
    windows: tuple[Window, ...]
    error: str | None = None
    licence: str | None = None


@dataclass(frozen=True, eq=False)
class MusicIndex:
    """Embeddings of a library.

    Args:
        embeddings: `(windows, dim)` float32, L2-normalised, track after track.
        tracks: The tracks in the same order; those with an error have no windows.
        model: Folder or Hub id of the model that made it.
        fingerprint: Checksum of that model.
        encoders: Model types of its base encoders.
        corrections: `(windows, 2)` float32, for hubs: what is taken from the similarities of queries without a text,
            and of those with one; `None` where the model keeps no query bank.
    """

    embeddings: np.ndarray
    tracks: tuple[Track, ...]
    model: str
    fingerprint: str
    encoders: dict[str, str] = field(default_factory=dict)
    corrections: np.ndarray | None = None

    @property
    def usable(self) -> list[Track]:
        """The tracks that can be recommended."""
        return [track for track in self.tracks if track.windows]

    @property
    def errors(self) -> list[Track]:
        """The tracks that could not be indexed."""
        return [track for track in self.tracks if track.error is not None]

    def save(self, folder: str | Path) -> None:
        """Write the index in the place of an older one.

        `index.json` is replaced last, and names the other files by their content: whoever reads meanwhile gets the old
        index or the new one, also after a killed run. `tracks.parquet` is a copy of the tracks for other tools.

        Raises:
            OSError: A file cannot be written, as where the disk is full.
        """
        _check_pyarrow()
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        table = io.BytesIO()
        pq.write_table(_tracks_to_table(self.tracks), table)
        tensors = {"embeddings": torch.from_numpy(np.ascontiguousarray(self.embeddings))}
        if self.corrections is not None:
            tensors["corrections"] = torch.from_numpy(np.ascontiguousarray(self.corrections))
        contents = {"embeddings.safetensors": serialize(tensors), "tracks.parquet": table.getvalue()}
        checksums = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
        description = {
            "schema_version": SCHEMA_VERSION,
            "model": self.model,
            "fingerprint": self.fingerprint,
            "encoders": self.encoders,
            "width": self.embeddings.shape[1],
            "dtype": "float32",
            "windows": len(self.embeddings),
            "tracks": len(self.usable),
            "errors": len(self.errors),
            "files": checksums,
        }
        lock = lock_folder(folder, wait=True)
        try:
            for name, content in contents.items():
                _write(folder / _named_by_content(name, checksums[name]), content)
            _write(folder / INDEX_FILE, (json.dumps(sealed(description), indent=1) + "\n").encode())
            _write(folder / "tracks.parquet", contents["tracks.parquet"])
            _remove_superseded(folder, {_named_by_content(*one) for one in checksums.items()})
        finally:
            unlock_folder(lock)

    @classmethod
    def load(cls, folder: str | Path) -> "MusicIndex":
        """Read an index, and verify its checksums.

        Raises:
            ViMLError: The folder is not an index, is of another schema, or a file of it is damaged or cannot be read.
        """
        _check_pyarrow()
        folder = Path(folder)
        for _ in range(READ_ATTEMPTS):
            description = _read_description(folder)
            try:
                contents = {name: _read_file(folder, name, sha) for name, sha in description["files"].items()}
            except FileNotFoundError:
                continue  # a writer has replaced the index meanwhile: there is a new one
            return _assemble(folder, description, contents)
        raise ViMLError(f"{folder}: the index is damaged (a file that it names is missing); {_AGAIN}")


_AGAIN = "build it again with `viml index`"


def _named_by_content(name: str, checksum: str) -> str:
    """The name under which a file of the index lies, such as `tracks-0123456789abcdef.parquet`."""
    stem, _, suffix = name.rpartition(".")
    return f"{stem}-{checksum[:16]}.{suffix}"


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def _remove_superseded(folder: Path, kept: set[str]) -> None:
    """Remove the files of older indexes, and what killed runs left."""
    for path in folder.iterdir():
        is_file = path.is_symlink() or path.is_file()
        if is_file and _OWN_FILE.fullmatch(path.name) and path.name not in kept:
            path.unlink(missing_ok=True)


def _read_description(folder: Path) -> dict[str, Any]:
    """What `index.json` says, whole and of this schema."""
    path = folder / INDEX_FILE
    if not path.is_file():
        raise ViMLError(f"{folder}: not an index (no {INDEX_FILE}); make one with `viml index MUSIC -o {folder}`")
    try:
        text = path.read_bytes()
        version = json.loads(text)["schema_version"]
    except PermissionError as error:
        raise ViMLError(f"{path}: cannot be read (permission denied); let this user read it") from error
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise ViMLError(f"{folder}: the index is damaged ({INDEX_FILE} is no index's); {_AGAIN}") from error
    if version != SCHEMA_VERSION:
        raise ViMLError(f"{folder}: an index of schema {version!r}, but this version reads {SCHEMA_VERSION}: {_AGAIN}")
    description = unsealed(text)
    if description is None:
        raise ViMLError(f"{folder}: the index is damaged ({INDEX_FILE} has another checksum); {_AGAIN}")
    expected = {"model": str, "fingerprint": str, "encoders": dict, "files": dict}
    wrong = [name for name, kind in expected.items() if not isinstance(description.get(name), kind)]
    if not wrong and not all(isinstance(checksum, str) for checksum in description["files"].values()):
        wrong = ["files"]
    if wrong:
        raise ViMLError(f"{folder}: the index is damaged ({INDEX_FILE} has no valid {', '.join(wrong)}); {_AGAIN}")
    return description


def _read_file(folder: Path, name: str, checksum: str) -> bytes:
    """The content of a file that `index.json` names."""
    path = folder / _named_by_content(name, checksum)
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        raise
    except PermissionError as error:
        raise ViMLError(f"{path}: cannot be read (permission denied); let this user read it") from error
    except OSError as error:
        raise ViMLError(f"{path}: cannot be read ({error.strerror}); {_AGAIN}") from error
    if hashlib.sha256(content).hexdigest() != checksum:
        raise ViMLError(f"{folder}: the index is damaged ({path.name} has another checksum); {_AGAIN}")
    return content


def _assemble(folder: Path, description: dict[str, Any], contents: dict[str, bytes]) -> MusicIndex:
    """The index of verified files. A forged one can have the right checksums, so what it ranks by is looked at too."""
    try:
        tensors = deserialize(contents["embeddings.safetensors"])
        embeddings, corrections = tensors["embeddings"], tensors.get("corrections")
        tracks = _tracks_from_table(pq.read_table(pa.BufferReader(contents["tracks.parquet"])))
        facts = (description["model"], description["fingerprint"], description["encoders"])
    except (LookupError, ValueError, TypeError, SafetensorError, pa.ArrowException) as error:
        raise ViMLError(f"{folder}: the index is damaged ({in_one_line(error)}); {_AGAIN}") from error
    rows = sum(len(track.windows) for track in tracks)
    if embeddings.dtype != torch.float32 or embeddings.ndim != 2 or len(embeddings) != rows:
        raise ViMLError(
            f"{folder}: the index is damaged (embeddings {embeddings.dtype} {tuple(embeddings.shape)} for {rows} "
            f"windows, not float32 rows); {_AGAIN}"
        )
    if len(embeddings) and not torch.allclose(embeddings.norm(dim=1), torch.ones(len(embeddings)), atol=1e-3):
        raise ViMLError(f"{folder}: the index is damaged (embeddings that are not of length 1); {_AGAIN}")
    if corrections is None:
        return MusicIndex(aligned(embeddings), tracks, *facts)
    if corrections.dtype != torch.float32 or corrections.shape != (rows, 2) or not corrections.isfinite().all():
        raise ViMLError(f"{folder}: the index is damaged (corrections that are not two numbers for each row); {_AGAIN}")
    return MusicIndex(aligned(embeddings), tracks, *facts, corrections.numpy())


def aligned(embeddings: torch.Tensor) -> np.ndarray:
    """A copy at an address of torch's choice: a built and a loaded index then give the same scores to the last bit."""
    return embeddings.clone().numpy()


def _check_pyarrow() -> None:
    if pa is None:
        raise ViMLError("A saved index needs pyarrow: pip install pyarrow")


def _tracks_to_table(tracks: Sequence[Track]) -> "pa.Table":
    """One row per window; a track with an error has one row without a window."""
    rows: list[dict[str, Any]] = []
    for track in tracks:
        shared = {
            "track": track.name,
            "path": track.path,
            "sha256": track.sha256,
            "duration": track.duration,
            "error": track.error,
            "licence": track.licence,
        }
        spans = track.windows or (None,)
        rows += [{**shared, "start": s.start if s else None, "end": s.end if s else None} for s in spans]
    schema = pa.schema(
        [
            ("track", pa.string()),
            ("start", pa.float64()),
            ("end", pa.float64()),
            ("path", pa.string()),
            ("sha256", pa.string()),
            ("duration", pa.float64()),
            ("error", pa.string()),
            ("licence", pa.string()),
        ]
    )
    return pa.Table.from_pylist(rows, schema=schema)


def _tracks_from_table(table: "pa.Table") -> tuple[Track, ...]:
    """The tracks of a table, in its order: rows of one track follow each other, its windows in the order of time."""
    records, number, numbers = table.to_pylist(), 0, []
    for before, row in zip([None, *records], records, strict=False):
        number += before is None or not _is_next_window(before, row)
        numbers.append(number)
    tracks = []
    for _, group in groupby(zip(numbers, records, strict=True), key=lambda pair: pair[0]):
        rows = [row for _, row in group]
        found = tuple(Window(row["start"], row["end"]) for row in rows if row["start"] is not None)
        first = rows[0]
        facts = (first["duration"], found, first["error"], first["licence"])
        tracks.append(Track(first["track"], first["path"], first["sha256"], *facts))
    return tuple(tracks)


def _is_next_window(before: dict[str, Any], row: dict[str, Any]) -> bool:
    """Whether a row is the window of the same track that follows that of the row before; else a track begins."""
    same = all(before[name] == row[name] for name in row if name not in ("start", "end"))
    return same and before["start"] is not None and row["start"] is not None and before["start"] < row["start"]
