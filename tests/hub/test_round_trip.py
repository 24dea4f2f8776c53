"""The example that publishes, loads back and fine-tunes, against a local Hub."""

import re
import runpy
from pathlib import Path

import pytest
import torch

from viml_hf import ViMLForMusicRetrieval, ViMLProcessor

SCRIPT = Path(__file__).resolve().parents[2] / "examples/hub_round_trip.py"
ID = "tester/model"
SMALL = {"hidden_size": 16, "projection_dim": 16, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture
def saved(tmp_path):
    torch.manual_seed(0)
    model = ViMLForMusicRetrieval.from_encoders(**SMALL)
    model.save_pretrained(tmp_path / "saved")
    ViMLProcessor.from_encoders().save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def run(monkeypatch, *words):
    monkeypatch.setattr("sys.argv", [str(SCRIPT), *map(str, words)])
    runpy.run_path(str(SCRIPT), run_name="__main__")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_publish_load_and_fine_tune_from_the_hub(connected_hub, monkeypatch, capsys, saved, tmp_path):
    # Few files are enough for one process: spawned ones would cost more than they do.
    monkeypatch.setattr("os.cpu_count", lambda: 1)
    output = tmp_path / "tuned"
    run(monkeypatch, saved, ID, "-o", output, "--pairs", 8, "--epochs", 2, "--private")
    printed = capsys.readouterr().out

    repo = connected_hub.repos[ID]
    assert repo.private
    assert repo.files["model.safetensors"] == (saved / "model.safetensors").read_bytes()
    rankings = re.findall(r"^(?:recommender|pipeline): +(\[.*\])$", printed, flags=re.MULTILINE)
    assert len(rankings) == 2
    assert rankings[0] == rankings[1]
    assert rankings[0].count(".m4a") == 3
    assert "eval_R@1" in printed

    # Fine-tuned from what was published: of its size, which is not the script's own, and no longer the same.
    before, after = (ViMLForMusicRetrieval.from_pretrained(folder).viml for folder in (saved, output))
    assert after.config.hidden_size == SMALL["hidden_size"]
    distances = [
        (a - b).norm() / (b.norm() + 1e-6) for a, b in zip(after.parameters(), before.parameters(), strict=True)
    ]
    assert max(distances) > 0
    assert torch.stack(distances).median() < 0.5


def test_nothing_is_tuned_if_it_cannot_be_published(connected_hub, saved, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(ValueError, match=r"nothing was published.*401|401.*nothing was published"):
        run(monkeypatch, saved, ID, "-o", tmp_path / "tuned")
    assert not (tmp_path / "tuned").exists()
    assert connected_hub.repos == {}
