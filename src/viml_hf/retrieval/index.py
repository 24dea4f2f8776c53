"""The index: the embeddings of a music library, one row per 30 s window, ready to be searched.

A folder: `index.json` (model fingerprint, widths, counts), `embeddings.safetensors`, `tracks.parquet`.
"""

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from viml_hf.encoders.media_encoder import MediaEncoder
from viml_hf.errors import ViMLError
from viml_hf.processing.media import printable
from viml_hf.processing.segments import CLIP_SEGMENTS, windows
from viml_hf.retrieval.model_loading import fingerprint

SCHEMA_VERSION = 1
INDEX_FILE, EMBEDDINGS_FILE, TRACKS_FILE = "index.json", "embeddings.safetensors", "tracks.parquet"
_AUDIO_SUFFIXES = ".aac .aif .aiff .flac .m4a .mka .mp2 .mp3 .oga .ogg .opus .wav .wma"
_VIDEO_SUFFIXES = ".avi .m4v .mkv .mov .mp4 .mpg .webm"
MEDIA_SUFFIXES = frozenset(f"{_AUDIO_SUFFIXES} {_VIDEO_SUFFIXES}".split())


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
    """

    name: str
    path: str
    sha256: str
    duration: float
    windows: tuple[Window, ...]
    error: str | None = None


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
        folder = Path(folder)
        path = folder / INDEX_FILE
        if not path.is_file():
            raise ViMLError(f"{folder}: not an index (no {INDEX_FILE}); make one with `viml index MUSIC -o {folder}`")
        try:
            description = json.loads(path.read_text())
            version = description.get("schema_version")
            embeddings = _aligned(load_file(folder / EMBEDDINGS_FILE)["embeddings"])
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


def find_music(folder: str | Path) -> list[Path]:
    """All media files below a folder, sorted by name; a single file is a library of one.

    Raises:
        ViMLError: There is no such folder, or no media file in it.
    """
    folder = Path(folder)
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise ViMLError(f"{folder}: no such folder; give a folder of music files")
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in MEDIA_SUFFIXES and p.is_file())
    if not files:
        accepted = " ".join(sorted(MEDIA_SUFFIXES))
        raise ViMLError(f"{folder}: no music in this folder; files that end in {accepted} are read")
    return files


def build_index(
    files: Sequence[Path],
    encoder: MediaEncoder,
    *,
    model: str,
    root: Path | None = None,
    previous: MusicIndex | None = None,
    progress: bool = True,
) -> MusicIndex:
    """Embed music files. A file that cannot be read is a track with an error; the others are indexed.

    Args:
        files: The music.
        encoder: Encoders and heads.
        model: Name of the model, to be kept in the index.
        root: Folder that track names are relative to; by default the folder that holds all the files.
        previous: An older index: a file whose content it has, by the same model, is not analysed again.
        progress: Show a progress bar.

    Returns:
        The index.

    Raises:
        ViMLError: There are no files, or not one of them could be read.
    """
    if not files or len(set(files)) != len(files):
        raise ViMLError(f"{len(files)} files, {len(set(files))} of them different: give each once, and at least one")
    root = root or Path(os.path.commonpath([path.parent for path in files]))
    model_fingerprint = fingerprint(encoder)
    known = _known_tracks(previous, model_fingerprint)
    tracks: list[Track] = []
    rows: list[np.ndarray] = []
    for path in tqdm(files, desc="index", unit="track", disable=not progress):
        name = printable(path.relative_to(root).as_posix())
        track, embeddings = _index_file(path, name, encoder, known)
        if track.error is not None:
            tqdm.write(f"skipped: {track.error}", file=sys.stderr)
        tracks.append(track)
        rows.append(embeddings)
    embeddings = _aligned(torch.from_numpy(np.concatenate(rows)))
    encoders = {modality: e.config.model_type for modality, e in encoder.model.encoders.items()}
    index = MusicIndex(embeddings, tuple(tracks), model, model_fingerprint, encoders)
    if not index.usable:
        raise ViMLError(f"none of {len(files)} files could be indexed; the first error was: {tracks[0].error}")
    return index


@torch.inference_mode()
def embed_windows(encoder: MediaEncoder, rows: np.ndarray, spans: Iterable[tuple[int, int]]) -> np.ndarray:
    """Embeddings `(windows, dim)` float32 of row ranges of one track's base features `(segments, width)`."""
    viml = encoder.model.viml
    found = []
    for first, stop in spans:
        # One at a time: another batch shape may change last bits, and the same track is to stay the same.
        features = torch.from_numpy(rows[first:stop]).float()[None].to(viml.device)
        found.append(viml.get_audio_features(features).pooler_output[0])
    return torch.stack(found).cpu().numpy()


def _index_file(
    path: Path, name: str, encoder: MediaEncoder, known: dict[str, tuple[Track, np.ndarray]]
) -> tuple[Track, np.ndarray]:
    """A file's track and embeddings `(windows, dim)`, from the older index where it has them."""
    width = encoder.model.config.viml_config.projection_dim
    checksum = ""
    try:
        with path.open("rb") as file:
            checksum = hashlib.file_digest(file, "sha256").hexdigest()
        if checksum in known:
            track, embeddings = known[checksum]
            return Track(name, printable(str(path.absolute())), checksum, track.duration, track.windows), embeddings
        features = encoder.encode_audio(path)
        spans = windows(len(features.rows), CLIP_SEGMENTS)
        bounds = features.bounds
        found = tuple(Window(bounds[first][0], bounds[stop - 1][1]) for first, stop in spans)
        return Track(name, printable(str(path.absolute())), checksum, features.duration, found), embed_windows(
            encoder, features.rows, spans
        )
    except Exception as error:
        message = f"{name}: {' '.join(str(error).split()) or type(error).__name__}"
        return Track(name, printable(str(path.absolute())), checksum, 0.0, (), message), np.zeros(
            (0, width), np.float32
        )


def _aligned(embeddings: torch.Tensor) -> np.ndarray:
    """A copy at an address of torch's choice: a built and a loaded index then give the same scores to the last bit."""
    return embeddings.clone().numpy()


def _known_tracks(previous: MusicIndex | None, model_fingerprint: str) -> dict[str, tuple[Track, np.ndarray]]:
    """Tracks and embeddings of an older index by content, if the same model made it."""
    if previous is None or previous.fingerprint != model_fingerprint:
        return {}
    known, first = {}, 0
    for track in previous.tracks:
        stop = first + len(track.windows)
        if track.error is None:
            known[track.sha256] = (track, previous.embeddings[first:stop])
        first = stop
    return known


def _tracks_to_table(tracks: Sequence[Track]) -> pa.Table:
    """One row per window; a track with an error has one row without a window."""
    rows: list[dict[str, Any]] = []
    for track in tracks:
        shared = {
            "track": track.name,
            "path": track.path,
            "sha256": track.sha256,
            "duration": track.duration,
            "error": track.error,
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
        ]
    )
    return pa.Table.from_pylist(rows, schema=schema)


def _tracks_from_table(table: pa.Table) -> tuple[Track, ...]:
    """The tracks of `tracks.parquet`, in its order."""
    grouped: dict[str, list[dict[str, Any]]] = {}
    for row in table.to_pylist():
        grouped.setdefault(row["track"], []).append(row)
    tracks = []
    for name, rows in grouped.items():
        found = tuple(Window(row["start"], row["end"]) for row in rows if row["start"] is not None)
        first = rows[0]
        tracks.append(Track(name, first["path"], first["sha256"], first["duration"], found, first["error"]))
    return tuple(tracks)
