"""Descriptions of MusicCaps' tracks by each method at hand, and how good they are.

    python benchmarks/describing_musiccaps.py musiccaps-public.csv [--model FOLDER_OR_HUB_ID] [--tracks 200]

A track's aspects, mapped to the vocabulary, take the place of a tagger's output. The first 1,000 tracks are the
examples of prompt2text, as the paper has 1,000; the tracks described are the first ones behind them. The row "human" is
the captions that MusicCaps has of the same tracks, against the same tags: what a listener leaves out and adds.
"""

import argparse
import itertools
import time

import torch

from viml_hf.data.musiccaps import aspects_to_tags, read_musiccaps
from viml_hf.synthesis.prompt2text import describe_tracks
from viml_hf.synthesis.prompts import Example, PromptWriter
from viml_hf.synthesis.quality_report import NotRun, QualityRow, format_report, measure_quality
from viml_hf.synthesis.rules import RULES
from viml_hf.synthesis.shared_prefix import SharedPrefixGenerator
from viml_hf.tagging.tag_vocabulary import TagVocabulary
from viml_hf.tagging.track_tags import TrackTags

EXAMPLES = 1000


def main() -> None:
    """Describe, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("csv")
    parser.add_argument("--model", help="causal language model for prompt2text, folder or Hub id")
    parser.add_argument("--tracks", type=int, default=200)
    parser.add_argument("--k", type=int, default=8, help="examples per prompt")
    parser.add_argument("--nearest", action="store_true", help="each track's nearest examples, which takes longer")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    vocabulary, tracks = TagVocabulary.load(), list(read_musiccaps(options.csv))
    mapped = [bool(aspects_to_tags([aspect], vocabulary).names()) for track in tracks for aspect in track.aspects]
    tagged = [(track, aspects_to_tags(track.aspects, vocabulary)) for track in tracks]
    with_tags = sum(bool(tags.names()) for _, tags in tagged)
    print(
        f"{sum(mapped) / max(len(mapped), 1):.1%} of {len(mapped)} aspects mention a tag, and "
        f"{with_tags / max(len(tracks), 1):.1%} of {len(tracks)} tracks have one.\n"
    )
    examples = [Example(tags, track.caption, track.id) for track, tags in tagged[:EXAMPLES]]
    chosen = tagged[EXAMPLES : EXAMPLES + options.tracks]
    rows: list[QualityRow | NotRun] = [
        measure_quality("human", [(track.caption, tags.kept()) for track, tags in chosen], vocabulary)
    ]
    for name, describe in RULES.items():
        pairs = [(describe(track.id, tags, seed=options.seed), tags.kept()) for track, tags in chosen]
        rows.append(measure_quality(name, pairs, vocabulary))
    rows.append(NotRun("data2text"))
    described = [(track.id, tags) for track, tags in chosen]
    if options.model is None:
        rows.append(NotRun("prompt2text"))
    else:
        writer = PromptWriter(examples, options.k, nearest=options.nearest, seed=options.seed)
        rows.append(prompted(options.model, described, writer, vocabulary, options.seed))
    print("\n" + format_report(rows))


def prompted(
    model: str, described: list[tuple[str, TrackTags]], writer: PromptWriter, vocabulary: TagVocabulary, seed: int
) -> QualityRow:
    """The row of prompt2text, and on the way how many attempts were refused, and why."""
    generator, before = SharedPrefixGenerator.from_pretrained(model, writer.prefix), time.perf_counter()
    found = list(describe_tracks(described, generator, writer, vocabulary, seed))
    tags = dict(described)
    own = [(one.text, tags[one.id].kept()) for one in found if not one.fallback]
    first = sum(one.attempts == 1 and not one.fallback for one in found)
    notes = itertools.chain.from_iterable(one.note.split("; ") for one in found if one.note)
    kinds = [note.split(": ", 2)[1] for note in notes if note.startswith("attempt")]
    refused = ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))
    print(
        f"prompt2text: {first} of {len(found)} taken at the first attempt; attempts refused: {refused}; "
        f"{(time.perf_counter() - before) / len(found):.1f} s per track"
    )
    return measure_quality("prompt2text", own, vocabulary, fallbacks=len(found) - len(own))


if __name__ == "__main__":
    main()
