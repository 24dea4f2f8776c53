import runpy
import sys
from pathlib import Path

import pytest

from viml_hf import ViMLForMusicRetrieval

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


def test_the_training_benchmark_runs(monkeypatch, capsys):
    module = runpy.run_path(str(ROOT / "benchmarks/training_step.py"))
    module["main"].__globals__.update(BATCH=4, ROWS=3, WIDTH=8)
    monkeypatch.setattr(sys, "argv", ["training_step.py", "--rounds", "1", "--steps", "1"])
    module["main"]()
    assert "median ratio" in capsys.readouterr().out
