"""Extracting many files into a store: in parallel, resumable, and never stopped by one bad file."""

import sys
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from viml_hf.encoders.encoder_settings import EncoderLoader, EncoderSettings
from viml_hf.encoders.media_encoder import MediaEncoder, best_device, usable_cores
from viml_hf.errors import ViMLError, shown
from viml_hf.features.json_files import read_json
from viml_hf.features.measurements import Measurements
from viml_hf.features.media_item import (
    Extracted,
    MeasuredItem,
    MediaItem,
    content_hash,
    extract_one,
    same_reading,
    signature,
    size_of,
)
from viml_hf.features.store import Store
from viml_hf.features.store_format import StoreItem, StoreSpec, item_from_record, read_journal
from viml_hf.features.store_writer import SPEC_FILE, StoreWriter
from viml_hf.features.workers import extract_in_processes, extract_on_ray
from viml_hf.processing.media import printable

ENGINES = ("processes", "ray")
ENOUGH_COVERAGE = 0.75  # below this share of what a file declares, a line says so
WORKERS_PER_GPU = 16  # they decode; beside a GPU that takes longer than encoding


@dataclass(frozen=True)
class ExtractionPlan:
    """What a run has to do."""

    kept: list[str]  # ids that the store has already, unchanged
    missing: list[MediaItem]  # new, changed, or without features before
    dropped: list[StoreItem]  # of the store, no longer asked for or changed
    # Of every wanted item by its id, as its files were before they are read: one that changes while it is read is read
    # again next time.
    signatures: dict[str, str]


def check_ids(items: Sequence[MediaItem]) -> None:
    """Refuse items that share an id."""
    ids = {item.id for item in items}
    if len(ids) != len(items):
        raise ViMLError(f"{len(items)} items, but only {len(ids)} ids; give every item an id of its own")


def plan_extraction(items: Sequence[MediaItem], stored: Iterable[StoreItem]) -> ExtractionPlan:
    """Compare what is wanted with what an earlier run left, by each item's signature."""
    check_ids(items)
    wanted = {item.id: signature(item) for item in items}
    kept, dropped = [], []
    for item in stored:
        if item.has_features and wanted.get(item.id) == item.fields.get("signature"):
            kept.append(item.id)
        else:
            dropped.append(item)
    there = set(kept)
    return ExtractionPlan(kept, [item for item in items if item.id not in there], dropped, wanted)


def extract(
    items: Iterable[MediaItem],
    folder: str | Path,
    *,
    video: str = "descriptors",
    text: str = "descriptors",
    audio: str = "descriptors",
    dtypes: dict[str, str] | str = "auto",
    fast: bool = False,
    workers: int | None = None,
    engine: str = "processes",
    progress: bool = True,
    shard_items: int = 256,
    commit_seconds: float = 300.0,
    **load_options: Any,
) -> Store:
    """Extract items into a store; it then holds these items and no others.

    A rerun goes on where it stopped: items are extracted that are new, whose files or texts have changed, or that have
    no features yet. A file that was only renamed or touched is recognised by its content and not read again.

    Args:
        items: What to extract.
        folder: The store's folder.
        video: Video encoder, `NAME[:HUB_ID[@REVISION]]`; likewise `text` and `audio`.
        text: Text encoder.
        audio: Audio encoder.
        dtypes: Dtype of the encoders' weights per modality, one for all, or `"auto"`: that of the store if there is
            one, otherwise see `viml_hf.encoders.encoder_info.resolve_dtypes`.
        fast: Decode only the frames that others refer to: another sampling, and faster.
        workers: Processes; by default one per core. With 1 it runs in this process, in as many threads as there are
            cores, and a crash of a decoder ends it.
        engine: `"processes"`, or `"ray"` for a Ray cluster.
        progress: Show a progress bar.
        shard_items: Items per shard; a killed run loses no more than the last shard.
        commit_seconds: Age in seconds at which a shard is written even if it is not full.
        load_options: Passed to each encoder's `from_pretrained` (`local_files_only`, `cache_dir`, `token`, …).

    Returns:
        The finished store. Items that failed, or that lack a modality, are rows with their error.

    Raises:
        ViMLError: Two items share an id, the folder holds other features, another run is at work in it, or an option
            is none that is accepted.
    """
    # What can be refused is refused before anything is loaded.
    run = Run(engine, workers, progress, shard_items, commit_seconds)
    items = list(items)
    if Path(folder).exists() and not Path(folder).is_dir():
        raise ViMLError(f"{folder}: a file; give a folder for the store")
    check_ids(items)
    if dtypes == "auto":
        dtypes = _stored_dtypes(Path(folder)) or dtypes
    settings = EncoderSettings(video, text, audio, dtypes, fast, load_options)
    encoder = settings.load(device=best_device())
    settings = settings.resolved(encoder)
    return run_extraction(items, folder, encoder, store_spec(settings.names, encoder), settings, run)


