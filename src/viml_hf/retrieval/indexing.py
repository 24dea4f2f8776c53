"""Making the index of a large library: many processes, and base features kept in `features/` beside it.

So a file is analysed once, whatever interrupts the work and whichever heads come later.
"""

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tqdm import tqdm

from viml_hf.encoders.encoder_settings import EncoderLoader
from viml_hf.encoders.media_encoder import MediaEncoder
from viml_hf.errors import ViMLError
from viml_hf.features.atomic_files import LOCK_FILE, lock_folder, unlock_folder
from viml_hf.features.extraction import Run, measure, run_extraction, store_spec
from viml_hf.features.json_files import read_json
from viml_hf.features.measurements import Measurements
from viml_hf.features.media_item import MediaItem
from viml_hf.features.store import Store
from viml_hf.features.store_format import StoreItem, StoreSpec
from viml_hf.features.store_writer import SPEC_FILE
from viml_hf.retrieval.duplicates import COLUMN as DUPLICATES
from viml_hf.retrieval.duplicates import with_duplicates
from viml_hf.retrieval.index import MusicIndex, Track, Window
from viml_hf.retrieval.kept_tags import KeptTags
from viml_hf.retrieval.model_loading import fingerprint
from viml_hf.retrieval.track_columns import with_measured
from viml_hf.retrieval.tracks import (
    Rows,
    assemble_index,
    check_some_usable,
    embed_track,
    make_track,
    named_items,
    track_spans,
)

FEATURES_FOLDER = "features"
LEAST_KEPT = 0.75  # of the tracks of an older index: then what is new is added to it


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
    measurements: str | Path | None = None,
    tags: KeptTags | None = None,
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
        previous: An older index: a track whose content it has is not embedded again by the same model. Where most of
            its tracks are still there, they keep their places, and the others come behind them.
        measurements: File in which what is measured of each track's sound is kept. With it the index has the columns
            `tempo`, `key`, `loudness`, `true_peak`, `silence_start`, `silence_end` and `duplicate_of`. Sound is
            measured while it is decoded for the encoder; what the file has is not measured again.
        tags: Tags of tracks, for the columns `tags` and `vocals`; what it does not know is tagged.
        progress: Show a progress bar.

    Returns:
        The index.

    Raises:
        ViMLError: There are no files, two have one name, not one of them could be read, or `workers` is below 1.
    """
    items = named_items(files, root)
    run = Run(workers=workers, progress=progress, title="index")
    with ExitStack() as stack:
        folder = features or stack.enter_context(TemporaryDirectory())
        kept_file = None if measurements is None else Measurements(measurements)
        store = _extract_sound(items, encoder, Path(folder), loader, run, kept_file)
        found = {item.id: item for item in store.items}
        if kept_file is not None:
            items = _measured(items, found, kept_file, run if loader is not None else replace(run, workers=1))
        if tags is not None:
            items = _tagged(items, found, tags, progress)
        tracks = [_track(item, found[item.id]) for item in items]
        check_some_usable(tracks)
        before = previous if previous is not None and previous.fingerprint == fingerprint(encoder) else None
        kept = _unchanged(tracks, before)
        new = [track for track in tracks if track.name not in kept]
        known = _known_rows(before)
        rows = []
        for track in tqdm(new, desc="embed", unit="track", disable=not progress):
            if track.error is None:
                stored = found[track.name].audio
                spans = track_spans(len(stored))
                rows.append(
                    known.get((track.sha256, track.windows))
                    or embed_track(encoder, store.rows("audio", stored).numpy(), spans)
                )
    added = assemble_index(new, rows, encoder, model)
    if before is None or not kept:
        return added if measurements is None else with_duplicates(added)
    gone = set(range(len(before.tracks))) - set(kept.values())
    if measurements is not None and new:
        added = with_duplicates(added, before, gone)
    return before.updated(added if new else None, gone)


def _measured(
    items: list[MediaItem], found: Mapping[str, StoreItem], measurements: Measurements, run: Run
) -> list[MediaItem]:
    """The items with what was measured of them; features that an earlier run has left may lack it."""

    def known(item: MediaItem) -> dict[str, Any] | None:
        return measurements.of(found[item.id].fields.get("sha256", ""), item.start, item.end)

    measure([item for item in items if len(found[item.id].audio) and known(item) is None], measurements, run)
    return [replace(item, fields=with_measured(item.fields, known(item))) for item in items]


def _tagged(items: list[MediaItem], found: Mapping[str, StoreItem], tags: KeptTags, progress: bool) -> list[MediaItem]:
    """The items with their tags."""
    checksums = [found[item.id].fields.get("sha256", "") for item in items]
    heard = [one for one in zip(items, checksums, strict=True) if len(found[one[0].id].audio)]
    tags.tag(heard, progress=progress)
    columns = [tags.of(known, item.start, item.end) for item, known in zip(items, checksums, strict=True)]
    return [replace(i, fields=with_measured(i.fields, own)) for i, own in zip(items, columns, strict=True)]


def _extract_sound(
    items: list[MediaItem],
    encoder: MediaEncoder,
    folder: Path,
    loader: EncoderLoader | None,
    run: Run,
    measurements: Measurements | None,
) -> Store:
    """The base features of the items' sound; an older store of other encoders gives way."""
    model_types = {modality: e.config.model_type for modality, e in encoder.model.encoders.items()}
    spec = store_spec(model_types, encoder)
    spec = replace(spec, fingerprints={"audio": spec.fingerprints["audio"]})
    _make_room(folder, spec)
    return run_extraction(items, folder, encoder, spec, loader, run, measurements)


