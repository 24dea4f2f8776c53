"""What several commands do alike."""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from viml_hf.data.sources import Sources
    from viml_hf.features.store import Store
    from viml_hf.retrieval.wishes import Wishes


TAGGERS = "folder or Hub id of a tagger or of an audio classifier, clap[:HUB_ID], or musicnn:FOLDER_OR_WHEEL"
MODEL_HELP = "model folder, Hub id, or an encoder that ranks without training: pe_av:facebook/pe-av-small"


def add_encoder_options(parser: argparse.ArgumentParser, *modalities: str) -> None:
    """The option of each modality's encoder."""
    for modality in modalities:
        prompt = ", with ?prompt=TEXT behind it for a prompt" if modality == "text" else ""
        about = f"{modality} encoder, NAME[:HUB_ID[@REVISION]] or a folder{prompt} (default: descriptors)"
        parser.add_argument(f"--{modality}-encoder", default="descriptors", metavar="NAME", help=about)


def add_wishes(parser: argparse.ArgumentParser) -> None:
    """The options of what a person wishes of a ranking."""
    add = parser.add_argument
    about = "rank only tracks such as \"licence = 'CC-BY' and duration < 120\""
    add("--where", metavar="CONDITION", help=about)
    add("--like", metavar="MUSIC", action="append", default=[], help="track of the index, or file, to be like")
    add("--avoid", metavar="TEXT", help='what the music should not be like, such as "vocals"')
    add("--exclude", metavar="TRACK", action="append", default=[], help="track to leave out")
    add("--weight", metavar="PART=NUMBER", action="append", default=[], help="of like or avoid (0.5), or text")
    add("--diversity", type=float, default=0.0, help="from 0, by score alone, to 1: less that is alike")
    add("--min-score", type=float, help="leave out what has a lower score")


def wishes_of(options: argparse.Namespace) -> "Wishes":
    """The wishes that `add_wishes` took."""
    from viml_hf.retrieval.wishes import Wishes, parse_weights

    weights = parse_weights(options.weight)
    return Wishes(options.like, options.avoid, options.exclude, weights, options.diversity, options.min_score)


def read_media(sources: Sequence[str] | str, media: str | None = None) -> "Sources":
    """The items of folders, manifests and files; on stderr what is wrong with them."""
    from viml_hf.data.sources import read_sources
    from viml_hf.errors import shown

    found = read_sources(sources, media=media)
    for problem in found.problems:
        print(f"left out: {shown(problem)}", file=sys.stderr)
    return found


def row_counts(store: "Store") -> str:
    """How many rows a store has of each modality."""
    rows = {modality: sum(len(getattr(item, modality)) for item in store.items) for modality in store.spec.widths}
    return "rows: " + ", ".join(f"{modality} {count}" for modality, count in rows.items())