@dataclass(frozen=True)
class Run:
    """How a run goes about it; the arguments are those of [`extract`]."""

    engine: str = "processes"
    workers: int | None = None
    progress: bool = True
    shard_items: int = 256
    commit_seconds: float = 300.0
    title: str = "extract"

    def __post_init__(self) -> None:
        """Refuse what no run can be."""
        if self.engine not in ENGINES:
            raise ViMLError(f"engine={self.engine!r}: give {' or '.join(ENGINES)}")
        if self.workers is not None and self.workers < 1:
            raise ViMLError(f"workers={self.workers}: give 1 or more")


def run_extraction(
    items: Sequence[MediaItem],
    folder: str | Path,
    encoder: MediaEncoder,
    spec: StoreSpec,
    loader: EncoderLoader | None,
    run: Run,
    measurements: Measurements | None = None,
) -> Store:
    """Extract items by encoders at hand, see [`extract`]. Without a loader of them everything runs in this process.

    What is extracted is measured too, where a file for that is given that does not know it.
    """
    workers = default_workers(torch.cuda.device_count()) if run.workers is None else run.workers
    writer = StoreWriter(
        folder, spec, encoder.null_text(), shard_items=run.shard_items, commit_seconds=run.commit_seconds
    )
    with writer:
        plan = plan_extraction(items, writer.items)
        moved = dict(_moved(plan))
        writer.forget([item.id for item in plan.dropped])
        for item in plan.missing:
            if (old := moved.get(item.id)) is not None:
                facts = {name: old.fields[name] for name in _FACTS if name in old.fields}
                _add(writer, Extracted(item, writer.load_rows(old), facts, old.error), plan.signatures[item.id])
        missing = [item for item in plan.missing if item.id not in moved]
        if measurements is not None:
            missing = list(measurements.to_measure(missing))
        if run.progress and items and not missing:
            print(f"nothing to read: the features of all {len(items)} items are in {folder}", file=sys.stderr)
        results: Generator[Extracted, None, None]
        if loader is not None and run.engine == "ray":
            results = extract_on_ray(missing, loader, workers)
        elif loader is None or workers == 1 or not missing:
            results = (extract_one(item, encoder) for item in missing)
        else:
            # Also for a single file: it may be the one that crashes its decoder.
            results = extract_in_processes(missing, loader, min(workers, len(missing)))
        with closing(results):
            _write(writer, _kept(results, measurements), plan, len(missing), run)
    return Store(folder)


def measure(items: Sequence[MediaItem], measurements: Measurements, run: Run) -> None:
    """Measure items of which nothing is known by content; those that fail are told."""
    missing = [item for item in measurements.to_measure(items) if isinstance(item, MeasuredItem)]
    workers = default_workers(0) if run.workers is None else run.workers
    results: Generator[Extracted, None, None]
    if workers == 1 or not missing:
        results = (extract_one(item, None) for item in missing)
    else:
        results = extract_in_processes(missing, None, min(workers, len(missing)))
    with (
        closing(results),
        tqdm(total=len(missing), desc="measure", unit="file", disable=not (run.progress and missing)) as bar,
    ):
        for extracted in _kept(results, measurements):
            if extracted.error is not None:
                tqdm.write(f"not measured: {shown(extracted.error)}", file=sys.stderr)
            bar.update()


def _kept(results: Iterable[Extracted], measurements: Measurements | None) -> Iterator[Extracted]:
    """Results, of which what was measured is written down."""
    for extracted in results:
        if measurements is not None:
            measurements.keep(extracted)
        yield extracted


def stored_items(folder: str | Path) -> list[StoreItem]:
    """The items that earlier runs have written into a folder, each as it was last; none for an empty folder."""
    entries = (entry for entry in read_journal(Path(folder)) if entry is not None)
    records = (record for entry in entries for record in entry["items"])
    return list({record["id"]: item_from_record(record) for record in records}.values())


def store_spec(names: dict[str, str], encoder: MediaEncoder) -> StoreSpec:
    """What a store of features by encoders of these names, per modality, says of them."""
    return StoreSpec(
        encoders=names,
        widths=encoder.widths,
        fingerprints=encoder.fingerprints(),
        dtypes=encoder.dtypes,
        revisions={modality: info.revision for modality, info in encoder.info.items()},
        licences={modality: info.licence for modality, info in encoder.info.items()},
        fast=encoder.processor.fast,
        spaces={modality: info.space for modality, info in encoder.info.items() if info.space},
    )


