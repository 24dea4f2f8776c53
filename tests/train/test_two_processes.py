"""The training scripts of `examples/` started as two processes, in the ways people start them."""

import functools
import io
import os
import re
import runpy
import subprocess
import sys
from contextlib import redirect_stdout
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.pairs import TRAINED, moved_parts, write_pairs
from tests.stores import write_store
from viml_hf import ViMLConfig
from viml_hf.retrieval.model_loading import load_encoder_and_model

pytest.importorskip("datasets")
ROOT = Path(__file__).resolve().parents[2]
# Dropout, which differs between processes, is left out: only then can two of them equal one.
SCRIPT = """
import functools, runpy, sys, viml_hf
viml_hf.ViMLConfig = functools.partial(viml_hf.ViMLConfig, dropout=0.0)
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
TORCHRUN = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
# Its --cpu starts one process; without a GPU, --multi_gpu is what starts several.
ACCELERATE = ["accelerate.commands.accelerate_cli", "launch", "--multi_gpu", "--num_processes", "2"]


def launch(launcher, folder, *arguments):
    """What a script printed, started by a launcher's module."""
    (folder / "launched.py").write_text(SCRIPT)
    command = [sys.executable, "-m", *launcher, folder / "launched.py", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment |= {"ACCELERATE_USE_CPU": "true", "HF_DATASETS_CACHE": str(folder / "cache")}
    result = subprocess.run(
        [str(part) for part in command], env=environment, cwd=folder, capture_output=True, text=True, timeout=120
    )
    if result.returncode:
        raise RuntimeError(result.stderr)
    return result.stdout


@pytest.fixture(scope="module")
def columns(tmp_path_factory):
    """43 items: 32 to train on, whole batches of 2 * 8, and 11 to evaluate, which are not."""
    folder = tmp_path_factory.mktemp("columns")
    write_store(folder / "store", 43).to_dataset(cache_dir=folder / "cache").save_to_disk(folder / "dataset")
    arguments = [ROOT / "examples/train_on_columns.py", folder / "dataset", "--epochs", 2]
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(io.StringIO()) as printed:
        patch.setattr("viml_hf.ViMLConfig", functools.partial(ViMLConfig, dropout=0.0))
        patch.setattr(sys, "argv", [str(part) for part in (*arguments, "-o", folder / "one", "--batch-size", 16)])
        runpy.run_path(sys.argv[0], run_name="__main__")
    return folder, arguments, printed.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [TORCHRUN, ACCELERATE])
def test_columns_on_two_processes_equal_one_with_the_whole_batch(columns, tmp_path, launcher):
    folder, arguments, printed = columns
    found = launch(launcher, tmp_path, *arguments, "-o", tmp_path / "two", "--batch-size", 8)
    assert found.splitlines()[-1] == printed.splitlines()[-1]  # each item of the evaluation is ranked once
    assert "eval_MR" in found
    one, two = (load_file(path / "model.safetensors") for path in (folder / "one", tmp_path / "two"))
    for name, weights in one.items():
        torch.testing.assert_close(two[name], weights, atol=1e-4, rtol=0)  # Adam moves each by up to 2e-3


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [TORCHRUN, ACCELERATE])
def test_media_on_two_processes(tmp_path, launcher):
    """Encoders are trained too; the last batches are filled up, and each item of the evaluation is ranked once."""
    arguments = [*write_pairs(tmp_path), 1]
    found = launch(launcher, tmp_path, ROOT / "examples/train_on_media.py", *arguments).splitlines()[-1]
    assert moved_parts(tmp_path) == TRAINED
    ranked_first = 6 * float(re.search(r"'eval_R@1': ([\d.]+)", found)[1]) / 100
    assert ranked_first == pytest.approx(round(ranked_first), abs=0.01)  # a share of 6 items, none twice
    assert type(load_encoder_and_model(tmp_path / "model")).__name__ == "MediaEncoder"  # with its processor
