"""`viml tag`: name genre, mood and instruments of music, of files or of a store's tracks."""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from viml_hf.cli.shared import TAGGERS, read_media

if TYPE_CHECKING:
    from viml_hf.tagging.tagger import MusicTagger
    from viml_hf.tagging.track_tags import TrackTags


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("music", metavar="STORE_OR_MUSIC", help="a store, or a folder, manifest or file of music")
    add("--tagger", required=True, metavar="NAME", help=TAGGERS)
    add("--threshold", type=float, help="of the tags that are printed (default: the tagger's)")
    add("--vocabulary", metavar="FILE", help="JSON file with your own tags, for taggers that others have trained")
    add("--text", metavar="TEXT", action="append", help="print the tracks that suit a text, best first; repeatable")
    add("--text-encoder", metavar="NAME", help="for --text, such as 'intfloat/multilingual-e5-small?prompt=query: '")
    add("-k", type=int, default=5, help="tracks to print for a text (default: 5)")
    add("--json", action="store_true", help="print one JSON object per track, with all confidences")
    add("--quiet", action="store_true", help="no progress bar")


def run(options: argparse.Namespace) -> None:
    """Tag a store (the tags are kept in it), or print the tags of files; with texts, rank what is tagged."""
    from viml_hf.errors import ViMLError
    from viml_hf.features.store import Store
    from viml_hf.features.store_format import STORE_FILE
    from viml_hf.tagging.store_tags import TAGS_FILE, open_tags, read_tags, tag_store
    from viml_hf.tagging.tag_vocabulary import TagVocabulary
    from viml_hf.tagging.tagger_loading import load_tagger

    if bool(options.text) != bool(options.text_encoder):
        raise ViMLError("--text and --text-encoder go together: give both or none")
    if options.k < 1:
        raise ViMLError(f"-k {options.k}: give 1 or more")
    vocabulary = TagVocabulary.load(options.vocabulary)
    tagger = load_tagger(options.tagger, vocabulary)
    if tagger.coverage:
        print(tagger.coverage, file=sys.stderr)
    if not (Path(options.music) / STORE_FILE).is_file():
        tagged = _tag_files(options.music, tagger)
        if options.text:
            _print_ranks(options, tagged)
        else:
            _print_tags(options, tagger.threshold if options.threshold is None else options.threshold, tagged)
        return
    failed = tag_store(Store(options.music), tagger, options.tagger, progress=not options.quiet)
    print(f"tags: {Path(options.music) / TAGS_FILE}")
    if failed:
        print(f"{failed} tracks were left out, see above", file=sys.stderr)
    if options.text:
        _print_ranks(options, read_tags(open_tags(options.music)))


def _tag_files(music: str, tagger: "MusicTagger") -> Iterator[tuple[str, "TrackTags"]]:
    """Id and tags of every file; those that fail are named."""
    from viml_hf.errors import ViMLError, in_one_line

    for item in read_media(music).items:
        try:
            yield item.id, tagger.tag(item.audio or item.paths[0], start=item.start, end=item.end)
        except (ViMLError, OSError) as error:
            print(f"skipped: {in_one_line(error)}", file=sys.stderr)


def _print_tags(options: argparse.Namespace, threshold: float, tagged: Iterable[tuple[str, "TrackTags"]]) -> None:
    from viml_hf.errors import shown

    for name, tags in tagged:
        if options.json:
            print(json.dumps({"id": name, "tags": tags.to_record()}))
            continue
        kept = [f"{tag} {confidence:.0%}" for found in tags.kept(threshold).values() for tag, confidence in found]
        print(f"{shown(name)}: {', '.join(kept) or '(nothing above the threshold)'}")


def _print_ranks(options: argparse.Namespace, tagged: Iterable[tuple[str, "TrackTags"]]) -> None:
    from viml_hf.encoders.encoder_settings import EncoderSettings
    from viml_hf.errors import shown
    from viml_hf.tagging.tag_search import TagSearch

    encoder = EncoderSettings(text=options.text_encoder).load()
    search = TagSearch(tagged, lambda text: encoder.encode_text(text)[0])
    for text in options.text:
        found = search.rank(text)[: options.k]
        if options.json:
            print(json.dumps({"text": text, "tracks": [{"id": name, "score": score} for name, score in found]}))
            continue
        print(text)
        for rank, (name, score) in enumerate(found, 1):
            print(f"{rank}. {shown(name)}  {score:.2f}")
