"""One item to extract, and what becomes of it. The same function runs in this process, in workers, and on a cluster."""

import hashlib
import json
import os
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from viml_hf.analysis.track_analysis import TrackAnalysis, TrackListener, analyse_track
from viml_hf.encoders.media_encoder import MediaEncoder
from viml_hf.errors import MediaDecodeError, in_one_line
from viml_hf.features.checksums import sha256_of


@dataclass(frozen=True, slots=True)
class MediaItem:
    """One item to extract.

    Args:
        id: Unique name.
        video: File with the pictures; `None` for music alone.
        audio: File with the sound, often the same; `None` for pictures alone.
        texts: Descriptions of the music.
        fields: Anything else to keep in the store: split, tags, licence.
        start: Seconds into both files at which the excerpt begins; `None` for their beginning.
        end: Seconds into both files at which it ends; `None` for their end.

    Example:
        >>> MediaItem("a", video="a.mp4", audio="a.mp4", start=30, end=60).paths
        ['a.mp4']
    """

    id: str
    video: str | None = None
    audio: str | None = None
    texts: tuple[str, ...] = ()
    fields: dict[str, Any] = field(default_factory=dict)
    start: float | None = None
    end: float | None = None

    @property
    def paths(self) -> list[str]:
        """Its files, each once."""
        return list(dict.fromkeys(path for path in (self.video, self.audio) if path is not None))


@dataclass(frozen=True, slots=True)
class MeasuredItem(MediaItem):
    """An item whose sound is also measured, by `analysis.track_analysis`, while it is decoded."""


@dataclass(frozen=True, eq=False)
class Extracted:
    """What `extract_one` made of an item."""

    item: MediaItem
    features: dict[str, np.ndarray] = field(default_factory=dict)  # (rows, width) float16, of all that could be read
    facts: dict[str, Any] = field(default_factory=dict)  # `sha256`, `bytes`, `…_seconds` and `…_coverage`
    error: str | None = None  # what is missing and why
    analysis: TrackAnalysis | None = None  # of a `MeasuredItem`


def extract_one(item: MediaItem, encoder: MediaEncoder | None) -> Extracted:
    """Base features of one item, or without an encoder what is measured of it alone.

    It never raises: what goes wrong becomes the item's error.

    A video whose sound cannot be decoded keeps its pictures, and the other way round; texts come with either. What is
    not the file's fault, such as too little memory, leaves the item without features, so that a rerun tries it again.
    """
    features: dict[str, np.ndarray] = {}
    facts: dict[str, Any] = {}
    errors: list[str] = []
    listener = TrackListener() if isinstance(item, MeasuredItem) else None
    heard: dict[str, Any] = {"listener": listener} if listener is not None else {}
    try:
        if encoder is None:
            measured = analyse_track(str(item.audio), item.start or 0.0, item.end)
            return Extracted(item, facts={"sha256": content_hash(item), "bytes": size_of(item)}, analysis=measured)
        for modality, path in (("video", item.video), ("audio", item.audio)):
            if path is None:
                continue
            try:
                if modality == "video":
                    found = encoder.encode_video(path, start=item.start, end=item.end)
                else:
                    found = encoder.encode_audio(path, start=item.start, end=item.end, **heard)
            except MediaDecodeError as error:
                errors.append(in_one_line(error))
                continue
            features[modality] = found.rows
            facts[f"{modality}_seconds"], facts[f"{modality}_coverage"] = found.duration, found.coverage
        if item.texts and (features or not errors):
            features["text"] = np.concatenate([encoder.encode_text(text) for text in item.texts])
        if features and item.paths:
            facts |= {"sha256": content_hash(item), "bytes": size_of(item)}
        analysis = listener.analysis() if listener is not None and "audio" in features else None
    except Exception as error:
        return Extracted(item, error=in_one_line(error))
    # A file that cannot be opened says so twice.
    return Extracted(item, features, facts, "; ".join(dict.fromkeys(errors)) or None, analysis)


def signature(item: MediaItem) -> str:
    """Two checksums: of all that decides what is read (files, sizes, times, excerpt, texts), and of the fields."""
    read: list[Any] = [item.texts, item.start, item.end]
    for path in (item.video, item.audio):
        try:
            status = os.stat(path) if path is not None else None
        except OSError:
            status = None
        read.append((path, status and status.st_size, status and status.st_mtime_ns))
    return f"{_checksum(read)}.{_checksum(item.fields)}"


def same_reading(one: str, other: str | None) -> bool:
    """Whether two signatures differ in the fields alone, if at all."""
    return one.partition(".")[0] == (other or "").partition(".")[0]


def _checksum(known: Any) -> str:
    try:
        text = json.dumps(known, sort_keys=True, default=str)
    except TypeError:  # keys of several types cannot be sorted
        text = repr(known)
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()


def content_hash(item: MediaItem) -> str:
    """SHA-256, in hex, of an item's file; of two files, that of their two checksums."""
    found = []
    for path in item.paths:
        status = os.stat(path)
        found.append(_file_hash(path, status.st_size, status.st_mtime_ns))
    return found[0] if len(found) == 1 else hashlib.sha256("".join(found).encode()).hexdigest()


@lru_cache(maxsize=16)  # the excerpts of one file follow each other
def _file_hash(path: str, size: int, time_ns: int) -> str:
    return sha256_of(Path(path))


def size_of(item: MediaItem) -> int:
    """Bytes of an item's files."""
    return sum(os.stat(path).st_size for path in item.paths)
