"""The results that `viml evaluate --save` keeps in `evaluation.json`, and the two formats in which the Hub reads them.

`.eval_results/*.yaml` holds one figure per registered benchmark, for leaderboards: R@10, by which the paper compares.
`model-index`, in a card's metadata, holds all other figures, of any dataset.
"""

import json
import re
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, EvalResultEntry, eval_result_entries_to_yaml
from huggingface_hub.utils import yaml_dump

from viml_hf.errors import ViMLError, shown
from viml_hf.evaluation.metrics import decimals
from viml_hf.features.atomic_files import replacing
from viml_hf.features.json_files import misfit, read_json
from viml_hf.hub import VIDEO_TO_MUSIC
from viml_hf.hub.saved_weights import weights_checksum
from viml_hf.modeling.configuration_viml import ViMLConfig

EVALUATION_FILE = "evaluation.json"
EVAL_RESULTS_FOLDER = ".eval_results"
BENCHMARK_METRIC = "R@10"
CARD_METRICS = ("R@1", "R@5", "R@10", "MR")  # those in a card's tables
METRIC_TYPES = {"R@1": "recall_at_1", "R@5": "recall_at_5", "R@10": "recall_at_10", "MR": "median_rank", "MRR": "mrr"}
HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)
# Results with equal values of these are of the same ranking; the newer one replaces the older one.
SAME = ("store", "items", "items_sha256", "pools", "texts", "whole_tracks", "hubness_correction")
_OPTIONAL_TEXT = (str, type(None))
_FIGURE: dict[Any, Any] = {"estimate": float, "low": float, "high": float, ...: object}
_RESULT: dict[Any, Any] = {
    **{"store": str, "items": str, "items_sha256": str, "weights": str, "texts": _OPTIONAL_TEXT, "whole_tracks": bool},
    "pools": {"count": int, "smallest": int, "largest": int, "group_by": _OPTIONAL_TEXT},
    "queries": int,
    "without_text": int,
    "left_out": {...: int},
    "chance": {**dict.fromkeys(CARD_METRICS, float), ...: float},
    "rows": {...: {**dict.fromkeys(CARD_METRICS, _FIGURE), ...: _FIGURE}},
    "comparisons": [
        {"a": str, "b": str, "mean_log_rank_of_b_minus_a": float, "low": float, "high": float, "significant": bool}
    ],
    ...: object,
}


def parse_benchmark(text: str) -> dict[str, str]:
    """A benchmark on the Hub, named `HUB_ID[:TASK]`; the task is one of those in the dataset's `eval.yaml`."""
    hub_id, colon, task = text.partition(":")
    if not HUB_ID.fullmatch(hub_id) or (colon and not re.fullmatch(r"[\w.-]+", task)):
        raise ViMLError(f"benchmark {text!r}: give OWNER/NAME of a dataset on the Hub, with :TASK if it has several")
    return {"id": hub_id, "task": task or "default"}


def read_evaluations(folder: str | Path) -> list[dict[str, Any]]:
    """The results that are kept with a saved model; none where there is no `evaluation.json`."""
    path, fix = Path(folder) / EVALUATION_FILE, "delete it, and evaluate with --save again"
    found = read_json(path, list, fix) or []
    for number, one in enumerate(found, start=1):
        place = misfit(one, _RESULT)
        if place is None and "benchmark" in one:
            place = misfit(one["benchmark"], {"id": str, "task": str})
        if place is not None:
            raise ViMLError(f"{path}: not results of `viml evaluate` (number {number}: {shown(place)}); {fix}")
    return found


def save_evaluation(
    folder: str | Path, heads: ViMLConfig, summary: dict[str, Any], benchmark: dict[str, str] | None = None
) -> int:
    """Save a `--json` summary for older results of the same ranking; returns how many of other weights were removed."""
    entry = {name: value for name, value in summary.items() if name != "model"}
    entry |= {"store": Path(entry["store"]).resolve().name, "weights": weights_checksum(folder, heads)}
    if benchmark is not None:
        entry["benchmark"] = benchmark
    older = read_evaluations(folder)
    kept = [one for one in older if one["weights"] == entry["weights"]]
    same = [one for one in kept if all(one.get(name) == entry.get(name) for name in SAME)]
    others = [one for one in kept if one not in same or not set(one["rows"]) <= set(entry["rows"])]
    with replacing(Path(folder) / EVALUATION_FILE) as path:
        path.write_text(json.dumps([*others, entry], indent=1) + "\n", encoding="utf-8")
    return len(older) - len(kept)


