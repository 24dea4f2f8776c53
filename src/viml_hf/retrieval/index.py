"""The index: the embeddings of a music library, one row per 30 s window, ready to be searched.

A folder: `index.json` (model fingerprint, widths, counts), `embeddings.safetensors`, `tracks.parquet`. `viml index`
keeps the base features in `features/` beside them, so that a file is analysed once.
"""

import json
import os
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from viml_hf.data.sources import MEDIA_SUFFIXES, find_media_files
from viml_hf.encoders.encoder_settings import EncoderLoader
from viml_hf.encoders.media_encoder import MediaEncoder
from viml_hf.errors import ViMLError
from viml_hf.features.extraction import Run, run_extraction, store_spec
from viml_hf.features.media_item import MediaItem
from viml_hf.features.store import Store, StoreItem, StoreSpec
from viml_hf.features.store_writer import LOCK_FILE, SPEC_FILE, lock_folder, unlock_folder
from viml_hf.processing.media import printable
from viml_hf.processing.segments import CLIP_SEGMENTS, segment_bounds, windows
from viml_hf.retrieval.model_loading import fingerprint

SCHEMA_VERSION = 2
INDEX_FILE, EMBEDDINGS_FILE, TRACKS_FILE = "index.json", "embeddings.safetensors", "tracks.parquet"
FEATURES_FOLDER = "features"
WINDOWS_PER_BATCH = 64


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
    files = find_media_files(folder)
    if not files:
        accepted = " ".join(sorted(MEDIA_SUFFIXES))
        raise ViMLError(f"{folder}: no music in this folder; files that end in {accepted} are read")
    return files


def build_index(
    files: Sequence[Path | MediaItem],
    encoder: MediaEncoder,
    *,
    model: str,
    root: Path | None = None,
    features: str | Path | None = None,
    loader: EncoderLoader | None = None,
    workers: int | None = None,
    previous: "MusicIndex | None" = None,
    progress: bool = True,
) -> MusicIndex:
    """Embed music files. A file that cannot be read is a track with an error; the others are indexed.

    Args:
        files: The music: paths, or the items of [`read_sources`], whose sound is taken.
        encoder: Encoders and heads.
        model: Name of the model, to be kept in the index.
        root: Folder that track names are relative to; by default the folder that holds all the files.
        features: Folder of a store for the base features. With it, an interrupted run goes on where it stopped, and
            only new and changed files are analysed, also for other heads on the same encoders.
        loader: Loads the same encoders in a worker; without it everything runs in this process.
        workers: Worker processes, see [`extract`].
        previous: An older index: a track whose content it has is not embedded again by the same model.
        progress: Show a progress bar.

    Returns:
        The index.

    Raises:
        ViMLError: There are no files, two have one name, not one of them could be read, or `workers` is below 1.
    """
    items = _named(files, root)
    run = Run(workers=workers, progress=progress, title="index")
    with ExitStack() as stack:
        folder = features or stack.enter_context(TemporaryDirectory())
        store = _extract_sound(items, encoder, Path(folder), loader, run)
        found = {item.id: item for item in store.items}
        tracks = tuple(_track(item, found[item.id]) for item in items)
        known = _known_rows(previous, model_fingerprint := fingerprint(encoder))
        rows = []
        for track in tqdm(tracks, desc="embed", unit="track", disable=not progress):
            if track.error is None:
                stored = found[track.name]
                embeddings = known.get((track.sha256, track.windows))
                if embeddings is None:
                    embeddings = embed_windows(encoder, store.rows("audio", stored.audio).numpy(), _spans(stored))
                rows.append(embeddings)
    if not rows:
        raise ViMLError(f"none of {len(files)} files could be indexed; the first error was: {tracks[0].error}")
    encoders = {modality: e.config.model_type for modality, e in encoder.model.encoders.items()}
    embeddings = _aligned(torch.from_numpy(np.concatenate(rows)))
    return MusicIndex(embeddings, tracks, model, model_fingerprint, encoders)


