import json
import shutil

import numpy as np
import pytest
import torch

from viml_hf import MediaEncoder, Store, StoreSpec, StoreWriter, ViMLForMusicRetrieval, ViMLModel, ViMLProcessor
from viml_hf.cli.main import main
from viml_hf.errors import ViMLError
from viml_hf.evaluation.metrics import chance_metrics, chance_metrics_over_pools
from viml_hf.evaluation.pools import make_pools, pools_from_groups
from viml_hf.evaluation.statistics import metric_intervals, paired_bootstrap
from viml_hf.evaluation.store_evaluation import evaluate_ranks
from viml_hf.features.named_texts import write_texts
from viml_hf.hub.card_facts import gather_facts

HEADS = {"hidden_size": 16, "projection_dim": 16, "num_attention_heads": 2, "intermediate_size": 32}
WIDTHS = {"video": 160, "audio": 168, "text": 512}


def write_store(folder, *, widths=WIDTHS, encoders="descriptors", fingerprints=None):
    """16 test items of up to 6 segments, two without a text, one without music; 3 of training."""
    generator = np.random.default_rng(0)
    spec = StoreSpec(dict.fromkeys(widths, encoders), widths, fingerprints or {})
    with StoreWriter(folder, spec, np.zeros(widths["text"])) as writer:
        for index in range(20):
            rows = {m: generator.standard_normal((1 + index % 6, w)) for m, w in widths.items() if m != "text"}
            text = {"text": generator.standard_normal((1, widths["text"])), "texts": ["x"]}
            if index == 19:
                del rows["audio"]
            split = "train" if index < 3 else "test"
            writer.add(f"{index:02d}", **rows, **(text if index not in (4, 9) else {}), split=split, genre=index % 5)
    return Store(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`model` (with its encoders), `heads` (alone), `video` (heads that know no text) and `store`."""
    folder = tmp_path_factory.mktemp("evaluate")
    torch.manual_seed(0)
    model, processor = ViMLForMusicRetrieval.from_encoders(**HEADS), ViMLProcessor.from_encoders()
    model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    model.viml.save_pretrained(folder / "heads")
    ViMLForMusicRetrieval.from_encoders(**HEADS, query_modalities=["video"]).viml.save_pretrained(folder / "video")
    store = write_store(folder / "store", fingerprints=MediaEncoder(model, processor).fingerprints())
    generator = np.random.default_rng(1)
    rows = [(item.id, "y", generator.standard_normal(512)) for item in store.items[5:12]]
    write_texts(store.folder, "mine", rows, 512)
    return folder


@pytest.fixture
def evaluate(folder, capsys):
    """Run the command on a model of the folder; its exit status, output and errors."""

    def evaluate(*words, model="model", store=None):
        capsys.readouterr()
        status = main(["evaluate", str(folder / model), str(store or folder / "store"), *map(str, words)])
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return evaluate


@pytest.fixture
def figures(evaluate):
    """The JSON of a run that must succeed."""

    def figures(*words, **where):
        status, out, err = evaluate(*words, "--json", **where)
        assert (status, err) == (0, "")
        return json.loads(out)

    return figures


def ranks_of(folder, query, *, keep=lambda item: True, pools=None, texts=None, clip_segments=3):
    store = Store(folder / "store")
    store = store.with_texts(texts) if texts else store
    items = [item for item in store.usable() if item.fields["split"] == "test" and keep(item)]
    model = ViMLModel.from_pretrained(folder / "model")
    return evaluate_ranks(
        model, store, items, query_modalities=query, pools=pools and pools(items), clip_segments=clip_segments
    )


def check_row(row, ranks, seed=0):
    expected = metric_intervals(ranks, seed=seed)
    assert list(row) == list(expected) == ["R@1", "R@5", "R@10", "MR", "MRR", "mean_log_rank"]
    for name, interval in expected.items():
        assert [row[name][end] for end in ("estimate", "low", "high")] == [
            interval.estimate,
            interval.low,
            interval.high,
        ]


@pytest.mark.parametrize("model", ["model", "heads"])
def test_the_default_is_every_query_modality_on_the_test_split_in_one_pool(folder, figures, model):
    found = figures(model=model)
    assert list(found["rows"]) == ["video+text"]
    check_row(found["rows"]["video+text"], ranks_of(folder, ("video", "text")))
    assert found["chance"] == pytest.approx(chance_metrics(16))
    assert found["pools"] == {"count": 1, "smallest": 16, "largest": 16, "group_by": None}
    assert (found["queries"], found["left_out"], found["without_text"]) == (16, {"without audio": 1}, 2)
    assert (found["items"], found["comparisons"]) == ("the split test", [])


def test_several_queries_are_rows_on_the_same_items_compared_with_the_first(folder, figures):
    found = figures("--query", "video", "--query", "text", "--query", "video+text", "--query", "video", "--seed", 3)
    assert list(found["rows"]) == ["video", "text", "video+text"]
    assert found["left_out"] == {"without audio": 1, "without text": 2}
    ranks = {
        name: ranks_of(
            folder, name.split("+"), keep=lambda item: item.texts, pools=lambda items: make_pools(14, 14, seed=3)
        )
        for name in found["rows"]
    }
    for name, values in ranks.items():
        check_row(found["rows"][name], values, seed=3)
    for compared, other in zip(found["comparisons"], ["text", "video+text"], strict=True):
        expected = paired_bootstrap(ranks["video"], ranks[other], seed=3)
        assert (compared["a"], compared["b"]) == ("video", other)
        assert compared["mean_log_rank_of_b_minus_a"] == expected.mean_difference
        assert (compared["low"], compared["high"], compared["significant"]) == (
            expected.low,
            expected.high,
            expected.significant,
        )


def test_pools_of_a_size_and_of_a_field(folder, figures):
    found = figures("--query", "video", "--pool-size", 5, "--seed", 1)
    check_row(
        found["rows"]["video"], ranks_of(folder, ("video",), pools=lambda items: make_pools(16, 5, seed=1)), seed=1
    )
    assert found["pools"] == {"count": 4, "smallest": 5, "largest": 5, "group_by": None}
    assert found["chance"] == pytest.approx(chance_metrics(5))
    found = figures("--query", "video", "--group-by", "genre")

    def groups(items):
        return pools_from_groups(item.fields["genre"] for item in items)

    check_row(found["rows"]["video"], ranks_of(folder, ("video",), pools=groups))
    items = [item for item in Store(folder / "store").usable() if item.fields["split"] == "test"]
    assert found["chance"] == pytest.approx(chance_metrics_over_pools(groups(items)))
    assert found["pools"] == {"count": 5, "smallest": 3, "largest": 4, "group_by": "genre"}


def test_whole_tracks_other_texts_other_splits_and_small_batches(folder, figures):
    whole = figures("--whole-tracks")
    check_row(whole["rows"]["video+text"], ranks_of(folder, ("video", "text"), clip_segments=None))
    assert whole["rows"] != figures()["rows"]
    found = figures("--texts", "mine", "--query", "text")
    assert found["queries"] == 7
    check_row(found["rows"]["text"], ranks_of(folder, ("text",), keep=lambda item: item.texts, texts="mine"))
    assert figures("--split", "train")["queries"] == 3
    assert figures("--batch-size", 3)["rows"] == figures()["rows"]


def test_the_table_says_what_was_ranked(evaluate, folder):
    status, out, _ = evaluate("--query", "video+text", "--query", "video", "--pool-size", 5)
    assert status == 0
    lines = out.splitlines()
    assert lines[0] == "16 queries from the split test, compared by their middle 30 s; 4 pools of 5 tracks"
    assert lines[1] == "left out: 1 without audio"
    assert lines[2] == "2 queries have no text: the model's null text stands in for it"
    columns = ["system", "R@1", "R@5", "R@10", "MR", "MRR", "mean_log_rank"]
    assert [cell.strip() for cell in lines[4].split("|")[1:-1]] == columns
    names = [line.split("|")[1].strip() for line in lines[6:11]]
    assert names == ["chance", "video+text", "video+text, 95 % interval", "video", "video, 95 % interval"]
    assert lines[6].split("|")[2].strip() == "20.00"
    interval = metric_intervals(ranks_of(folder, ("video",), pools=lambda items: make_pools(16, 5, seed=0)))["R@1"]
    assert lines[9].split("|")[2].strip() == f"{interval.estimate:.2f}"
    assert lines[10].split("|")[2].strip() == f"{interval.low:.2f}–{interval.high:.2f}"
    assert lines[12].startswith("mean log rank of video minus that of video+text: ")
    assert [line.partition(":")[0] for line in lines[14::2]] == ["video+text", "video"]
    assert "among the first 10 of no query" in lines[14]
    assert len(lines) == 17


@pytest.fixture
def copied(folder, tmp_path):
    """A copy of a model, to keep results with."""

    def copied(model):
        return shutil.copytree(folder / model, tmp_path / model)

    return copied


@pytest.mark.parametrize("model", ["model", "heads"])
def test_kept_results_are_those_printed_and_lead_to_the_card(evaluate, figures, copied, model):
    words = ["--query", "video", "--query", "text", "--texts", "mine"]
    target = copied(model)
    status, out, err = evaluate(*words, "--save", "--json", model=target)
    printed = json.loads(out)
    assert (status, printed["rows"]) == (0, figures(*words, model=model)["rows"])
    assert err == f"kept in {target}/evaluation.json\n"
    evaluate("--save", "--pool-size", 5, "--benchmark", "me/bench:clips", model=target)
    evaluate(*words, "--save", "--seed", 1, model=target)
    bench, kept = gather_facts(target, "me/model").results
    assert (bench["benchmark"], list(bench["rows"])) == ({"id": "me/bench", "task": "clips"}, ["video+text"])
    assert (kept["store"], kept["texts"], kept["seed"], list(kept["rows"])) == ("store", "mine", 1, ["video", "text"])
    assert {name: kept[name] for name in ("items", "queries", "pools", "left_out")} == {
        name: printed[name] for name in ("items", "queries", "pools", "left_out")
    }
    assert str(target) not in (target / "evaluation.json").read_text()


def test_results_of_a_model_that_was_trained_anew_go_and_are_counted(evaluate, folder, copied):
    target = copied("heads")
    evaluate("--save", model=target)
    model = ViMLModel.from_pretrained(target)
    model.fusion.projection.weight.data += 1
    model.save_pretrained(target)
    with pytest.raises(ViMLError, match="of other weights"):
        gather_facts(target, "me/model")
    assert evaluate("--save", "--query", "video", model=target)[2].splitlines()[1] == (
        "removed from it: results of other weights (1)"
    )
    assert [list(one["rows"]) for one in gather_facts(target, "me/model").results] == [["video"]]


def test_a_plot_is_written(evaluate, tmp_path):
    pytest.importorskip("matplotlib")
    assert evaluate("--query", "video", "--plot", tmp_path / "recall.png")[0] == 0
    assert (tmp_path / "recall.png").read_bytes()[:4] == b"\x89PNG"


def refusal(outcome):
    status, out, err = outcome
    assert (status, out) == (2, "")
    (line,) = (line for line in err.splitlines() if line.strip())
    assert line.startswith("viml: ")
    return line


@pytest.mark.parametrize(
    ("words", "where", "message"),
    [
        (["--query", "text"], {"model": "video"}, "a query of text, but this model's queries are made of video"),
        (["--pool-size", 17], {}, "pool_size=17 for 16 items; accepted: 2 to 16"),
        (["--pool-size", 4, "--group-by", "genre"], {}, "give one of them"),
        (["--group-by", "mood"], {}, "without the field mood"),
        (["--split", "dev"], {}, "no item of the split 'dev'; its splits: test (17), train (3)"),
        (["--texts", "yours"], {}, "no texts named 'yours' (mine)"),
        (["--plot", "recall.svg"], {}, "ends in .png"),
        (["--batch-size", 0], {}, "batch_size=0"),
        (["--save"], {"model": "nowhere"}, "nowhere is no folder to keep the figures in"),
        (["--benchmark", "me/bench"], {}, "--benchmark me/bench: give --save too"),
        (["--benchmark", "bench", "--save"], {}, "benchmark 'bench': give OWNER/NAME"),
        ([], {"model": "nowhere"}, "no such model folder"),
        ([], {"model": "store"}, "not a saved ViML model"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(evaluate, words, where, message):
    assert message in refusal(evaluate(*words, **where))


def test_a_store_for_another_model_is_refused_by_name(evaluate, folder, tmp_path):
    narrow = write_store(tmp_path / "narrow", widths={**WIDTHS, "audio": 20}).folder
    for model in ("model", "heads"):
        line = refusal(evaluate(store=narrow, model=model))
        assert "narrow: its audio features have width 20, but" in line
        assert "audio_dim=168" in line
    fingerprints = Store(folder / "store").spec.fingerprints
    other = write_store(tmp_path / "other", fingerprints={**fingerprints, "text": "0" * 64}).folder
    line = refusal(evaluate(store=other))
    assert "other: its text features are by descriptors, which is not the text encoder of" in line
    # Heads alone do not know their encoders, and a model of videos is not concerned with texts.
    assert evaluate(store=other, model="heads")[0] == 0
    published = write_store(tmp_path / "published", encoders="features:youtube8m").folder
    assert "by features:youtube8m, which is not the audio encoder of" in refusal(evaluate(store=published))
    assert evaluate(store=published, model="heads")[0] == 0


def test_damaged_weights_are_named(evaluate, folder, tmp_path):
    shutil.copytree(folder / "heads", folder / "damaged", dirs_exist_ok=True)
    (folder / "damaged" / "model.safetensors").write_bytes(b"no weights")
    assert "damaged: its weights cannot be loaded" in refusal(evaluate(model="damaged"))


def test_a_model_with_a_query_bank_is_corrected_for_hubs_unless_it_is_left_out(folder, figures, evaluate):
    model = ViMLModel.from_pretrained(folder / "heads")
    bank = torch.nn.functional.normalize(torch.randn(20, 16, generator=torch.Generator().manual_seed(0)), dim=-1)
    model.set_query_bank(bank, bank.flip(0))
    model.save_pretrained(folder / "with-bank")
    plain, corrected = figures("--no-hubness-correction", model="with-bank"), figures(model="with-bank")
    heads = figures(model="heads")
    assert [found["hubness_correction"] for found in (heads, plain, corrected)] == [None, False, True]
    assert plain["rows"] == heads["rows"] != corrected["rows"]
    assert plain["hubs"] == heads["hubs"]
    for words, said in ((["--no-hubness-correction"], "not corrected for hubs"), ([], "\ncorrected for hubs")):
        assert said in evaluate(*words, model="with-bank")[1]