def _make_room(folder: Path, spec: StoreSpec) -> None:
    """Remove features that an index kept of another audio encoder; any other store is the user's.

    Raises:
        ViMLError: The folder holds a store that no index made, or another run is at work in it.
    """
    known = read_json(folder / SPEC_FILE, dict, "give another folder for the features, or delete this one")
    if known is None:
        return
    fingerprints = known.get("fingerprints")
    if not isinstance(fingerprints, dict) or set(fingerprints) != {"audio"}:
        raise ViMLError(f"{folder}: a store that was not made for an index; give another folder for the features")
    if fingerprints != spec.fingerprints:
        lock = lock_folder(folder)
        try:
            for path in folder.iterdir():
                if path.is_file() and path.name != LOCK_FILE:
                    path.unlink()
        finally:
            unlock_folder(lock)


def _track(item: MediaItem, stored: StoreItem) -> Track:
    """The track of a stored item."""
    return make_track(item, len(stored.audio), stored.fields, stored.error)


def _unchanged(tracks: Sequence[Track], before: MusicIndex | None) -> dict[str, int]:
    """By name the position in an older index of each track that is there just so; none where too few are.

    An index of which much has changed is put together anew, in the order of the tracks.
    """
    if before is None:
        return {}
    there = {_all_of(track): position for position, track in enumerate(before.tracks)}
    found = {track.name: there[facts] for track in tracks if (facts := _all_of(track)) in there}
    return found if len(found) >= LEAST_KEPT * len(before.tracks) else {}


def _all_of(track: Track) -> tuple[Any, ...]:
    """All that an index keeps of a track; numbers and nested values as they are read back."""
    fields = {
        name: value if isinstance(value, str | bool) else float(value) if isinstance(value, int) else json.dumps(value)
        for name, value in track.fields.items()
        if name != DUPLICATES  # it depends on the other tracks
    }
    known = (track.name, track.path, track.sha256, track.duration, track.windows, track.error, track.licence)
    return *known, json.dumps(fields, sort_keys=True)


def _known_rows(before: MusicIndex | None) -> dict[tuple[str, tuple[Window, ...]], Rows]:
    """Embeddings and corrections of an older index by content and windows: a file may have been renamed."""
    known: dict[tuple[str, tuple[Window, ...]], Rows] = {}
    for block in before.blocks if before is not None else ():
        for track, first, stop in zip(block.tracks, block.first_rows, block.first_rows[1:], strict=False):
            corrections = None if block.corrections is None else block.corrections[first:stop]
            known[track.sha256, track.windows] = block.embeddings[first:stop], corrections
    return known
