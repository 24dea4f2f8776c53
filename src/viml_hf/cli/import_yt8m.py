"""`viml import-yt8m`: write the published features of YouTube-8M into a store."""

import argparse
import sys
from collections import Counter
from typing import TYPE_CHECKING

from viml_hf.cli.shared import add_encoder_options, row_counts

if TYPE_CHECKING:
    from viml_hf.data.youtube8m_store import Selection

DESCRIPTION = """A video's text is its label names, shuffled. A record that is damaged or lacks a feature is named and
left out. So are videos whose audio features are all zeros or those of another video, among them the silent ones, which
share one vector. The videos themselves are not part of YouTube-8M: a model trained on such a store ranks items of such
stores, not files. Labels of music: Concert, Musician, Guitar, String instrument, Musical ensemble, Music video."""
SHOWN = 10  # problems of one file


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    parser.epilog = DESCRIPTION
    add("paths", nargs="+", metavar="PATH", help="TFRecord files of one level, or folders of them")
    add("--vocabulary", required=True, metavar="CSV", help="the vocabulary.csv of YouTube-8M")
    add("-o", "--output", required=True, metavar="STORE", help="folder of the store")
    about = "take only videos with one of these labels, by name or index; music stands for those that are named below"
    add("--labels", metavar="NAME,…", help=about)
    about = "take only these files, as a split: train=0-49 by the number that ends a name, or train='train*'; repeat it"
    add("--split", action="append", default=[], metavar="NAME=FILES", help=about)
    add_encoder_options(parser, "text")
    about = "take videos without these labels into the split train too, each of which counts as much (such as 0.25)"
    add("--others", type=float, metavar="WEIGHT", help=about)
    add("--pool-shards", type=int, metavar="N", help="a field `pool` per N consecutive file numbers, to rank within")
    add("--seed", type=int, default=0, help="of the order of label names")
    add("--local-files-only", action="store_true", help="never ask the network for an encoder")
    add("--dry-run", action="store_true", help="count, and write nothing")
    add("--quiet", action="store_true", help="no progress bar")


def run(options: argparse.Namespace) -> None:
    """Choose the videos, say what was found, and write the store."""
    from viml_hf.data.youtube8m import find_files, parse_labels, read_vocabulary
    from viml_hf.data.youtube8m_store import Split, import_videos, select_videos
    from viml_hf.errors import ViMLError

    vocabulary = read_vocabulary(options.vocabulary)
    labels = parse_labels(options.labels, vocabulary) if options.labels is not None else None
    if options.others is not None and not options.others > 0:
        raise ViMLError(f"--others {options.others}: give a number above 0, such as 0.25")
    if options.pool_shards is not None and options.pool_shards < 1:
        raise ViMLError(f"--pool-shards {options.pool_shards}: give 1 or more")
    splits = [Split.parse(split) for split in options.split]
    files = find_files(options.paths)
    selection = select_videos(files, vocabulary, labels=labels, splits=splits, keep_others=options.others is not None)
    _print_selection(selection, len(selection.splits) if splits else len(files))
    if options.dry_run:
        return
    store = import_videos(
        selection,
        vocabulary,
        options.output,
        text=options.text_encoder,
        others_weight=1.0 if options.others is None else options.others,
        pool_shards=options.pool_shards,
        seed=options.seed,
        progress=not options.quiet,
        **({"local_files_only": True} if options.local_files_only else {}),
    )
    distinct = len({text for item in store.items for text in item.texts})
    print(f"{len(store.items)} items in {options.output}, {row_counts(store)}; {distinct} distinct texts")


def _print_selection(selection: "Selection", files: int) -> None:
    """How many videos there are and which are left out; on stderr the records that could not be read."""
    for path, problems in selection.problems.items():
        for problem in problems[:SHOWN]:
            print(f"left out: {problem}", file=sys.stderr)
        if len(problems) > SHOWN:
            print(f"left out: {path}: {len(problems) - SHOWN} more records", file=sys.stderr)
    level = "frame" if selection.frame_level else "video"
    print(f"{files} files, {selection.videos} videos ({level} level), of which {selection.count} are taken")
    for reason, count in selection.left_out.items():
        print(f"left out: {count} {reason}")
    damaged = sum(map(len, selection.problems.values()))
    if damaged:
        print(f"left out: {damaged} records that could not be read", file=sys.stderr)
    by_split = Counter[str]()
    for path, ids in selection.wanted.items():
        if path in selection.splits:
            by_split[selection.splits[path]] += len(ids)
    for split, count in by_split.items():
        print(f"split {split}: {count}")
