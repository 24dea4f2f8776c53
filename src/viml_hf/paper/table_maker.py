"""The paper's tables from a store: trains every system once per seed, and shows its figures beside the paper's."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from viml_hf.errors import ViMLError
from viml_hf.evaluation.metrics import chance_metrics_over_pools, decimals, format_table, retrieval_metrics
from viml_hf.evaluation.pools import Pool
from viml_hf.evaluation.ranks import retrieval_ranks
from viml_hf.evaluation.statistics import Interval, metric_intervals
from viml_hf.evaluation.store_evaluation import can_be_ranked, embed_items, mean_features, pools_of
from viml_hf.features.atomic_files import replacing
from viml_hf.features.checksums import digest
from viml_hf.features.named_texts import names_of_texts
from viml_hf.features.splits import SPLITS, items_digest, items_for
from viml_hf.features.store import Store
from viml_hf.features.store_format import StoreItem
from viml_hf.modeling.clip_windows import CLIP_SEGMENTS
from viml_hf.modeling.modeling_viml import ViMLModel
from viml_hf.paper.cca import LinearCCA, fit_cca
from viml_hf.paper.ensembles import ensemble_ranks, tune_alpha
from viml_hf.paper.table_definitions import COLUMNS, DROPOUT_RATES, Row, System, Table, without_clips
from viml_hf.train.recipes import load_recipe
from viml_hf.train.settings import TrainingSettings
from viml_hf.train.training import make_trainer, new_model

CCA_DIMENSIONS, CCA_RIDGE = 64, 1.0  # chosen on the validation pool of the YouTube-8M music set
DONE = "system.json"  # in a system's folder, written last
Embeddings = tuple[np.ndarray, np.ndarray]


@dataclass
class TableResult:
    """What a table shows; the dictionaries are by the labels of its lines."""

    table: Table
    pools: list[Pool]  # of the test items
    left_out: int  # test items that some line cannot be asked with
    ranks: dict[str, np.ndarray] = field(default_factory=dict)  # (seeds, queries)
    alphas: dict[str, list[float]] = field(default_factory=dict)  # of ensembles, per seed
    parameters: dict[str, int] = field(default_factory=dict)  # of the fusion, where there is one
    seconds: dict[str, float] = field(default_factory=dict)  # that the systems took to train
    not_run: dict[str, str] = field(default_factory=dict)  # the reason


class TableMaker:
    """Trains what tables need, each system once, and evaluates it. A rerun trains only what is missing.

    The store has items of the splits `train` and `test`, and for ensembles of `validation`. The systems are kept in
    `output`. `settings` are fields of `TrainingSettings` for all, over those of their recipes. The field `group_by` of
    the test items names their pool; by default pools are dealt, of the paper's size or of all items if there are fewer.
    """

    def __init__(
        self,
        store: Store,
        output: str | Path,
        *,
        seeds: Sequence[int] = (0,),
        settings: Mapping[str, Any] | None = None,
        group_by: str | None = None,
        progress: bool = True,
    ):
        self.store, self.output, self.seeds = store, Path(output), tuple(seeds)
        self.settings, self.group_by, self.progress = dict(settings or {}), group_by, progress
        self.splits = {purpose: items_for(store, purpose) for purpose in SPLITS}
        for split in ("train", "test"):
            self._check(split, self.splits[split])
        self._ccas: dict[tuple[tuple[str, ...], int | None], LinearCCA] = {}
        # Where all items are as short as a clip, whole tracks and clips are the same, and are trained once.
        self._longest = max(max(len(item.video), len(item.audio)) for items in self.splits.values() for item in items)

    def _check(self, split: str, items: Sequence[StoreItem]) -> None:
        if len(items) < 2:
            raise ViMLError(
                f"{self.store.folder}: {len(items)} items of the split {split!r} have all that is asked for; "
                "tables need train and test, with texts, and ensembles validation"
            )

    def test_items(self, table: Table) -> dict[str, list[StoreItem]]:
        """The items that every line of a table can be asked with: of `test`, and for ensembles of `validation`."""
        ensembles = any(len(row.systems) > 1 for row in table.rows)
        queries = {query for row in table.rows for query in row.queries}
        found = {}
        for split in ("test", "validation") if ensembles else ("test",):
            items = self.splits[split]
            found[split] = [item for item in items if all(can_be_ranked(item, query) for query in queries)]
            self._check(split, found[split])
        return found

    def make(self, table: Table) -> TableResult:
        """Train and evaluate every line of a table."""
        whole = table.whole_tracks and self._longest > CLIP_SEGMENTS
        rows = [without_clips(row) if whole else row for row in table.rows]
        clip = None if whole else CLIP_SEGMENTS
        items = self.test_items(table)
        pools = {
            name: pools_of(found, group_by=self.group_by, pool_size=min(table.pool_size, len(found)))
            for name, found in items.items()
        }
        result = TableResult(table, pools["test"], len(self.splits["test"]) - len(items["test"]))
        bar = tqdm(rows, desc=table.title, unit="line", disable=not self.progress)
        for row in bar:
            bar.set_postfix_str(row.label)
            missing = [s.texts for s in row.systems if s.texts and s.texts not in names_of_texts(self.store.folder)]
            if missing:
                result.not_run[row.label] = f"the store has no texts {missing[0]!r}, see viml describe"
                continue
            ranks = []
            for seed in self.seeds:
                pairs = list(zip(row.systems, row.queries, strict=True))
                test = [self._embed(s, query, seed, items["test"], clip) for s, query in pairs]
                if len(test) == 1:
                    ranks.append(retrieval_ranks(*test[0], pools=pools["test"]))
                else:
                    seen = [self._embed(s, query, seed, items["validation"], clip) for s, query in pairs]
                    alpha = tune_alpha(seen[0], seen[1], pools=pools["validation"])
                    result.alphas.setdefault(row.label, []).append(alpha)
                    ranks.append(ensemble_ranks(test[0], test[1], alpha, pools=pools["test"]))
                self._note(result, row, seed)
            result.ranks[row.label] = np.stack(ranks)
        return result

    def _note(self, result: TableResult, row: Row, seed: int) -> None:
        """Keep the seconds and parameters of a line's systems."""
        facts = [json.loads((self._folder(s, seed) / DONE).read_text()) for s in row.systems if s.recipe != "cca"]
        seconds = sum(fact["seconds"] for fact in facts)
        result.seconds[row.label] = result.seconds.get(row.label, 0.0) + seconds
        if len(facts) == 1 and facts[0]["fusion_parameters"] is not None:
            result.parameters[row.label] = facts[0]["fusion_parameters"]

    def _embed(
        self, system: System, query: tuple[str, ...], seed: int, items: Sequence[StoreItem], clip: int | None
    ) -> Embeddings:
        """Embeddings of the queries and the music of items; the texts of queries are always the store's own."""
        if system.recipe == "cca":
            asked = mean_features(self.store, items, query_modalities=query, clip_segments=clip)
            cca = self._fit_cca(query, clip)
            return cca.embed_queries(asked[0]), cca.embed_audio(asked[1])
        model = self.trained(system, seed)
        return embed_items(model, self.store, items, query_modalities=query, clip_segments=clip)

    def _fit_cca(self, query: tuple[str, ...], clip: int | None) -> LinearCCA:
        """A CCA of the training items, fitted once for all seeds."""
        if (query, clip) not in self._ccas:
            seen = mean_features(self.store, self.splits["train"], query_modalities=query, clip_segments=clip)
            dimensions = min(CCA_DIMENSIONS, *(part.shape[1] for part in seen))
            self._ccas[query, clip] = fit_cca(*seen, dimensions, CCA_RIDGE)
        return self._ccas[query, clip]

    def _folder(self, system: System, seed: int) -> Path:
        return self.output / "systems" / system.key / f"seed-{seed}"

    def trained(self, system: System, seed: int) -> ViMLModel:
        """A system's heads, from its folder or trained now; heads that were trained otherwise are an error."""
        folder, recipe = self._folder(system, seed), load_recipe(system.recipe)
        settings = TrainingSettings(**{**recipe.settings, **self.settings, **dict(system.settings), "seed": seed})
        store = self.store.with_texts(system.texts) if system.texts else self.store
        items = items_for(store, "train")
        made_of = digest([recipe.config, vars(settings), items_digest(store, items)])
        if (folder / DONE).is_file():
            if json.loads((folder / DONE).read_text())["made_of"] != made_of:
                raise ViMLError(f"{folder}: trained with other settings, texts or items; give another output folder")
            return ViMLModel.from_pretrained(folder)
        before = time.perf_counter()
        model = new_model(store, seed, **recipe.config)
        trainer = make_trainer(model, store, items, settings, folder / "trainer", progress=False, logging_strategy="no")
        trainer.train()
        model.save_pretrained(folder)
        fusion = None if model.fusion is None else sum(p.numel() for p in model.fusion.parameters())
        facts = {"made_of": made_of, "seconds": time.perf_counter() - before, "fusion_parameters": fusion}
        # Written last, and whole: after a run that was killed before, this system is trained again, and no other.
        with replacing(folder / DONE) as path:
            path.write_text(json.dumps(facts) + "\n")
        return ViMLModel.from_pretrained(folder)


