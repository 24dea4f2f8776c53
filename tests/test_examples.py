import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.pairs import TRAINED, moved_parts, write_pairs
from viml_hf import ViMLForMusicRetrieval
from viml_hf.retrieval.model_loading import load_encoder_and_model
from viml_hf.tagging.tagger_loading import load_tagger

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


def check_resumed(monkeypatch, capsys, script, arguments, output, first, later):
    """Run a script; without its later checkpoints it goes on from the first, to the same bits and figures."""
    run_script(monkeypatch, script, *arguments)
    whole, metrics = load_file(output / "model.safetensors"), capsys.readouterr().out.splitlines()[-1]
    for step in later:
        shutil.rmtree(output / f"checkpoint-{step}")
    assert (output / f"checkpoint-{first}").is_dir()
    run_script(monkeypatch, script, *arguments, "--resume")
    resumed = load_file(output / "model.safetensors")
    assert all(torch.equal(weights, resumed[name]) for name, weights in whole.items())
    assert capsys.readouterr().out.splitlines()[-1] == metrics


def test_train_on_columns(monkeypatch, capsys, tmp_path, store):
    """A run that goes on from its middle ends with the bits of the whole one."""
    store.to_dataset(cache_dir=tmp_path / "cache").save_to_disk(tmp_path / "dataset")
    output = tmp_path / "heads"
    arguments = (tmp_path / "dataset", "-o", output, "--epochs", 2)
    # The first epoch has 4 steps.
    check_resumed(monkeypatch, capsys, "examples/train_on_columns.py", arguments, output, first=3, later=(6, 8))


def test_train_on_media(monkeypatch, capsys, tmp_path):
    """Encoders are trained too, and a run that goes on from its middle ends with the bits of the whole one."""
    arguments, output = [*write_pairs(tmp_path), 2], tmp_path / "model"
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    # The first epoch has 3 steps.
    check_resumed(monkeypatch, capsys, "examples/train_on_media.py", arguments, output, first=2, later=(4, 6))
    assert moved_parts(tmp_path) == TRAINED
    assert type(load_encoder_and_model(output)).__name__ == "MediaEncoder"


@pytest.mark.parametrize("script", ["finetune_with_trainer", "train_on_columns", "train_on_media"])
def test_a_training_script_is_short(script):
    assert len((ROOT / f"examples/{script}.py").read_text().splitlines()) <= 60


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
