"""`viml index`: make a folder of music searchable."""

import argparse
import sys
from pathlib import Path

from viml_hf.cli.shared import read_media


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `viml index`."""
    add = parser.add_argument
    add("music", metavar="MUSIC", help="folder of music, a manifest (see `viml extract`), or one file")
    add("-o", "--output", required=True, metavar="INDEX", help="folder of the index; a rerun goes on")
    add("--model", required=True, help="model folder or Hub id")
    add("--workers", type=int, help="processes (default: one per core)")
    add("--quiet", action="store_true", help="no progress bar")


def run(options: argparse.Namespace) -> None:
    """Index a library; what an earlier run into the same folder has analysed is kept."""
    from viml_hf.encoders.media_encoder import best_device
    from viml_hf.errors import ViMLError
    from viml_hf.retrieval.index import MusicIndex
    from viml_hf.retrieval.indexing import FEATURES_FOLDER, build_index
    from viml_hf.retrieval.model_loading import SavedModel, load_encoder_and_model

    items = read_media(options.music).items
    encoder = load_encoder_and_model(options.model, device=best_device())
    model = str(Path(options.model).resolve()) if Path(options.model).is_dir() else options.model
    try:
        previous = MusicIndex.load(options.output)
    except ViMLError:  # there is none, or one that is of no use
        previous = None
    index = build_index(
        items,
        encoder,
        model=model,
        features=Path(options.output) / FEATURES_FOLDER,
        loader=SavedModel(model),
        workers=options.workers,
        previous=previous,
        progress=not options.quiet,
    )
    index.save(options.output)
    print(f"indexed {len(index.usable)} tracks, {len(index.embeddings)} windows of up to 30 s: {options.output}")
    if index.errors:
        print(f"{len(index.errors)} files were left out, see above", file=sys.stderr)
