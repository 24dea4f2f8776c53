"""`viml index`: make a folder of music searchable."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from viml_hf.cli.shared import MODEL_HELP, TAGGERS, read_media
from viml_hf.errors import ViMLError

if TYPE_CHECKING:
    from viml_hf.retrieval.index import MusicIndex


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("music", metavar="MUSIC", nargs="?", help="folder of music, a manifest (see `viml extract`), or one file")
    add("-o", "--output", required=True, metavar="INDEX", help="folder of the index; a rerun goes on")
    add("--model", help=f"{MODEL_HELP}; needed with MUSIC, but to add to an index")
    about = "measure the sound for --where: tempo, key, loudness, silence, near-duplicates; later runs do it again"
    add("--analysis", action="store_true", help=about)
    add("--tagger", metavar="NAME", help=f"tags and vocals for --where, by {TAGGERS}")
    add("--workers", type=int, help="processes (default: one per core)")
    add("--quiet", action="store_true", help="no progress bar")
    add(
        "--add",
        action="store_true",
        help="add MUSIC to what the index has; tracks of the same name are replaced",
    )
    add("--remove", nargs="+", metavar="TRACK", help="remove tracks, by their names in the index")
    add("--root", metavar="FOLDER", help="the library has been moved here; its files are not read")
    add("--compact", action="store_true", help="write the index again in one piece, without what was removed")
    add("--engine", metavar="ADDRESS", help="then fill milvus://HOST:PORT/COLLECTION or milvus:FILE.db with the index")
    add("--approximate", action="store_true", help="build what `viml recommend --approximate` needs; wants faiss")
    add("--convert", action="store_true", help="convert an index of schema 2 or 3")


def run(options: argparse.Namespace) -> None:
    """Index a library, or change an index without reading what it has."""
    from viml_hf.retrieval.index import MusicIndex
    from viml_hf.retrieval.index_changes import change_index, convert_index, moved_to, without_tracks

    changes = [name for name in ("remove", "root", "compact", "approximate", "convert") if getattr(options, name)]
    if options.music is None and len(changes) != 1 and not (options.engine and not changes):
        others = "--remove, --root, --compact, --approximate, --convert, --engine"
        raise ViMLError(f"give MUSIC with --model, or one of {others}")
    for name in ("analysis", "tagger"):
        if options.music is None and getattr(options, name):
            raise ViMLError(f"--{name}: looks into music; give MUSIC too")
    if options.music is not None and changes:
        raise ViMLError(f"--{changes[0]}: changes an index that is there; leave MUSIC out")
    if options.music is not None:
        index = _index_music(options)
    elif options.convert:
        index = convert_index(options.output)
    elif options.compact:
        index = change_index(options.output, MusicIndex.compacted)
    elif options.approximate:
        index = change_index(options.output, MusicIndex.approximated)
    elif options.remove:
        index = change_index(options.output, lambda index: without_tracks(index, options.remove))
    elif options.root:
        index = change_index(options.output, lambda index: moved_to(index, options.root))
    else:
        index = MusicIndex.load(options.output)
    if options.engine is not None:
        from viml_hf.retrieval.milvus_index import fill_milvus

        fill_milvus(options.engine, index, progress=not options.quiet)
    errors = len(index.errors)
    print(f"indexed {len(index.tracks) - errors} tracks, {index.windows} windows of up to 30 s: {options.output}")
    if errors and options.music is not None:
        print(f"{errors} files were left out, see above", file=sys.stderr)


def _index_music(options: argparse.Namespace) -> "MusicIndex":
    """Index MUSIC; what an earlier run into the same folder has analysed is kept."""
    from viml_hf.encoders.media_encoder import best_device
    from viml_hf.features.measurements import MEASUREMENTS_FILE
    from viml_hf.modeling.encoder_names import lasting_name
    from viml_hf.retrieval.index import MusicIndex
    from viml_hf.retrieval.index_changes import added_to, change_index, replace_index
    from viml_hf.retrieval.indexing import FEATURES_FOLDER, build_index
    from viml_hf.retrieval.kept_tags import KEPT_TAGS_FILE, KeptTags
    from viml_hf.retrieval.model_loading import SavedModel, load_encoder_and_model
    from viml_hf.tagging.tagger_loading import load_tagger

    given = options.model
    if given is None:
        if not options.add:
            raise ViMLError("--model is missing: give a model folder or Hub id")
        given = MusicIndex.load(options.output).model
    items = read_media(options.music).items
    encoder = load_encoder_and_model(given, device=best_device())
    model = lasting_name(given, encoder.info["audio"].revision if encoder.info else None, encoder.dtypes["audio"])
    file = Path(options.output) / MEASUREMENTS_FILE
    measurements = file if options.analysis or file.is_file() else None
    tagger = None if options.tagger is None else load_tagger(options.tagger)
    if tagger is not None and tagger.coverage:
        print(tagger.coverage, file=sys.stderr)

    def build(previous: MusicIndex | None, features: Path | None) -> MusicIndex:
        path = Path(options.output) / KEPT_TAGS_FILE
        tags = KeptTags(path, tagger, options.tagger) if tagger is not None or path.is_file() else None
        return build_index(
            items,
            encoder,
            model=model,
            features=features,
            loader=SavedModel(model),
            workers=options.workers,
            previous=previous,
            measurements=measurements,
            tags=tags,
            progress=not options.quiet,
        )

    if options.add and (measurements is not None or tagger is not None):
        # Nobody else writes into the files of measurements and tags meanwhile.
        duplicates = measurements is not None
        return change_index(options.output, lambda index: added_to(index, build(None, None), same_music=duplicates))
    if options.add:
        added = build(None, None)
        return change_index(options.output, lambda index: added_to(index, added))
    return replace_index(options.output, lambda previous: build(previous, Path(options.output) / FEATURES_FOLDER))