def _stored_dtypes(folder: Path) -> dict[str, str]:
    """The dtypes of a store that was begun in a folder: another machine would choose others."""
    try:
        dtypes = (read_json(folder / SPEC_FILE, dict, "") or {}).get("dtypes")
    except ViMLError:  # the writer says what is wrong
        dtypes = None
    return dtypes if isinstance(dtypes, dict) else {}


def default_workers(gpus: int) -> int:
    """One worker per core, and not too many per GPU."""
    cores = usable_cores()
    return min(cores, WORKERS_PER_GPU * gpus) if gpus else cores


_FACTS = ("sha256", "bytes", "video_seconds", "audio_seconds", "video_coverage", "audio_coverage")


def _moved(plan: ExtractionPlan) -> Iterator[tuple[str, StoreItem]]:
    """Missing items whose features the store has under another name or time, by content."""
    by_content: dict[str, list[StoreItem]] = {}
    sizes = set()
    by_id = {old.id: old for old in plan.dropped if old.has_features}
    for old in plan.dropped:
        if old.has_features and "bytes" in old.fields and "sha256" in old.fields:
            by_content.setdefault(old.fields["sha256"], []).append(old)
            sizes.add(old.fields["bytes"])
    for item in plan.missing:
        same = by_id.get(item.id)
        if same is not None and same_reading(plan.signatures[item.id], same.fields.get("signature")):
            yield item.id, same  # other fields, the same files: nothing is to be read
            continue
        try:
            # A file is read only where its size is a known one.
            known = by_content.get(content_hash(item), []) if item.paths and size_of(item) in sizes else []
        except OSError:
            continue
        for old in known:
            if _asks_for(item) == _asked_for(old):
                yield item.id, old
                break


def _asks_for(item: MediaItem) -> tuple[Any, ...]:
    """All but the files that decides an item's features."""
    return tuple(item.texts), item.start, item.end, item.video is not None, item.audio is not None, len(item.paths)


def _asked_for(old: StoreItem) -> tuple[Any, ...]:
    paths = [old.fields.get(name) for name in ("video_path", "audio_path")]
    given = [path for path in paths if path is not None]
    return old.texts, old.fields.get("start"), old.fields.get("end"), *(p is not None for p in paths), len(set(given))


def _write(writer: StoreWriter, results: Iterator[Extracted], plan: ExtractionPlan, total: int, run: Run) -> None:
    failed, seconds = 0, 0.0
    # Closed also when the run is stopped, so that what is printed then has a line of its own.
    with tqdm(total=total, desc=run.title, unit="file", disable=not (run.progress and total), smoothing=0.05) as bar:
        for extracted in results:
            error = _add(writer, extracted, plan.signatures[extracted.item.id])
            if error is not None:
                failed += 1
                kept = ", ".join(m for m in ("video", "audio") if m in extracted.features)
                tqdm.write(f"{f'only {kept} kept' if kept else 'skipped'}: {shown(error)}", file=sys.stderr)
            elif notice := _large_part_missing(extracted):
                tqdm.write(shown(notice), file=sys.stderr)
            seconds += max(extracted.facts.get(f"{modality}_seconds", 0.0) for modality in ("video", "audio"))
            bar.set_postfix_str(f"{seconds / 3600:.2f} h of media, {failed} with errors", refresh=False)
            bar.update()


def _large_part_missing(extracted: Extracted) -> str | None:
    """A line about a file of which much less was decoded than it claims to have."""
    for modality in ("video", "audio"):
        coverage = extracted.facts.get(f"{modality}_coverage", 1.0)
        if coverage < ENOUGH_COVERAGE:
            name = " and ".join(extracted.item.paths)
            return f"{printable(name)}: only {coverage:.0%} of its {modality} is there, the rest is missing or damaged"
    return None


def _add(writer: StoreWriter, extracted: Extracted, signature: str) -> str | None:
    """Write a result; what cannot be stored becomes the item's error, which comes back."""
    item = extracted.item
    known = {"signature": signature}
    try:
        fields = {**item.fields, **extracted.facts, **known}
        for name, path in (("video_path", item.video), ("audio_path", item.audio)):
            fields[name] = path and printable(path)
        fields |= {name: float(at) for name, at in (("start", item.start), ("end", item.end)) if at is not None}
        error = extracted.error and printable(extracted.error)
        texts = item.texts if "text" in extracted.features else ()
        writer.add_item(StoreItem(item.id, texts=texts, fields=fields, error=error), extracted.features)
    except (ValueError, TypeError) as refused:
        error, item_id = printable(str(refused)), printable(str(item.id))
        if item_id not in writer.done:
            writer.add_item(StoreItem(item_id, fields=known, error=error), {})
    return error
