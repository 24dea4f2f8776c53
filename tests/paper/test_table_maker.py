"""The paper's tables on a small store, with small heads in the place of the recipes' own."""

import json
from dataclasses import replace

import numpy as np
import pytest

from viml_hf import Store, StoreSpec, StoreWriter, ViMLError
from viml_hf.cli.main import main
from viml_hf.evaluation.pools import pools_from_groups
from viml_hf.evaluation.ranks import retrieval_ranks
from viml_hf.evaluation.store_evaluation import embed_items
from viml_hf.features.named_texts import write_texts
from viml_hf.paper import table_maker
from viml_hf.paper.ensembles import ensemble_ranks
from viml_hf.paper.table_definitions import BOTH, TABLES, TEXT, VIDEO, Row, System, Table, one
from viml_hf.paper.table_maker import DONE, TableMaker, TableResult, dropout_curve, format_result
from viml_hf.train.recipes import load_recipe

WIDTHS = {"video": 6, "audio": 5, "text": 4}
SMALL = {"hidden_size": 16, "projection_dim": 16, "num_attention_heads": 2, "intermediate_size": 32}
SETTINGS = {"epochs": 1, "batch_size": 8}


@pytest.fixture(autouse=True)
def small_heads(monkeypatch):
    def load(name):
        recipe = load_recipe(name)
        return replace(recipe, config=recipe.config | SMALL)

    monkeypatch.setattr(table_maker, "load_recipe", load)