def _named(files: Sequence[Path | MediaItem], root: Path | None) -> list[MediaItem]:
    """One item per file, its sound alone, under the name of its track."""
    if not files or len({f.id if isinstance(f, MediaItem) else f for f in files}) != len(files):
        raise ViMLError(
            f"{len(files)} files, {len(set(map(str, files)))} of them different: give each once, at least one"
        )
    paths = [file for file in files if isinstance(file, Path)]
    root = root or Path(os.path.commonpath([path.parent for path in paths]) if paths else ".")
    return [
        replace(file, audio=file.audio or file.video, video=None, texts=())
        if isinstance(file, MediaItem)
        else MediaItem(printable(file.relative_to(root).as_posix()), audio=str(file.absolute()))
        for file in files
    ]


def _extract_sound(
    items: list[MediaItem], encoder: MediaEncoder, folder: Path, loader: EncoderLoader | None, run: Run
) -> Store:
    """The base features of the items' sound; an older store of other encoders gives way."""
    model_types = {modality: e.config.model_type for modality, e in encoder.model.encoders.items()}
    spec = store_spec(model_types, encoder)
    spec = replace(spec, fingerprints={"audio": spec.fingerprints["audio"]})
    _make_room(folder, spec)
    return run_extraction(items, folder, encoder, spec, loader, run)


def _make_room(folder: Path, spec: StoreSpec) -> None:
    """Remove features that an index kept of another audio encoder; any other store is the user's.

    Raises:
        ViMLError: The folder holds a store that no index made, or another run is at work in it.
    """
    known = folder / SPEC_FILE
    if not known.is_file():
        return
    fingerprints = json.loads(known.read_text()).get("fingerprints", {})
    if set(fingerprints) != {"audio"}:
        raise ViMLError(f"{folder}: a store that was not made for an index; give another folder for the features")
    if fingerprints != spec.fingerprints:
        lock = lock_folder(folder)
        try:
            for path in folder.iterdir():
                if path.is_file() and path.name != LOCK_FILE:
                    path.unlink()
        finally:
            unlock_folder(lock)


def _spans(item: StoreItem) -> list[tuple[int, int]]:
    return windows(len(item.audio), CLIP_SEGMENTS)


def _track(item: MediaItem, stored: StoreItem) -> Track:
    """The track of an extracted item."""
    path, licence = printable(str(item.audio)), item.fields.get("licence")
    if stored.error is not None:
        error = f"{item.id}: {stored.error}"
        return Track(item.id, path, "", 0.0, (), error, licence)
    duration, begin = stored.fields["audio_seconds"], item.start or 0.0
    bounds = segment_bounds(duration)
    found = tuple(Window(begin + bounds[first][0], begin + bounds[stop - 1][1]) for first, stop in _spans(stored))
    return Track(item.id, path, stored.fields["sha256"], duration, found, None, licence)


def _known_rows(
    previous: MusicIndex | None, model_fingerprint: str
) -> dict[tuple[str, tuple[Window, ...]], np.ndarray]:
    """Embeddings of an older index by content and windows, if the same model made it."""
    known, first = {}, 0
    if previous is not None and previous.fingerprint == model_fingerprint:
        for track in previous.tracks:
            known[track.sha256, track.windows] = previous.embeddings[first : first + len(track.windows)]
            first += len(track.windows)
    return known


@torch.inference_mode()
def embed_windows(encoder: MediaEncoder, rows: np.ndarray, spans: Iterable[tuple[int, int]]) -> np.ndarray:
    """Embeddings `(windows, dim)` float32 of row ranges of one track's base features `(segments, width)`.

    The windows of a track, all of one length, go in batches of their own: what a track gives depends on no other.
    """
    viml = encoder.model.viml
    parts = torch.stack([torch.from_numpy(rows[first:stop]).float() for first, stop in spans])
    batches = [viml.get_audio_features(part.to(viml.device)).pooler_output for part in parts.split(WINDOWS_PER_BATCH)]
    return torch.cat(batches).cpu().numpy()


def _aligned(embeddings: torch.Tensor) -> np.ndarray:
    """A copy at an address of torch's choice: a built and a loaded index then give the same scores to the last bit."""
    return embeddings.clone().numpy()


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


def _tracks_from_table(table: pa.Table) -> tuple[Track, ...]:
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