def conditions(summary: dict[str, Any]) -> list[str]:
    """What must be known to read the figures of a result: queries, pools, and what was left out."""
    pools = summary["pools"]
    size = f"{pools['smallest']} to {pools['largest']}" if pools["smallest"] < pools["largest"] else pools["largest"]
    span = "whole tracks" if summary["whole_tracks"] else "their middle 30 s"
    found = [
        f"{summary['queries']} queries from {summary['items']}, compared by {span}; {pools['count']} "
        f"pool{'s' if pools['count'] > 1 else ''} of {size} tracks"
        + (f", one per {pools['group_by']}" if pools.get("group_by") else "")
    ]
    # Results of older versions do not say it: they were not corrected.
    if summary.get("hubness_correction") is not None:
        found.append("corrected for hubs" if summary["hubness_correction"] else "not corrected for hubs")
    if summary["left_out"]:
        found.append("left out: " + ", ".join(f"{count} {reason}" for reason, count in summary["left_out"].items()))
    if summary["without_text"]:
        found.append(f"{summary['without_text']} queries have no text: the model's null text stands in for it")
    return found


def comparison_text(compared: dict[str, Any]) -> str:
    """One of a result's `comparisons`, in a line."""
    a, b = compared["a"], compared["b"]
    verdict = f"{a if compared['low'] > 0 else b} is better" if compared["significant"] else "no clear difference"
    return (
        f"mean log rank of {b} minus that of {a}: {compared['mean_log_rank_of_b_minus_a']:+.2f}, 95 % interval "
        f"{compared['low']:+.2f} to {compared['high']:+.2f} (paired over queries): {verdict}"
    )


def with_interval(metric: str, figure: dict[str, float]) -> str:
    """A figure with its 95 % interval: `51.23 (48.30–54.20)`."""
    estimate, low, high = (f"{figure[end]:.{decimals(metric)}f}" for end in ("estimate", "low", "high"))
    return f"{estimate} ({low}–{high})"


def benchmark_files(results: list[dict[str, Any]]) -> dict[str, str]:
    """The files of `.eval_results` by path, one per benchmark and kind of query: R@10, and how it came about."""
    files: dict[str, list[EvalResultEntry]] = {}
    for result in (one for one in results if "benchmark" in one):
        benchmark = result["benchmark"]
        for query, figures in result["rows"].items():
            figure = figures[BENCHMARK_METRIC]
            notes = f"{BENCHMARK_METRIC} in percent, query {_asked(query, result)}: {'; '.join(conditions(result))}"
            notes += f"; with its 95 % interval {with_interval(BENCHMARK_METRIC, figure)}"
            value = round(figure["estimate"], decimals(BENCHMARK_METRIC))
            name = "-".join(_slug(part) for part in (benchmark["id"], benchmark["task"], query))
            files.setdefault(f"{EVAL_RESULTS_FOLDER}/{name}.yaml", []).append(
                EvalResultEntry(dataset_id=benchmark["id"], task_id=benchmark["task"], value=value, notes=notes)
            )
    return {path: yaml_dump(eval_result_entries_to_yaml(files[path]), sort_keys=False) for path in sorted(files)}


def model_index(results: list[dict[str, Any]]) -> list[EvalResult]:
    """The figures for a card's metadata: all but those of `benchmark_files`."""
    found = []
    for result in results:
        benchmark = (result.get("benchmark") or {}).get("id")
        for query, figures in result["rows"].items():
            asked = f"query {_asked(query, result)}, {conditions(result)[0]}"
            found += [
                EvalResult(
                    task_type=VIDEO_TO_MUSIC,
                    task_name="Music retrieval",
                    dataset_type=benchmark or _slug(result["store"]),  # the Hub refuses other characters here
                    dataset_name=benchmark or result["store"],
                    metric_type=METRIC_TYPES.get(metric, metric),
                    metric_name=f"{metric} ({asked}; 95 % interval {figure['low']:.4g} to {figure['high']:.4g})",
                    metric_value=round(figure["estimate"], 4),
                )
                for metric, figure in figures.items()
                if not (benchmark and metric == BENCHMARK_METRIC)
            ]
    return found


def _asked(query: str, result: dict[str, Any]) -> str:
    return f"{query} with the texts {result['texts']}" if result.get("texts") and "text" in query else query


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.-]+", "-", text.lower()).strip("-") or "unnamed"
