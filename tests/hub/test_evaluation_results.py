import json

import pytest
import yaml
from huggingface_hub import parse_eval_result_entries

from tests.hub.cards import result
from tests.modeling.tiny import HEADS
from viml_hf import ViMLConfig, ViMLError, ViMLModel
from viml_hf.hub.evaluation_results import (
    EVALUATION_FILE,
    benchmark_files,
    model_index,
    parse_benchmark,
    read_evaluations,
    save_evaluation,
)


@pytest.fixture
def heads(tmp_path):
    model = ViMLModel(ViMLConfig(**HEADS))
    model.save_pretrained(tmp_path)
    return tmp_path, model


def summary(**changes):
    return {**result(), "model": "somewhere/else", "store": "/home/me/stores/mine", **changes}


def save(heads, benchmark=None, **changes):
    folder, model = heads
    return save_evaluation(folder, model.config, summary(**changes), benchmark)


def test_what_is_kept_names_no_path_and_has_the_weights(heads):
    folder, _ = heads
    save(heads)
    (kept,) = read_evaluations(folder)
    assert (kept["store"], len(kept["weights"])) == ("mine", 64)
    assert "model" not in kept
    assert "benchmark" not in kept
    assert kept["rows"] == result()["rows"]
    text = (folder / EVALUATION_FILE).read_text()
    assert "/home" not in text
    assert [path.name for path in folder.glob("*.tmp")] == []


def test_a_newer_result_replaces_an_older_one_of_the_same_and_no_other(heads):
    folder, _ = heads
    row, chance = result()["rows"]["video+text"], {**result()["chance"], "R@1": 1.0}
    save(heads)
    save(heads, chance=chance, seed=1)
    (kept,) = read_evaluations(folder)
    assert (kept["chance"], kept["seed"]) == (chance, 1)
    others = [
        {"store": "/other/theirs"},
        {"items": "the split dev"},
        {"items_sha256": "1" * 64},
        {"texts": "tags"},
        {"pools": {"count": 4, "smallest": 5, "largest": 5, "group_by": None}},
        {"whole_tracks": True},
        {"rows": {"video": row}},
    ]
    for number, changes in enumerate(others, start=2):
        save(heads, **changes)
        assert len(read_evaluations(folder)) == number, changes
    # More queries at once take the place of each of them alone.
    save(heads, rows={"video": row, "video+text": row, "text": row})
    assert [list(one["rows"]) for one in read_evaluations(folder)][-1] == ["video", "video+text", "text"]
    assert len(read_evaluations(folder)) == len(others)


def test_results_of_other_weights_are_removed_and_counted(heads):
    folder, model = heads
    assert save(heads) == save(heads, texts="tags") == 0
    model.fusion.projection.weight.data += 1
    model.save_pretrained(folder)
    assert save(heads, texts="rules") == 2
    assert [one["texts"] for one in read_evaluations(folder)] == ["rules"]


@pytest.mark.parametrize("content", ["{", "{}", '[{"rows": {}}]'])
def test_a_damaged_file_is_named_and_not_overwritten(heads, content):
    folder, _ = heads
    (folder / EVALUATION_FILE).write_text(content)
    with pytest.raises(ViMLError, match=r"evaluation\.json: not .*; delete it, and evaluate with --save"):
        save(heads)
    assert (folder / EVALUATION_FILE).read_text() == content


def test_a_benchmark_gets_one_value_per_kind_of_query_and_the_rest_goes_to_the_head():
    bench = result(benchmark={"id": "me/bench", "task": "clips"}, texts="tags")
    rows = {"video": bench["rows"]["video+text"], **bench["rows"]}
    results = [result(), {**bench, "rows": rows}]
    files = benchmark_files(results)
    assert list(files) == [
        ".eval_results/me-bench-clips-video-text.yaml",
        ".eval_results/me-bench-clips-video.yaml",
    ]
    for query, content in zip(["video+text", "video"], files.values(), strict=True):
        (entry,) = parse_eval_result_entries(yaml.safe_load(content))
        assert (entry.dataset_id, entry.task_id, entry.value) == ("me/bench", "clips", 51.23)
        assert entry.notes.startswith(f"R@10 in percent, query {query}")
        assert ("texts tags" in entry.notes) == ("text" in query)
        assert "51.23 (48.30–54.20)" in entry.notes
    found = {(one.dataset_type, one.metric_type, "query video+text" in one.metric_name) for one in model_index(results)}
    metrics = {"recall_at_1", "recall_at_5", "recall_at_10", "median_rank", "mrr", "mean_log_rank"}
    assert {metric for dataset, metric, _ in found if dataset == "store"} == metrics
    for with_text in (True, False):
        assert {m for d, m, t in found if d == "me/bench" and t == with_text} == metrics - {"recall_at_10"}


def test_a_benchmark_has_one_task_or_a_named_one():
    assert parse_benchmark("me/bench") == {"id": "me/bench", "task": "default"}
    assert parse_benchmark("me/bench:clips") == {"id": "me/bench", "task": "clips"}


@pytest.mark.parametrize("text", ["bench", "me/bench:", "https://hf.co/me/b"])
def test_what_is_no_dataset_on_the_hub_is_refused(text):
    with pytest.raises(ViMLError, match="give OWNER/NAME"):
        parse_benchmark(text)


def test_a_store_of_any_name_gives_a_dataset_type_that_the_hub_takes():
    (one, *_) = model_index([result(store="Mein Korpus, 3.Stück")])
    assert (one.dataset_type, one.dataset_name) == ("mein-korpus-3.st-ck", "Mein Korpus, 3.Stück")
    assert json.dumps(one.metric_value)
