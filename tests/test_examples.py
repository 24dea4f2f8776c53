import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from viml_hf import ViMLForMusicRetrieval
from viml_hf.tagging.tagger import load_tagger

ROOT = Path(__file__).resolve().parents[1]


def run_script(monkeypatch, name, *arguments):
    monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
    runpy.run_path(str(ROOT / name), run_name="__main__")


def test_quickstart(monkeypatch, capsys):
    run_script(monkeypatch, "examples/quickstart.py", "--pairs", 3)
    out = capsys.readouterr().out
    assert "(2, 3)" in out
    assert [line[:2] for line in out.splitlines()[-3:]] == ["1.", "2.", "3."]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_finetune_with_trainer(monkeypatch, capsys, tmp_path):
    # Two extractions are enough for one process: spawned ones would cost more than they do.
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    run_script(monkeypatch, "examples/finetune_with_trainer.py", "-o", tmp_path, "--pairs", 8, "--epochs", 2)
    assert "'eval_R@1'" in capsys.readouterr().out
    assert ViMLForMusicRetrieval.from_pretrained(tmp_path).config.freeze_encoders


def test_train_on_columns(monkeypatch, capsys, tmp_path, store):
    """A run that goes on from its middle ends with the bits of the whole one."""
    store.to_dataset(cache_dir=tmp_path / "cache").save_to_disk(tmp_path / "dataset")
    arguments = (tmp_path / "dataset", "-o", tmp_path / "heads", "--epochs", 2)
    run_script(monkeypatch, "examples/train_on_columns.py", *arguments)
    whole, metrics = load_file(tmp_path / "heads/model.safetensors"), capsys.readouterr().out.splitlines()[-1]
    for step in (6, 8):
        shutil.rmtree(tmp_path / f"heads/checkpoint-{step}")
    assert (tmp_path / "heads/checkpoint-3").is_dir()  # of 4 steps of the first epoch
    run_script(monkeypatch, "examples/train_on_columns.py", *arguments, "--resume")
    resumed = load_file(tmp_path / "heads/model.safetensors")
    assert all(torch.equal(weights, resumed[name]) for name, weights in whole.items())
    assert capsys.readouterr().out.splitlines()[-1] == metrics


@pytest.mark.parametrize("script", ["finetune_with_trainer", "train_on_columns"])
def test_a_training_script_is_short(script):
    assert len((ROOT / f"examples/{script}.py").read_text().splitlines()) < 60


def test_train_tagger(monkeypatch, capsys, tmp_path):
    run_script(monkeypatch, "examples/train_tagger.py", "-o", tmp_path, "--tracks", 10, "--epochs", 1, "--small")
    assert "'eval_auroc'" in capsys.readouterr().out
    assert list(load_tagger(str(tmp_path)).tag(np.zeros(22050, np.float32)).confidences) == [
        "genre",
        "mood",
        "instrument",
    ]


def test_the_training_benchmark_runs(monkeypatch, capsys):
    module = runpy.run_path(str(ROOT / "benchmarks/training_step.py"))
    module["main"].__globals__.update(BATCH=4, ROWS=3, WIDTH=8)
    monkeypatch.setattr(sys, "argv", ["training_step.py", "--rounds", "1", "--steps", "1"])
    module["main"]()
    assert "median ratio" in capsys.readouterr().out


def test_the_table_of_benchmarks_names_what_was_skipped_and_what_failed(monkeypatch, capsys, tmp_path):
    for words, cell, status in (
        ([], "| skipped: no data, give --musiccaps |", 0),
        (["--musiccaps", tmp_path / "absent.csv"], "| failed: ", 1),
    ):
        with pytest.raises(SystemExit) as stopped:
            run_script(monkeypatch, "benchmarks/run_all.py", "--quick", "--only", "describing_musiccaps", *words)
        assert stopped.value.code == status
        assert cell in capsys.readouterr().out