def write_store(folder, rows=1):
    """60 items; the last test item has no text."""
    rng = np.random.default_rng(0)
    with StoreWriter(folder, StoreSpec(dict.fromkeys(WIDTHS, "descriptors"), WIDTHS), np.zeros(4)) as writer:
        for index in range(60):
            split = ("train", "train", "train", "validation", "test")[index % 5]
            features = {name: rng.standard_normal((rows, width)) for name, width in WIDTHS.items()}
            texts = ["text"] if index < 59 else []
            features["text"] = features["text"][:1] if texts else None
            writer.add(f"{index:02d}", **features, texts=texts, split=split, pool=index // 30)
    return Store(folder)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return write_store(tmp_path_factory.mktemp("store"))


def make(store, output, table, **options):
    return TableMaker(store, output, settings=SETTINGS, progress=False, **options).make(table)


@pytest.mark.parametrize("number", [2, 3, 5])
def test_the_command_writes_a_table_its_ranks_and_a_figure(store, tmp_path, capsys, number):
    options = ["--epochs", "1", "--batch-size", "8", "--group-by", "pool", "--seeds", "1", "--quiet"]
    assert main(["tables", str(store.folder), "-o", str(tmp_path), "--table", str(number), *options]) == 0
    assert (tmp_path / f"table-{number}.md").read_text() in capsys.readouterr().out
    assert json.loads((tmp_path / f"table-{number}.json").read_text())["ranks"]
    assert (tmp_path / f"table-{number}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_the_command_makes_every_table_and_figure(store, tmp_path, capsys):
    rows = ((f"{i:02d}", "words", np.full(4, i % 7, np.float32)) for i in range(60))
    write_texts(store.folder, "tags", rows, 4)
    options = ["--epochs", "1", "--batch-size", "8", "--group-by", "pool", "--quiet"]
    assert main(["tables", str(store.folder), "-o", str(tmp_path / "out"), *options]) == 0
    out = capsys.readouterr().out
    for number in range(1, 6):
        text = (tmp_path / "out" / f"table-{number}.md").read_text()
        assert text in out
        assert (tmp_path / "out" / f"table-{number}.png").read_bytes().startswith(b"\x89PNG")
        labels = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("|")][2:]
        expected = ["chance", *(row.label for row in TABLES[number].rows)]
        assert [label.partition(": not run, ")[0] for label in labels] == expected
    second = (tmp_path / "out" / "table-2.md").read_text()
    assert second.count("not run, the store has no texts") == 3
    assert "ViML, tags:" not in second
    fourth = (tmp_path / "out" / "table-4.md").read_text()
    assert "| fusion parameters |" in fourth.replace("  ", " ")
    assert (
        "11 queries in 2 pools of 5, 6 tracks, 1 test items left out" in (tmp_path / "out" / "table-5.md").read_text()
    )


def test_ranks_are_those_of_the_systems_with_the_stores_own_texts(store, tmp_path):
    write_texts(store.folder, "tags", ((f"{i:02d}", "words", np.ones(4, np.float32)) for i in range(60)), 4)
    ensemble = Row("ensemble", (System("mt"), System("mvpt-plus")), (TEXT, VIDEO))
    table = Table("t", 500, False, (one("plain", "viml-paper", BOTH, texts="tags"), ensemble))
    result = make(store, tmp_path, table, seeds=(0, 1), group_by="pool")
    items = [item for item in store.usable() if item.fields["split"] == "test" and item.texts]
    assert (len(items), result.left_out) == (11, 1)
    pools = pools_from_groups(item.fields["pool"] for item in items)
    maker = TableMaker(store, tmp_path, settings=SETTINGS, progress=False)
    for seed in (0, 1):
        model = maker.trained(System("viml-paper", texts="tags"), seed)
        expected = retrieval_ranks(*embed_items(model, store, items), pools=pools)
        assert np.array_equal(result.ranks["plain"][seed], expected)
        pairs = [
            embed_items(maker.trained(system, seed), store, items, query_modalities=query)
            for system, query in zip(ensemble.systems, ensemble.queries, strict=True)
        ]
        expected = ensemble_ranks(*pairs, result.alphas["ensemble"][seed], pools=pools)
        assert np.array_equal(result.ranks["ensemble"][seed], expected)
    assert "2 training seeds taken together" in format_result(result)


def test_a_killed_run_trains_only_what_is_missing(store, tmp_path, monkeypatch):
    table = Table("t", 500, False, (one("a", "mvpt", VIDEO), one("b", "mt", TEXT), one("a again", "mvpt", VIDEO)))
    trained, train = [], table_maker.make_trainer

    def killed(model, *arguments, **options):
        trained.append(model.config.query_modalities)
        if len(trained) == 2:
            raise KeyboardInterrupt
        return train(model, *arguments, **options)

    monkeypatch.setattr(table_maker, "make_trainer", killed)
    with pytest.raises(KeyboardInterrupt):
        make(store, tmp_path / "out", table)
    (done,) = (tmp_path / "out").rglob(DONE)
    assert set(json.loads(done.read_text())) == {"made_of", "seconds", "fusion_parameters"}
    result = make(store, tmp_path / "out", table)
    assert trained == [["video"], ["text"], ["text"]]
    whole = make(store, tmp_path / "undisturbed", table)
    assert all(np.array_equal(result.ranks[label], whole.ranks[label]) for label in result.ranks)


def test_systems_of_other_settings_or_items_are_not_taken(store, tmp_path):
    table = Table("t", 500, False, (one("a", "mvpt", VIDEO),))
    make(store, tmp_path, table)
    maker = TableMaker(store, tmp_path, settings=SETTINGS | {"epochs": 2}, progress=False)
    with pytest.raises(ViMLError, match="trained with other settings, texts or items; give another output folder"):
        maker.make(table)


def test_long_items_have_two_levels_and_short_ones_one(store, tmp_path):
    table = Table("t", 500, True, (one("a", "mvpt", VIDEO),))
    make(store, tmp_path / "short", table)
    make(write_store(tmp_path / "store", rows=5), tmp_path / "long", table)
    assert [path.name for path in (tmp_path / "short" / "systems").iterdir()] == ["mvpt"]
    assert [path.name for path in (tmp_path / "long" / "systems").iterdir()] == ["mvpt,clip_segments=None"]


def test_the_dropout_curve_has_the_rates_of_table_three():
    ranks = {row.label: np.array([[1, 20]]) for row in TABLES[3].rows}
    curves = dropout_curve(TableResult(TABLES[3], [], 0, ranks))
    assert {name: sorted(curve) for name, curve in curves.items()} == {
        name: [0.0, 0.2, 0.5, 0.8, 0.9, 0.95] for name in ("text", "no text")
    }


def test_what_a_table_lacks_is_said(store, tmp_path):
    table = Table("t", 500, False, (one("a", "mvpt", VIDEO),))
    with pytest.raises(ViMLError, match="has no field 'shelf'"):
        make(store, tmp_path, table, group_by="shelf")
    with StoreWriter(tmp_path / "few", StoreSpec(dict.fromkeys(WIDTHS, "descriptors"), WIDTHS), np.zeros(4)) as writer:
        writer.add("a", video=np.ones((1, 6)), audio=np.ones((1, 5)), split="train")
    with pytest.raises(ViMLError, match="1 items of the split 'train'"):
        make(Store(tmp_path / "few"), tmp_path, table)
