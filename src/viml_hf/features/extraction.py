"""Extracting many files into a store: in parallel, resumable, and never stopped by one bad file."""

import hashlib
import json
import multiprocessing
import os
import sys
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from viml_hf.encoders.media_encoder import MediaEncoder
from viml_hf.errors import ViMLError
from viml_hf.features.store import Store, StoreItem, StoreSpec
from viml_hf.features.store_writer import StoreWriter
from viml_hf.processing.media import printable


@dataclass(frozen=True)
class MediaItem:
    """One item to extract.

    Args:
        id: Unique name.
        video: File with the pictures; `None` for music alone.
        audio: File with the sound, often the same; `None` for pictures alone.
        texts: Descriptions of the music.
        fields: Anything else to keep in the store: split, tags, licence.
    """

    id: str
    video: str | None = None
    audio: str | None = None
    texts: tuple[str, ...] = ()
    fields: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Extracted:
    """What `extract_one` made of an item: its features, or the reason why there are none."""

    item: MediaItem
    features: dict[str, np.ndarray] = field(default_factory=dict)
    error: str | None = None


def signature(item: MediaItem) -> str:
    """A checksum of an item's texts and fields, and of its files' paths, sizes and times."""
    known: list[Any] = [item.texts, sorted(item.fields.items())]
    for path in (item.video, item.audio):
        try:
            status = os.stat(path) if path is not None else None
        except OSError:
            status = None
        known.append((path, status and status.st_size, status and status.st_mtime_ns))
    return hashlib.sha256(json.dumps(known, sort_keys=True, default=str).encode()).hexdigest()


def extract_one(item: MediaItem, encoder: MediaEncoder) -> Extracted:
    """Base features of one item. It never raises: what goes wrong becomes the item's error."""
    try:
        features: dict[str, np.ndarray] = {}
        if item.video is not None:
            features["video"] = encoder.encode_video(item.video).rows
        if item.audio is not None:
            features["audio"] = encoder.encode_audio(item.audio).rows
        if item.texts:
            features["text"] = np.concatenate([encoder.encode_text(text) for text in item.texts])
        return Extracted(item, features)
    except Exception as error:
        return Extracted(item, error=" ".join(str(error).split()) or type(error).__name__)


def extract(
    items: Iterable[MediaItem],
    folder: str | Path,
    *,
    video: str = "descriptors",
    text: str = "descriptors",
    audio: str = "descriptors",
    workers: int | None = None,
    progress: bool = True,
) -> Store:
    """Extract items into a store; it then holds these items and no others.

    A rerun goes on where it stopped: items are extracted that are new, whose files or texts have changed, or that
    failed before.

    Args:
        items: What to extract.
        folder: The store's folder.
        video: Video encoder, `NAME[:HUB_ID[@REVISION]]`.
        text: Text encoder.
        audio: Audio encoder.
        workers: Processes; all cores by default. With 1 it runs in this process.
        progress: Show a progress bar.

    Returns:
        The finished store. Items that failed are rows with their error.

    Raises:
        ViMLError: Two items share an id, or the folder holds other features.
    """
    items = list(items)
    ids = {item.id for item in items}
    if len(ids) != len(items):
        raise ViMLError(f"{len(items)} items, but only {len(ids)} ids; give every item an id of its own")
    names = {"video": video, "text": text, "audio": audio}
    encoder = MediaEncoder.from_names(**names)
    spec = StoreSpec(encoders=names, widths=encoder.widths, fingerprints=encoder.fingerprints())
    with StoreWriter(folder, spec, encoder.null_text()) as writer:
        wanted = {item.id: signature(item) for item in items}
        writer.forget([i.id for i in writer.items if i.error or wanted.get(i.id) != i.fields.get("signature")])
        missing = [item for item in items if item.id not in writer.done]
        bar = tqdm(total=len(missing), desc="extract", unit="file", disable=not progress)
        for extracted in _run(missing, names, encoder, os.cpu_count() or 1 if workers is None else workers):
            item = extracted.item
            paths = {"video_path": item.video, "audio_path": item.audio}
            paths = {name: path and printable(path) for name, path in paths.items()}
            fields = {**item.fields, **paths, "signature": wanted[item.id]}
            error = extracted.error
            if error is None:
                try:
                    writer.add_item(StoreItem(item.id, texts=item.texts, fields=fields), extracted.features)
                except ViMLError as refused:
                    error = str(refused)
            if error is not None:
                tqdm.write(f"skipped: {error}", file=sys.stderr)
                writer.add_item(StoreItem(item.id, fields=fields, error=printable(error)), {})
            bar.update()
        bar.close()
    return Store(folder)


_worker_encoder: MediaEncoder | None = None


def _start_worker(names: dict[str, str]) -> None:
    global _worker_encoder
    _worker_encoder = MediaEncoder.from_names(**names)


def _extract_in_worker(item: MediaItem) -> Extracted:
    assert _worker_encoder is not None
    return extract_one(item, _worker_encoder)


def _run(items: list[MediaItem], names: dict[str, str], encoder: MediaEncoder, workers: int) -> Iterator[Extracted]:
    """Results in the order of the items, so that a store does not depend on the number of workers."""
    if workers <= 1 or len(items) < 2 * workers:
        yield from (extract_one(item, encoder) for item in items)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(names,)) as pool:
        waiting: list[Future[Extracted]] = []
        ahead = iter(items)
        # A short queue: results are not to pile up while one slow file is awaited.
        waiting += [pool.submit(_extract_in_worker, item) for item in islice(ahead, 8 * workers)]
        while waiting:
            wait(waiting[:1], return_when=FIRST_COMPLETED)
            yield waiting.pop(0).result()
            waiting += [pool.submit(_extract_in_worker, item) for item in islice(ahead, 1)]
