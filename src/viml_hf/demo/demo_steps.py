"""The demo: generate, extract, tag, describe, train, evaluate, index and recommend, on this machine alone."""

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from viml_hf.demo.demo_tagger import generated_tracks, train_demo_tagger
from viml_hf.demo.report import ReportExample, ReportRecommendation, write_report
from viml_hf.errors import ViMLError
from viml_hf.evaluation.metrics import chance_metrics, retrieval_metrics
from viml_hf.evaluation.statistics import PairedComparison, paired_bootstrap
from viml_hf.evaluation.store_evaluation import evaluate_ranks
from viml_hf.features.extraction import extract
from viml_hf.features.media_item import MediaItem
from viml_hf.features.named_texts import FOLDER
from viml_hf.features.splits import split_items
from viml_hf.features.store import Store
from viml_hf.generated.corpus import CorpusItem, generate_corpus
from viml_hf.modeling.encoder_names import parse_encoder_name
from viml_hf.modeling.modeling_viml import ViMLModel
from viml_hf.retrieval.indexing import build_index
from viml_hf.retrieval.model_loading import load_encoder_and_model
from viml_hf.retrieval.recommender import Recommender
from viml_hf.synthesis.rules import rules_method
from viml_hf.synthesis.store_descriptions import describe_store
from viml_hf.tagging.store_tags import TAGS_FILE, open_tags, read_tags, tag_store
from viml_hf.tagging.tag_vocabulary import TagVocabulary
from viml_hf.tagging.tagger_metrics import tagging_report
from viml_hf.train.query_bank import leave_query_bank
from viml_hf.train.recipes import load_recipe
from viml_hf.train.settings import TrainingSettings
from viml_hf.train.training import make_trainer, new_model, save_retrieval_model, write_training_facts

# Of the recipe; a text says as much as the video here: chosen on pairs of the training set that were held out for it.
TEXT_WEIGHT = 1.0
TRAINING = {"batch_size": 140, "learning_rate": 1e-3, "text_dropout": 0.0}  # a few hundred pairs are a few batches
TEXTS = "data2text-rules"
VIDEO_ONLY, WITHOUT_TEXT, WITH_TEXT = "video only (MVPt+)", "ViML, no text", "ViML, with text"
CORRECTED = "the same, hubs corrected"


@dataclass(frozen=True, eq=False)
class DemoResult:
    """What the demo found."""

    ranks: dict[str, np.ndarray]  # per system `(seeds, queries)`, of each held-out video's own music
    text_gain: PairedComparison  # mean log rank without text minus with it
    no_text_loss: PairedComparison  # mean log rank of ViML without text minus that of the video-only model
    tagger: dict[str, float]  # how good its tags are on the held-out tracks, see `tagging_report`
    description: tuple[str, str]  # a training text made of its tags, and the generator's text of that track
    seconds: dict[str, float]  # wall time per step


