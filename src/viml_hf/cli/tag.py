"""`viml tag`: name genre, mood and instruments of music, of files or of a store's tracks."""

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from viml_hf.cli.shared import read_media

if TYPE_CHECKING:
    from viml_hf.tagging.tagger import MusicTagger


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("music", metavar="STORE_OR_MUSIC", help="a store, or a folder, manifest or file of music")
    add("--tagger", required=True, metavar="NAME", help="folder of a trained tagger, or clap[:HUB_ID]")
    add("--threshold", type=float, default=0.3, help="of the tags that are printed (default: 0.3)")
    add("--vocabulary", metavar="FILE", help="JSON file with your own tags, for a zero-shot tagger")
    add("--json", action="store_true", help="print one JSON object per track, with all confidences")
    add("--quiet", action="store_true", help="no progress bar")


def run(options: argparse.Namespace) -> None:
    """Tag a store (the tags are kept in it), or print the tags of files."""
    from viml_hf.features.store import Store
    from viml_hf.features.store_format import STORE_FILE
    from viml_hf.tagging.store_tags import TAGS_FILE, tag_store
    from viml_hf.tagging.tag_vocabulary import TagVocabulary
    from viml_hf.tagging.tagger import load_tagger

    vocabulary = TagVocabulary.load(options.vocabulary)
    tagger = load_tagger(options.tagger, vocabulary)
    if not (Path(options.music) / STORE_FILE).is_file():
        _print_tags(options, tagger)
        return
    failed = tag_store(Store(options.music), tagger, options.tagger, progress=not options.quiet)
    print(f"tags: {Path(options.music) / TAGS_FILE}")
    if failed:
        print(f"{failed} tracks were left out, see above", file=sys.stderr)


def _print_tags(options: argparse.Namespace, tagger: "MusicTagger") -> None:
    from viml_hf.errors import ViMLError, in_one_line, shown

    for item in read_media(options.music).items:
        try:
            tags = tagger.tag(item.audio or item.paths[0], start=item.start, end=item.end)
        except (ViMLError, OSError) as error:
            print(f"skipped: {in_one_line(error)}", file=sys.stderr)
            continue
        if options.json:
            print(json.dumps({"id": item.id, "tags": tags.to_record()}))
            continue
        kept = [
            f"{tag} {confidence:.0%}" for found in tags.kept(options.threshold).values() for tag, confidence in found
        ]
        print(f"{shown(item.id)}: {', '.join(kept) or '(nothing above the threshold)'}")
