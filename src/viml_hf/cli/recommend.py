"""`viml recommend`: rank a library for a video, a text, or both."""

import argparse
import json
import os
import sys
from dataclasses import asdict

from viml_hf.errors import ViMLError, shown, unreadable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("video", nargs="?", metavar="VIDEO", help="video file; leave it out to ask by text alone")
    add("--text", help='what the music should be like, such as "upbeat pop with female vocals"')
    add("--index", required=True, help="folder made by `viml index`, or milvus:…")
    add("--model", help="model folder, Hub id or encoder; by default the one that made the index")
    add("-k", type=int, default=10, help="how many tracks (default: 10)")
    add(
        "--where",
        metavar="CONDITION",
        help="rank only tracks such as \"licence = 'CC-BY' and duration < 120\"",
    )
    add("--approximate", action="store_true", help="search a large index faster, and nearly exactly")
    add("--no-hubness-correction", dest="hubness_correction", action="store_false", help="rank by similarity alone")
    add("--json", action="store_true", help="print JSON")


def check(options: argparse.Namespace) -> None:
    """Refuse what can be refused before anything is loaded."""
    if options.video is None and not (options.text or "").strip():
        raise ViMLError("the query is empty: give a VIDEO, --text, or both")
    if options.video is not None:
        try:
            os.stat(options.video)
        except OSError as error:
            raise unreadable(options.video, error) from error


def run(options: argparse.Namespace) -> None:
    """Print the ranking."""
    from viml_hf.processing.media import printable
    from viml_hf.retrieval.recommender import Recommender

    recommender = Recommender.from_pretrained(options.model, index=options.index)
    how = {name: getattr(options, name) for name in ("where", "approximate", "hubness_correction")}
    found = recommender.recommend(options.video, options.text, options.k, **how)
    if not found:
        print(f"no track of the index meets the condition: {options.where}", file=sys.stderr)
    if options.json:
        results = [asdict(one) | {"path": printable(os.path.abspath(one.path))} for one in found]
        print(json.dumps({"query": {"video": options.video, "text": options.text}, "results": results}, indent=1))
        return
    for r in found:
        print(f"{r.rank:4d}  {r.score:+.3f}  {r.start:6.1f} – {r.end:6.1f} s  {shown(r.track)}")
