"""`viml describe`: write descriptions of a store's tracks from their tags, for training."""

import argparse
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from viml_hf.synthesis.description import Describe, Method
    from viml_hf.tagging.tag_vocabulary import TagVocabulary

METHODS = ("tags", "data2text-rules", "data2text", "prompt2text")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("store", metavar="STORE", help="folder of a store with tags (`viml tag STORE`)")
    add("--method", choices=METHODS, help="how to describe")
    add("--report", action="store_true", help="compare the methods that were run, with examples")
    add("--model", help="prompt2text: a causal language model, Hub id or folder, or its name on --server")
    add("--server", metavar="URL", help="prompt2text: an OpenAI-compatible server such as vLLM")
    add("--examples", metavar="CSV", help="prompt2text: described tracks in the format of MusicCaps")
    add("-k", type=int, default=8, help="prompt2text: examples in a prompt (default: 8)")
    add("--nearest", action="store_true", help="prompt2text: examples nearest in tags, not at random")
    add("--retries", type=int, default=2, help="prompt2text: further attempts per track (default: 2)")
    add("--batch-size", type=int, default=8, help="tracks written for at a time (default: 8)")
    for part in ("ordering", "aggregation", "compression"):
        add(f"--{part}", metavar="MODEL", help=f"data2text: folder or Hub id of the {part} model")
    add("--threshold", type=float, help="tags above this confidence are told (default: the tagger's)")
    add("--vocabulary", metavar="FILE", help="JSON file with your own tags")
    add("--seed", type=int, default=0)
    add("--quiet", action="store_true", help="no progress bar")


def run(options: argparse.Namespace) -> None:
    """Describe, or print the report."""
    from viml_hf.errors import ViMLError
    from viml_hf.features.store import Store
    from viml_hf.synthesis.quality_report import NEEDS_WEIGHTS, NotRun, QualityRow, format_report
    from viml_hf.synthesis.rules import RULES
    from viml_hf.synthesis.store_descriptions import describe_store, described_methods, report_of
    from viml_hf.tagging.store_tags import stored_threshold
    from viml_hf.tagging.tag_vocabulary import TagVocabulary

    if options.method is None and not options.report:
        raise ViMLError("nothing to do: give --method, --report, or both")
    store, vocabulary = Store(options.store), TagVocabulary.load(options.vocabulary)
    if options.threshold is None:
        options.threshold = stored_threshold(store.folder)
    if options.method is not None:
        fallbacks = describe_store(store, _method(options, vocabulary), progress=not options.quiet)
        print(f"texts {options.method!r} of {options.store}: viml train {options.store} --texts {options.method}")
        if fallbacks:
            print(f"{fallbacks} tracks got the text of data2text-rules: no attempt was taken", file=sys.stderr)
    if options.report:
        rows: dict[str, QualityRow | NotRun]
        rows = {name: NotRun(name, "not asked for" if name in RULES else NEEDS_WEIGHTS) for name in METHODS}
        there = [name for name in described_methods(store.folder) if name in METHODS]
        rows |= {name: report_of(store, name, vocabulary, options.threshold) for name in there}
        print(format_report(list(rows.values())))


def _method(options: argparse.Namespace, vocabulary: "TagVocabulary") -> "Method":
    from viml_hf.synthesis.description import Method
    from viml_hf.synthesis.rules import RULES, rules_method

    if options.method in RULES:
        return rules_method(options.method, vocabulary, seed=options.seed, threshold=options.threshold)
    model, describe = (_data2text if options.method == "data2text" else _prompt2text)(options, vocabulary)
    return Method(options.method, model, options.seed, options.threshold, describe)


def _prompt2text(options: argparse.Namespace, vocabulary: "TagVocabulary") -> "tuple[str, Describe]":
    from viml_hf.data.musiccaps import aspects_to_tags, read_musiccaps
    from viml_hf.errors import ViMLError
    from viml_hf.synthesis.completion_server import CompletionServer
    from viml_hf.synthesis.prompt2text import TextGenerator, describe_tracks
    from viml_hf.synthesis.prompts import Example, PromptWriter
    from viml_hf.synthesis.shared_prefix import SharedPrefixGenerator

    if not options.model or not options.examples:
        raise ViMLError("prompt2text needs --model, such as bigscience/bloom-560m, and --examples, described tracks")
    examples = [
        Example(aspects_to_tags(track.aspects, vocabulary), track.caption, track.id)
        for track in read_musiccaps(options.examples)
    ]
    writer = PromptWriter(examples, options.k, nearest=options.nearest, seed=options.seed, threshold=options.threshold)
    generator: TextGenerator
    if options.server:
        generator = CompletionServer(options.server, options.model)
        generator.check()
    else:
        generator = SharedPrefixGenerator.from_pretrained(options.model, writer.prefix)
    how = {"retries": options.retries, "batch_size": options.batch_size}
    return generator.name, lambda tracks: describe_tracks(tracks, generator, writer, vocabulary, options.seed, **how)


def _data2text(options: argparse.Namespace, vocabulary: "TagVocabulary") -> "tuple[str, Describe]":
    from viml_hf.synthesis.neural_data2text import NeuralData2Text

    pipeline = NeuralData2Text(options.ordering, options.aggregation, options.compression)
    how = {"threshold": options.threshold, "batch_size": options.batch_size}
    return pipeline.name, lambda tracks: pipeline.describe_tracks(tracks, vocabulary, options.seed, **how)
