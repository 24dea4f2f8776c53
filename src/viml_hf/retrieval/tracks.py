"""Music files → the tracks of an index: names, windows, embeddings, one file after the other."""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from viml_hf.encoders.media_encoder import MediaEncoder
from viml_hf.errors import ViMLError
from viml_hf.features.media_item import MediaItem, extract_one
from viml_hf.modeling.clip_windows import CLIP_SEGMENTS, windows
from viml_hf.processing.media import printable
from viml_hf.processing.media_files import MEDIA_SUFFIXES, find_media_files
from viml_hf.processing.segments import segment_bounds
from viml_hf.retrieval.index import MusicIndex, Track, Window
from viml_hf.retrieval.model_loading import fingerprint

WINDOWS_PER_BATCH = 64

Rows = tuple[np.ndarray, np.ndarray | None]  # of a track: embeddings `(windows, dim)`, corrections `(windows, 2)`

logger = logging.getLogger(__name__)


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


def index_files(
    files: Sequence[Path | MediaItem],
    encoder: MediaEncoder,
    *,
    model: str,
    root: Path | None = None,
    progress: bool = True,
) -> MusicIndex:
    """Embed music files one after the other in this process, and keep nothing but the index.

    For a large library there is [`build_index`], which uses many processes and goes on after an interruption; the
    index is the same to the last bit.

    Args:
        files: The music: paths, or items whose sound is taken.
        encoder: Encoders and heads.
        model: Name of the model, to be kept in the index.
        root: Folder that track names are relative to; by default the folder that holds all the files.
        progress: Show a progress bar.

    Raises:
        ViMLError: There are no files, two have one name, or not one of them could be read.
    """
    tracks, rows = [], []
    for item in tqdm(named_items(files, root), desc="index", unit="track", disable=not progress):
        extracted = extract_one(item, encoder)
        segments = extracted.features.get("audio", ())
        tracks.append(track := make_track(item, len(segments), extracted.facts, extracted.error))
        if track.error is not None:
            logger.warning("left out: %s", track.error)
        else:
            rows.append(embed_track(encoder, np.asarray(segments), track_spans(len(segments))))
    check_some_usable(tracks)
    return assemble_index(tracks, rows, encoder, model)


def named_items(files: Sequence[Path | MediaItem], root: Path | None) -> list[MediaItem]:
    """One item per file, its sound alone, under the name of its track."""
    if not files or len({f.id if isinstance(f, MediaItem) else f for f in files}) != len(files):
        raise ViMLError(
            f"{len(files)} files, {len(set(map(str, files)))} of them different: give each once, at least one"
        )
    paths = [file for file in files if isinstance(file, Path)]
    root = root or Path(os.path.commonpath([path.parent for path in paths]) if paths else ".")
    return [
        replace(file, audio=file.audio or file.video, video=None, texts=(), fields=_facts(file))
        if isinstance(file, MediaItem)
        else MediaItem(printable(file.relative_to(root).as_posix()), audio=str(file.absolute()))
        for file in files
    ]


def _facts(item: MediaItem) -> dict[str, Any]:
    """All that is known of an item: its fields, and its texts as one of them."""
    return {**item.fields, **({"texts": list(item.texts)} if item.texts else {})}


def track_spans(segments: int) -> list[tuple[int, int]]:
    """The windows of a track of so many segments, as row ranges."""
    return windows(segments, CLIP_SEGMENTS)


def make_track(item: MediaItem, segments: int, facts: Mapping[str, Any], error: str | None) -> Track:
    """The track of an item of which so many segments were extracted, with what was found out on the way."""
    path, licence = printable(str(item.audio)), item.fields.get("licence")
    fields = {name: value for name, value in item.fields.items() if name != "licence" and value is not None}
    if error is not None:
        return Track(item.id, path, "", 0.0, (), f"{item.id}: {error}", licence, fields)
    duration, begin = facts["audio_seconds"], item.start or 0.0
    bounds = segment_bounds(duration)
    spans = track_spans(segments)
    found = tuple(Window(begin + bounds[first][0], begin + bounds[stop - 1][1]) for first, stop in spans)
    return Track(item.id, path, facts["sha256"], duration, found, None, licence, fields)


def check_some_usable(tracks: Sequence[Track]) -> None:
    """Refuse tracks of which none could be read."""
    if all(track.error is not None for track in tracks):
        raise ViMLError(f"none of {len(tracks)} files could be indexed; the first error was: {tracks[0].error}")


def assemble_index(tracks: Sequence[Track], rows: Sequence[Rows], encoder: MediaEncoder, model: str) -> MusicIndex:
    """The index of tracks, and of the rows of each that has windows."""
    encoders = {modality: e.config.model_type for modality, e in encoder.model.encoders.items()}
    viml = encoder.model.viml
    embeddings = [np.zeros((0, viml.config.projection_dim), np.float16), *(embeds for embeds, _ in rows)]
    corrections = None
    if viml.query_bank is not None:
        corrections = np.concatenate([np.zeros((0, 2), np.float32), *(taken for _, taken in rows if taken is not None)])
    return MusicIndex(np.concatenate(embeddings), tracks, model, fingerprint(encoder), encoders, corrections)


@torch.inference_mode()
def embed_track(encoder: MediaEncoder, features: np.ndarray, spans: Iterable[tuple[int, int]]) -> Rows:
    """The rows of row ranges of one track's base features `(segments, width)`."""
    embeddings, bank = embed_windows(encoder, features, spans), encoder.model.viml.query_bank
    if bank is None:
        return embeddings, None
    return embeddings, bank.corrections(torch.from_numpy(embeddings).to(encoder.model.device)).cpu().numpy()


@torch.inference_mode()
def embed_windows(encoder: MediaEncoder, rows: np.ndarray, spans: Iterable[tuple[int, int]]) -> np.ndarray:
    """Embeddings `(windows, dim)` float32 of row ranges of one track's base features `(segments, width)`.

    The windows of a track, all of one length, go in batches of their own: what a track gives depends on no other.
    """
    viml = encoder.model.viml
    parts = torch.stack([torch.from_numpy(rows[first:stop]).float() for first, stop in spans])
    batches = [viml.get_audio_features(part.to(viml.device)).pooler_output for part in parts.split(WINDOWS_PER_BATCH)]
    return torch.cat(batches).cpu().numpy()