def run_demo(options: argparse.Namespace) -> DemoResult:
    """All steps of the demo; `corpus/ store/ tagger/ model/ index/ report.html` are left in the output."""
    if not 2 <= options.held_out <= options.pairs - 2 or options.seeds < 1 or options.library < 2:
        raise ViMLError(
            f"--pairs {options.pairs} --held-out {options.held_out} --seeds {options.seeds} --library "
            f"{options.library}: hold out at least 2 pairs, leave at least 2 for training, take at least 1 seed, and "
            "tag at least 2 tracks"
        )
    for modality in ("video", "text", "audio"):
        parse_encoder_name(getattr(options, f"{modality}_encoder"))
    output, progress = Path(options.output), not options.quiet
    seconds: dict[str, float] = {}
    with _timed("generate", seconds):
        corpus = output / "corpus"
        items = generate_corpus(corpus, options.pairs, seed=options.seed, workers=options.workers, progress=progress)
    held_out = items[len(items) - options.held_out :]
    with _timed("extract", seconds):
        store = _extract(items, {item.id for item in held_out}, corpus, options)
    with _timed("tag", seconds):
        tagger = _tag(store, items, options, output)
    with _timed("describe", seconds):
        (store.folder / FOLDER / f"{TEXTS}.jsonl").unlink(missing_ok=True)  # of another seed, perhaps
        describe_store(store, rules_method(TEXTS, TagVocabulary.load(), seed=options.seed), progress=progress)
        described = store.with_texts(TEXTS)
    with _timed("train", seconds):
        model, ranks = _train(described, store, options, output)
        save_retrieval_model(model, store, output / "model")
        data = "a generated corpus: rendered pictures and synthetic music, with texts made by rules of a tagger's tags"
        counts = len(items) - len(held_out), len(held_out)
        write_training_facts(output / "model", _settings(options, 0), store, *counts, texts=TEXTS, data=data)
    with _timed("index", seconds):
        encoder = load_encoder_and_model(output / "model")
        music = [corpus / item.music for item in held_out]
        model_name = str((output / "model").resolve())
        index = build_index(music, encoder, model=model_name, root=corpus / "music", progress=progress)
        index.save(output / "index")
    with _timed("recommend", seconds):
        result = DemoResult(
            ranks,
            text_gain=paired_bootstrap(ranks[WITH_TEXT], ranks[WITHOUT_TEXT]),
            no_text_loss=paired_bootstrap(ranks[VIDEO_ONLY], ranks[WITHOUT_TEXT]),
            tagger=tagger,
            description=_description(described, items),
            seconds=seconds,
        )
        _report(output, corpus, held_out, Recommender(encoder, index), result)
    return result


def _extract(items: list[CorpusItem], held_out: set[str], corpus: Path, options: argparse.Namespace) -> Store:
    media = [
        MediaItem(
            item.id,
            video=str(corpus / item.video),
            audio=str(corpus / item.music),
            # Only test items have a listener's text, here the generator's. Training texts are made of predicted tags.
            texts=(item.text,) if item.id in held_out else (),
            fields={"split": "test" if item.id in held_out else "train"},
        )
        for item in items
    ]
    return extract(
        media,
        corpus.parent / "store",
        video=options.video_encoder,
        text=options.text_encoder,
        audio=options.audio_encoder,
        workers=options.workers,
        progress=not options.quiet,
    )


def _tag(store: Store, items: list[CorpusItem], options: argparse.Namespace, output: Path) -> dict[str, float]:
    """Train a tagger on music of its own, tag the store with it, and measure it on the held-out tracks."""
    progress = not options.quiet
    # The styles behind those of the corpus: other music than the store's, so that the tags have a tagger's true errors.
    (store.folder / TAGS_FILE).unlink(missing_ok=True)  # of another run's tagger, perhaps
    library = generated_tracks(options.library, seed=options.seed, first=options.pairs, progress=progress)
    tag_store(store, train_demo_tagger(library, output / "tagger"), str(output / "tagger"), progress=progress)
    truth = {item.id: item.tags for item in items[len(items) - options.held_out :]}
    return tagging_report((tags, truth[name]) for name, tags in read_tags(open_tags(store.folder)) if name in truth)


def _description(described: Store, items: list[CorpusItem]) -> tuple[str, str]:
    """The first training text, and the generator's text of that track."""
    by_id = {item.id: item.text for item in items}
    texts = ((item.texts[0], by_id[item.id]) for item in described.items if item.texts)
    return next(texts, ("", items[0].text))  # no tag is kept anywhere: the tagger has learned nothing


def _train(
    described: Store, store: Store, options: argparse.Namespace, output: Path
) -> tuple[ViMLModel, dict[str, np.ndarray]]:
    """Train MVPt+ and ViML with every seed on the described store; returns the first ViML, and all ranks on `store`."""
    items, held_out = split_items(described)[0], split_items(store)[1]
    ranks: dict[str, list[Any]] = {VIDEO_ONLY: [], WITHOUT_TEXT: [], WITH_TEXT: [], CORRECTED: []}
    kept: ViMLModel | None = None
    # Batches are small: a second thread gains little, and loses much where other work wants the core.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    bar = tqdm(total=2 * options.seeds, desc="train", unit="model", disable=options.quiet)
    for seed in range(options.seeds):
        for recipe in ("viml-video-only", "viml"):
            model = new_model(described, seed, **{**load_recipe(recipe).config, "text_weight": TEXT_WEIGHT})
            settings, folder = _settings(options, seed), output / "checkpoints"
            make_trainer(model, described, items, settings, folder, progress=False, logging_strategy="no").train()
            bar.update()
            asked_by_video = WITHOUT_TEXT if model.config.has_parts else VIDEO_ONLY
            ranks[asked_by_video].append(evaluate_ranks(model, store, held_out, query_modalities=["video"]))
            if model.config.has_parts:
                ranks[WITH_TEXT].append(evaluate_ranks(model, store, held_out))
                leave_query_bank(model, described, items, seed=seed)
                ranks[CORRECTED].append(evaluate_ranks(model, store, held_out))
                kept = kept or model
    bar.close()
    torch.set_num_threads(threads)
    assert kept is not None
    return kept, {name: np.stack(rows) for name, rows in ranks.items()}