def format_result(result: TableResult) -> str:
    """A table as Markdown with the published figures beside ours; R@10 has its 95 % bootstrap interval over queries."""
    sizes = sorted({len(pool.tracks) for pool in result.pools})
    rows: dict[str, dict[str, float | str]] = {"chance": dict(chance_metrics_over_pools(result.pools))}
    for row in result.table.rows:
        if row.label in result.not_run:
            rows[f"{row.label}: not run, {result.not_run[row.label]}"] = {}
            continue
        ranks = result.ranks[row.label]
        cells: dict[str, float | str] = dict(retrieval_metrics(ranks.ravel()))
        interval = metric_intervals(ranks)["R@10"]
        cells["R@10"] = f"{interval.estimate:.2f} ({interval.low:.1f}–{interval.high:.1f})"
        for name, value in zip(COLUMNS, row.published, strict=False):
            cells[f"paper {name}"] = f"{value:g}" if name in ("MR", "R@10") else f"{value:.{decimals(name)}f}"
        if len(set(result.parameters.values())) > 1 and row.label in result.parameters:
            cells["fusion parameters"] = f"{result.parameters[row.label]:,}"
        if row.label in result.alphas:
            cells["alpha"] = ", ".join(f"{alpha:.2f}" for alpha in result.alphas[row.label])
        cells["training, s"] = f"{result.seconds[row.label]:.0f}"
        rows[row.label] = cells
    extra = [name for name in ("fusion parameters", "alpha") if any(name in cells for cells in rows.values())]
    columns = [*COLUMNS, *extra, "training, s", *(f"paper {name}" for name in COLUMNS)]
    queries = sum(len(pool.queries) for pool in result.pools)
    seeds = len(next(iter(result.ranks.values()), ()))
    notes = (
        f"{queries} queries in {len(result.pools)} pools of {', '.join(map(str, sizes))} tracks, {result.left_out} "
        f"test items left out, {seeds} training seeds taken together. The paper's figures are of other "
        f"data, in pools of {result.table.pool_size}."
    )
    return f"{result.table.title}\n\n{format_table(rows, columns=columns)}\n\n{notes}\n"


def dropout_curve(result: TableResult) -> dict[str, dict[float, Interval]]:
    """R@10 over the text-dropout rate, of table 3: with and without text, for `plot_dropout_curve`."""
    names = {"off": 0.0, "on (0.8)": 0.8} | {f"rate {rate}": rate for rate in DROPOUT_RATES}
    curves: dict[str, dict[float, Interval]] = {"text": {}, "no text": {}}
    for label, ranks in result.ranks.items():
        name, _, query = label.rpartition(", ")
        curves[query][names[name]] = metric_intervals(ranks)["R@10"]
    return curves
