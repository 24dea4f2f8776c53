"""The index: the embeddings of a music library, one row per 30 s window, ready to be searched.

A folder: `index.json` (model fingerprint, widths, counts), `embeddings.safetensors`, `tracks.parquet`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from viml_hf.errors import ViMLError

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError:  # where a model's code runs without this package, and needs it for saved indexes alone
    pa = pq = None

SCHEMA_VERSION = 2
INDEX_FILE, EMBEDDINGS_FILE, TRACKS_FILE = "index.json", "embeddings.safetensors", "tracks.parquet"


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
    """

    embeddings: np.ndarray
    tracks: tuple[Track, ...]
    model: str
    fingerprint: str
    encoders: dict[str, str] = field(default_factory=dict)

    @property
    def usable(self) -> list[Track]:
        """The tracks that can be recommended."""
        return [track for track in self.tracks if track.windows]

    @property
    def errors(self) -> list[Track]:
        """The tracks that could not be indexed."""
        return [track for track in self.tracks if track.error is not None]

    def save(self, folder: str | Path) -> None:
        """Write the index beside an older one, and replace that when all is written, `index.json` last."""
        _check_pyarrow()
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        written = {name: folder / f"{name}.tmp" for name in (EMBEDDINGS_FILE, TRACKS_FILE, INDEX_FILE)}
        save_file({"embeddings": torch.from_numpy(np.ascontiguousarray(self.embeddings))}, written[EMBEDDINGS_FILE])
        pq.write_table(_tracks_to_table(self.tracks), written[TRACKS_FILE])
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
        }
        written[INDEX_FILE].write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
        for name, path in written.items():
            path.replace(folder / name)

    @classmethod
    def load(cls, folder: str | Path) -> "MusicIndex":
        """Read an index.

        Raises:
            ViMLError: The folder is not an index, or a file of it is damaged.
        """
        _check_pyarrow()
        folder = Path(folder)
        path = folder / INDEX_FILE
        if not path.is_file():
            raise ViMLError(f"{folder}: not an index (no {INDEX_FILE}); make one with `viml index MUSIC -o {folder}`")
        try:
            description = json.loads(path.read_text())
            version = description.get("schema_version")
            embeddings = aligned(load_file(folder / EMBEDDINGS_FILE)["embeddings"])
            tracks = _tracks_from_table(pq.read_table(folder / TRACKS_FILE))
        except (OSError, ValueError, KeyError, SafetensorError, pa.ArrowException) as error:
            raise ViMLError(f"{folder}: the index is damaged ({error}); make it again with `viml index`") from error
        rows = sum(len(track.windows) for track in tracks)
        if version != SCHEMA_VERSION or rows != len(embeddings):
            raise ViMLError(
                f"{folder}: an index of schema {version} with {len(embeddings)} embeddings for {rows} windows; "
                f"this version reads schema {SCHEMA_VERSION}: make it again with `viml index`"
            )
        return cls(embeddings, tracks, description["model"], description["fingerprint"], description["encoders"])


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
    """The tracks of `tracks.parquet`, in its order."""
    grouped: dict[str, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        grouped.setdefault(row["track"], []).append(row)
    tracks = []
    for name, rows in grouped.items():
        found = tuple(Window(row["start"], row["end"]) for row in rows if row["start"] is not None)
        first = rows[0]
        tracks.append(
            Track(name, first["path"], first["sha256"], first["duration"], found, first["error"], first["licence"])
        )
    return tuple(tracks)
