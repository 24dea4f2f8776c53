"""`viml extract`: read media files into a store of base features."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `viml extract`."""
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="folder of media, folder with metadata.csv or .jsonl, manifest (.csv .tsv .jsonl .parquet), or media file",
    )
    parser.add_argument("-o", "--output", required=True, metavar="STORE", help="folder of the store; a rerun goes on")
    for modality in ("video", "text", "audio"):
        parser.add_argument(
            f"--{modality}-encoder",
            default="descriptors",
            metavar="NAME",
            help=f"{modality} encoder, NAME[:HUB_ID[@REVISION]] or a folder (default: descriptors)",
        )
    parser.add_argument("--only", choices=["video", "audio"], help="leave the pictures or the sound out")
    parser.add_argument("--dtype", choices=["auto", "float32", "bfloat16"], default="auto", help="of encoder weights")
    parser.add_argument("--fast", action="store_true", help="decode only the frames that others refer to")
    parser.add_argument("--workers", type=int, help="processes (default: one per core)")
    parser.add_argument("--engine", choices=["processes", "ray"], default="processes")
    parser.add_argument("--local-files-only", action="store_true", help="never ask the network for an encoder")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and do nothing")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(options: argparse.Namespace) -> None:
    """Extract, and print what the store holds."""
    from viml_hf.data.sources import read_sources
    from viml_hf.errors import ViMLError
    from viml_hf.features.extraction import extract

    sources = read_sources(options.sources)
    for problem in sources.problems:
        print(f"left out: {problem}", file=sys.stderr)
    items = list(sources.items)
    if options.only:
        items = [replace(item, audio=None) if options.only == "video" else replace(item, video=None) for item in items]
        items = [item for item in items if item.paths]
    if not items:
        raise ViMLError("the sources name nothing to extract: give a folder with media, or a manifest that names some")
    names = {modality: getattr(options, f"{modality}_encoder") for modality in ("video", "text", "audio")}
    load_options: dict[str, Any] = {"local_files_only": True} if options.local_files_only else {}
    if options.dry_run:
        _print_plan(items, options, names)
        return
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
    errors = [item for item in store.items if item.error is not None]
    failed = sum(not item.has_features for item in errors)
    rows = {modality: sum(len(getattr(item, modality)) for item in store.items) for modality in store.spec.widths}
    print(
        f"{len(store.items) - failed} items in {options.output}, rows: {', '.join(f'{m} {n}' for m, n in rows.items())}"
    )
    if errors:
        partial = len(errors) - failed
        print(
            f"{failed} could not be read and {partial} only in part: see column error of items.parquet", file=sys.stderr
        )


def _print_plan(items: list[Any], options: argparse.Namespace, names: dict[str, str]) -> None:
    """What a run would do, without loading weights or decoding."""
    from viml_hf.features.extraction import plan_extraction, stored_items

    plan = plan_extraction(items, stored_items(Path(options.output)))
    paths = {path for item in plan.missing for path in item.paths}
    absent = sorted(path for path in paths if not Path(path).is_file())
    size = sum(Path(path).stat().st_size for path in paths - set(absent))
    print(f"items: {len(items)}, of which {len(plan.kept)} are in {options.output} already")
    print(f"to read: {len(plan.missing)} items, {len(paths) - len(absent)} files, {size / 1e9:.2f} GB")
    for path in absent[:10]:
        print(f"missing: {path}")
    if len(absent) > 10:
        print(f"missing: {len(absent) - 10} more files")
    print("encoders: " + ", ".join(f"{modality} {name}" for modality, name in names.items()))