def _settings(options: argparse.Namespace, seed: int) -> TrainingSettings:
    return TrainingSettings(**{**TRAINING, "epochs": options.epochs, "seed": seed})


def metrics_of(ranks: dict[str, np.ndarray]) -> dict[str, dict[str, float]]:
    """Metrics per system, all seeds taken together, with chance first."""
    pool_size = next(iter(ranks.values())).shape[1]
    return {"chance": chance_metrics(pool_size)} | {name: retrieval_metrics(r.ravel()) for name, r in ranks.items()}


def findings(result: DemoResult) -> list[str]:
    """The findings as sentences."""
    seeds, queries = result.ranks[WITH_TEXT].shape
    gain, loss = result.text_gain, result.no_text_loss
    metrics = metrics_of(result.ranks)
    categories = ", ".join(f"{name} {result.tagger['auroc_' + name]:.2f}" for name in ("genre", "mood", "instrument"))
    ratio = metrics[WITHOUT_TEXT]["mean_log_rank"] / metrics[VIDEO_ONLY]["mean_log_rank"]
    return [
        f"{queries} held-out videos in one pool, {seeds} training seeds taken together. The corpus is generated and "
        "the base features are hand-crafted descriptors: the figures show that the parts work, they are not the "
        "paper's.",
        f"Text lowers the mean log rank by {gain.mean_difference:.2f} (95 % interval {gain.low:.2f} to "
        f"{gain.high:.2f}, paired bootstrap over queries).",
        f"Without text, the mean log rank of ViML is {ratio:.2f} times that of the video-only model (difference "
        f"{loss.mean_difference:+.2f}, interval {loss.low:+.2f} to {loss.high:+.2f}).",
        f"The training texts are made of predicted tags. The tagger's mean AUROC on the held-out tracks is "
        f"{result.tagger['auroc']:.2f} ({categories}); {result.tagger['precision']:.0%} of the tags that it keeps "
        f"are true, and it finds {result.tagger['recall']:.0%} of the true ones.",
        f"One such text: “{result.description[0]}” The generator's own words for that track: “{result.description[1]}”",
    ]


def _report(
    output: Path, corpus: Path, held_out: list[CorpusItem], recommender: Recommender, result: DemoResult
) -> None:
    by_track = {Path(item.music).name: item for item in held_out}

    def ranking(item: CorpusItem, text: str | None) -> list[ReportRecommendation]:
        return [
            ReportRecommendation(
                *(found.rank, found.track, found.path, found.score, found.start, found.end),
                description=by_track[found.track].text,
                is_match=by_track[found.track] is item,
            )
            for found in recommender.recommend(corpus / item.video, text, k=3)
        ]

    examples = [
        ReportExample(corpus / item.video, item.text, ranking(item, None), ranking(item, item.text))
        for item in held_out[:: max(1, len(held_out) // 3)][:3]
    ]
    table: list[dict[str, str | float | None]] = [
        {"system": name, "R@1": m["R@1"], "R@5": m["R@5"], "R@10": m["R@10"], "MR": f"{m['MR']:g}"}
        for name, m in metrics_of(result.ranks).items()
    ]
    title = "Music for videos, guided by text"
    write_report(output / "report.html", title=title, table=table, notes=findings(result), examples=examples)


@contextmanager
def _timed(step: str, seconds: dict[str, float]) -> Iterator[None]:
    before = time.perf_counter()
    yield
    seconds[step] = time.perf_counter() - before
