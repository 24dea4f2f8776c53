"""`viml extract`: read media files into a store of base features."""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from viml_hf.cli.shared import add_encoder_options, read_media, row_counts

if TYPE_CHECKING:
    from viml_hf.features.media_item import MediaItem
    from viml_hf.features.store import Store

MANIFEST = """A manifest has one item a row. Its columns: file_name, video or path (the video, or a music file); audio
or music (the sound, where it is another file); id; start and end (the excerpt: seconds, mm:ss or hh:mm:ss); text, or
texts (a list); licence; all others are kept with the item. Only a file is needed; its path is relative to the
manifest."""
SHOWN = 10  # of the files that are missing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    parser.epilog = MANIFEST
    about = "folder of media, folder with metadata.csv or .jsonl, manifest (.csv .tsv .jsonl .parquet), or media file"
    add("sources", nargs="+", metavar="SOURCE", help=about)
    add("-o", "--output", required=True, metavar="STORE", help="folder of the store; a rerun goes on")
    add("--media", metavar="FOLDER", help="videos named by their ids, for a CSV of YouTube8M-MusicTextClips")
    add_encoder_options(parser, "video", "text", "audio")
    add("--only", choices=["video", "audio"], help="read the pictures or the sound alone")
    add("--dtype", choices=["auto", "float32", "bfloat16"], default="auto", help="of encoder weights")
    add("--fast", action="store_true", help="decode only the frames that others refer to")
    add("--workers", type=int, help="processes (default: one per core)")
    add("--engine", choices=["processes", "ray"], default="processes", help="what runs the workers")
    add("--local-files-only", action="store_true", help="never ask the network for an encoder")
    add("--dry-run", action="store_true", help="say what would be done, and do nothing")
    add("--quiet", action="store_true", help="no progress bar")


def run(options: argparse.Namespace) -> None:
    """Extract, and print what the store holds."""
    from viml_hf.errors import ViMLError
    from viml_hf.features.extraction import extract

    sources = read_media(options.sources, options.media)
    items = _only(options.only, sources.items)
    if len(items) < len(sources.items):
        print(f"left out, as without {options.only}: {len(sources.items) - len(items)} items", file=sys.stderr)
    if not items:
        raise ViMLError(f"--only {options.only}: no item has {options.only}; give other sources, or leave --only out")
    names = {modality: getattr(options, f"{modality}_encoder") for modality in ("video", "text", "audio")}
    if options.dry_run:
        _print_plan(items, options.output)
        print("encoders: " + ", ".join(f"{modality} {name}" for modality, name in names.items()))
        return
    load_options: dict[str, Any] = {"local_files_only": True} if options.local_files_only else {}
    store = extract(
        items,
        options.output,
        **names,
        dtypes=options.dtype,
        fast=options.fast,
        workers=options.workers,
        engine=options.engine,
        progress=not options.quiet,
        **load_options,
    )
    _print_result(store, options.output)
    if not any(item.has_features for item in store.items):
        raise ViMLError(f"not one of {len(store.items)} items could be read, see above; give files that are there")


def _only(modality: str | None, items: "Sequence[MediaItem]") -> "list[MediaItem]":
    """The items' pictures or sound alone, of those that have any."""
    others = {"video": {"audio": None}, "audio": {"video": None}}
    items = [replace(item, **others[modality]) if modality else item for item in items]  # type: ignore[arg-type]
    return [item for item in items if item.paths]


def _print_result(store: "Store", output: str) -> None:
    """What the store holds; on stderr what is wrong with it."""
    errors = [item for item in store.items if item.error is not None]
    failed = sum(not item.has_features for item in errors)
    print(f"{len(store.items) - failed} items in {output}, {row_counts(store)}")
    if errors:
        counts = {"could not be read": failed, "only in part": len(errors) - failed}
        said = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        print(f"{said}: see column error of {os.path.join(output, 'items.parquet')}", file=sys.stderr)


def _print_plan(items: "Sequence[MediaItem]", output: str) -> None:
    """What a run would do, without loading weights or decoding."""
    from viml_hf.errors import shown
    from viml_hf.features.extraction import plan_extraction, stored_items

    plan = plan_extraction(items, stored_items(output))
    paths = {path for item in plan.missing for path in item.paths}
    absent = sorted(path for path in paths if not os.path.isfile(path))
    size = sum(os.path.getsize(path) for path in paths.difference(absent))
    removed = len({item.id for item in plan.dropped} - {item.id for item in items})
    print(f"items: {len(items)}, of which {len(plan.kept)} are in {output} already")
    print(f"to read: {len(plan.missing)}, from {len(paths) - len(absent)} files of {_in_units(size)}")
    if removed:
        print(f"not named by any source: {removed} of {output}; renamed files are known by their content then")
    for path in absent[:SHOWN]:
        print(f"missing: {shown(path)}")
    if len(absent) > SHOWN:
        print(f"missing: {len(absent) - SHOWN} more files")


def _in_units(size: int) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{size / scale:.1f} {unit}"
    return f"{size} bytes"
