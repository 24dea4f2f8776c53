"""`viml index`: make a folder of music searchable."""

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `viml index`."""
    parser.add_argument("music", metavar="MUSIC_FOLDER", help="folder of music files, searched through and through")
    parser.add_argument("-o", "--output", required=True, metavar="INDEX", help="folder of the index")
    parser.add_argument("--model", required=True, help="model folder or Hub id")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")


def run(options: argparse.Namespace) -> None:
    """Index a library; what an older index in the same folder already has is kept."""
    from viml_hf.errors import ViMLError
    from viml_hf.retrieval.index import INDEX_FILE, MusicIndex, build_index, find_music
    from viml_hf.retrieval.model_loading import load_encoder_and_model

    files = find_music(options.music)
    encoder = load_encoder_and_model(options.model)
    older = None
    if (Path(options.output) / INDEX_FILE).exists():
        try:
            older = MusicIndex.load(options.output)
        except ViMLError as error:
            print(f"every file is analysed anew: {error}", file=sys.stderr)
    root = Path(options.music) if Path(options.music).is_dir() else None
    model = str(Path(options.model).resolve()) if Path(options.model).is_dir() else options.model
    index = build_index(files, encoder, model=model, root=root, previous=older, progress=not options.quiet)
    index.save(options.output)
    print(f"indexed {len(index.usable)} tracks, {len(index.embeddings)} windows of up to 30 s: {options.output}")
    if index.errors:
        print(f"{len(index.errors)} files were left out, see above", file=sys.stderr)
