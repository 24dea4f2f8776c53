"""`viml evaluate`: rank a store's held-out music with a trained model, with intervals and what chance would give."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from viml_hf.cli.shared import MODEL_HELP
from viml_hf.cli.train import QUERIES

if TYPE_CHECKING:
    import numpy as np

    from viml_hf.evaluation.pools import Pool
    from viml_hf.evaluation.store_evaluation import EvaluationItems
    from viml_hf.features.store import Store
    from viml_hf.modeling.modeling_viml import ViMLModel

COLUMNS = ("R@1", "R@5", "R@10", "MR", "MRR", "mean_log_rank")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", metavar="MODEL", help=MODEL_HELP)
    add("store", metavar="STORE", help="folder of a store")
    about = "what the queries hold; several times for several rows (default: all that the model knows, together)"
    add("--query", action="append", choices=list(QUERIES), help=about)
    add("--pool-size", type=int, metavar="N", help="tracks per pool (default: all items in one)")
    add("--group-by", metavar="FIELD", help="one pool per value of a field, such as a genre")
    add("--split", metavar="NAME", help="items to rank (default: test, or what training holds out)")
    add("--texts", metavar="NAME", help="ask with texts of `viml describe` (default: the store's own)")
    add("--whole-tracks", action="store_true", help="compare whole tracks, not their middle 30 s")
    add("--no-hubness-correction", dest="hubness_correction", action="store_false", help="rank by similarity alone")
    add("--batch-size", type=int, default=256, help="items embedded at a time (default: 256)")
    add("--seed", type=int, default=0, help="of the pools and the bootstrap")
    add("--json", action="store_true", help="print JSON")
    add("--plot", metavar="FILE.png", help="draw recall over the number of tracks looked at")
    add("--save", action="store_true", help="keep the figures in MODEL/evaluation.json, for its card")
    add("--benchmark", metavar="HUB_ID[:TASK]", help="with --save: the one on the Hub that STORE was made of")


def run(options: argparse.Namespace) -> None:
    """Rank, and print the figures."""
    from viml_hf.errors import ViMLError
    from viml_hf.evaluation.hubness import hub_figures
    from viml_hf.evaluation.plots import check_plots, plot_recall
    from viml_hf.evaluation.ranks import retrieval_ranks
    from viml_hf.evaluation.store_evaluation import check_query, corrections_of, embed_items, pools_of, select_items
    from viml_hf.features.splits import items_digest
    from viml_hf.features.store import Store
    from viml_hf.hub.evaluation_results import EVALUATION_FILE, parse_benchmark, save_evaluation
    from viml_hf.modeling.clip_windows import CLIP_SEGMENTS

    if options.plot:
        check_plots(options.plot)
    if options.group_by and options.pool_size:
        raise ViMLError("--group-by and --pool-size: give one of them; a group is a pool of its own size")
    if options.benchmark and not options.save:
        raise ViMLError(f"--benchmark {options.benchmark}: give --save too, which keeps the figures with the model")
    benchmark = parse_benchmark(options.benchmark) if options.benchmark else None
    if options.save and not Path(options.model).is_dir():
        raise ViMLError(
            f"--save: {options.model} is no folder to keep the figures in; download the model, or leave it out"
        )
    store = Store(options.store)
    if options.texts:
        store = store.with_texts(options.texts)
    model = _load_model(options.model, store)
    known = [name for name, modalities in QUERIES.items() if set(modalities) == set(model.config.query_modalities)]
    queries = list(dict.fromkeys(options.query or known))
    for query in queries:
        check_query(model, QUERIES[query])
    chosen = select_items(
        store, split=options.split, queries=[QUERIES[query] for query in queries], group_by=options.group_by
    )
    pools = pools_of(chosen.items, group_by=options.group_by, pool_size=options.pool_size, seed=options.seed)
    corrected = None if model.query_bank is None else options.hubness_correction
    clip = None if options.whole_tracks else CLIP_SEGMENTS
    how: dict[str, Any] = {"clip_segments": clip, "batch_size": options.batch_size}
    ranks, hubs = {}, {}
    for query in queries:
        embeds = embed_items(model, store, chosen.items, query_modalities=QUERIES[query], **how)
        corrections = corrections_of(model, embeds[1], QUERIES[query]) if corrected else None
        ranks[query] = retrieval_ranks(*embeds, pools=pools, corrections=corrections)
        hubs[query] = hub_figures(*embeds, pools=pools, corrections=corrections)
    summary = {**_summary(options, chosen, pools, ranks), "hubness_correction": corrected, "hubs": hubs}
    print(json.dumps(summary, indent=1) if options.json else _text(summary))
    if options.save:
        kept = {**summary, "items_sha256": items_digest(store, chosen.items)}
        removed = save_evaluation(options.model, model.config, kept, benchmark)
        print(f"kept in {Path(options.model) / EVALUATION_FILE}", file=sys.stderr)
        if removed:
            print(f"removed from it: results of other weights ({removed})", file=sys.stderr)
    if options.plot:
        plot_recall(ranks, options.plot, pools=pools, seed=options.seed)


def _load_model(name: str, store: "Store") -> "ViMLModel":
    """The heads of a saved model; a store with features of other widths, or known to be by others, is an error."""
    from viml_hf.encoders.media_encoder import MediaEncoder, best_device
    from viml_hf.errors import ViMLError
    from viml_hf.modeling.encoder_names import is_published_features
    from viml_hf.retrieval.model_loading import load_model

    loaded = load_model(name)
    model: Any = loaded.model.viml if isinstance(loaded, MediaEncoder) else loaded
    fingerprints = loaded.fingerprints() if isinstance(loaded, MediaEncoder) else {}
    for modality in ("audio", *model.config.query_modalities):
        width, expected = store.spec.widths[modality], model.config.base_feature_dim(modality)
        if width != expected:
            raise ViMLError(
                f"{store.folder}: its {modality} features have width {width}, but {name} takes {modality}_dim="
                f"{expected}; give the store that it was trained on, or one extracted with the same encoders"
            )
        by, own = store.spec.encoders[modality], fingerprints.get(modality)
        if own is not None and (is_published_features(by) or store.spec.fingerprints.get(modality, own) != own):
            raise ViMLError(
                f"{store.folder}: its {modality} features are by {by}, which is not the {modality} encoder of {name}; "
                "extract the media again with the model's encoders, or give a model trained on this store"
            )
    return model.to(best_device())


def _summary(
    options: argparse.Namespace, chosen: "EvaluationItems", pools: "list[Pool]", ranks: "dict[str, np.ndarray]"
) -> dict[str, Any]:
    """Everything that is printed, ready for JSON."""
    from viml_hf.evaluation.metrics import chance_metrics_over_pools
    from viml_hf.evaluation.statistics import metric_intervals, paired_bootstrap

    sizes = [len(pool.tracks) for pool in pools]
    first, *others = ranks
    compared = {other: paired_bootstrap(ranks[first], ranks[other], seed=options.seed) for other in others}
    return {
        "model": options.model,
        "store": options.store,
        "texts": options.texts,
        "items": chosen.split,
        "queries": len(chosen.items),
        "whole_tracks": options.whole_tracks,
        "seed": options.seed,
        "pools": {"count": len(sizes), "smallest": min(sizes), "largest": max(sizes), "group_by": options.group_by},
        "left_out": chosen.left_out,
        "without_text": chosen.without_text if any("text" in query for query in ranks) else 0,
        "chance": chance_metrics_over_pools(pools),
        "rows": {
            query: {name: asdict(interval) for name, interval in metric_intervals(values, seed=options.seed).items()}
            for query, values in ranks.items()
        },
        "comparisons": [
            {"a": first, "b": other, "mean_log_rank_of_b_minus_a": found.mean_difference}
            | {"low": found.low, "high": found.high, "significant": found.significant}
            for other, found in compared.items()
        ],
    }


def _text(summary: dict[str, Any]) -> str:
    """The summary as a table with what must be known to read it."""
    from viml_hf.evaluation.metrics import decimals, format_table
    from viml_hf.hub.evaluation_results import comparison_text, conditions

    rows: dict[str, dict[str, float | str]] = {"chance": summary["chance"]}
    for query, figures in summary["rows"].items():
        rows[query] = {name: figure["estimate"] for name, figure in figures.items()}
        rows[f"{query}, 95 % interval"] = {
            name: f"{figure['low']:.{decimals(name)}f}–{figure['high']:.{decimals(name)}f}"
            for name, figure in figures.items()
        }
    lines = [*conditions(summary), "", format_table(rows, columns=COLUMNS)]
    lines += [f"\n{comparison_text(compared)}" for compared in summary["comparisons"]]
    for query, found in summary["hubs"].items():
        lines.append(
            f"\n{query}: {found['never']:.0f} % of the tracks are among the first 10 of no query; the skewness of how "
            f"often they are is {found['skewness']:.2f}"
        )
    return "\n".join(lines)
