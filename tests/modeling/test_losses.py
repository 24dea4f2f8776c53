"""The losses against plain loops."""

import math

import pytest
import torch
from torch.nn.functional import normalize

from viml_hf import ViMLConfig, ViMLModel
from viml_hf.modeling.loss_viml import info_nce_loss, structure_loss, triplet_loss

# The defaults of ViMLConfig.
TRIPLET = {"margin": 0.1, "num_hardest": 100, "audio_to_query_weight": 3.0, "query_to_audio_weight": 1.0}


@pytest.fixture
def rows():
    generator = torch.Generator().manual_seed(0)
    return [normalize(torch.randn(6, 4, generator=generator), dim=-1) for _ in range(3)]


def test_info_nce_is_the_sum_of_both_directions(rows):
    query, audio, _ = rows
    total = 0.0
    for one, other in ((query, audio), (audio, query)):
        for i in range(6):
            scores = [math.exp(float(one[i] @ other[j]) / 0.03) for j in range(6)]
            total -= math.log(scores[i] / sum(scores)) / 6
    assert info_nce_loss(query, audio, 0.03).item() == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("num_hardest", [1, 3, 100])
def test_triplet_loss(rows, num_hardest):
    query, audio, _ = rows
    total = 0.0
    for one, other, weight in ((query, audio, 1.0), (audio, query, 3.0)):
        for i in range(6):
            match = float(one[i] @ other[i])
            hinges = sorted(max(0.0, 0.1 + float(one[i] @ other[j]) - match) for j in range(6) if j != i)
            hardest = hinges[-num_hardest:]
            total += weight * sum(hardest) / len(hardest) / 6
    found = triplet_loss(query, audio, **{**TRIPLET, "num_hardest": num_hardest})
    assert found.item() == pytest.approx(total, rel=1e-5)


def test_without_negatives_there_is_nothing_to_learn(rows):
    assert triplet_loss(rows[0][:1], rows[1][:1], **TRIPLET).item() == 0
    assert info_nce_loss(rows[0][:1], rows[1][:1], 0.03).item() == 0


def test_structure_loss(rows):
    embeds, base = rows[0], rows[2] * 5
    unit = normalize(base, dim=-1)
    total = 0.0
    for i in range(6):
        for j in range(6):
            for k in range(6):
                wanted = float(unit[i] @ unit[k] - unit[i] @ unit[j])
                actual = float(embeds[i] @ embeds[k] - embeds[i] @ embeds[j])
                if abs(wanted) > 1e-6 and wanted * actual < 0:
                    total += abs(actual)
    assert structure_loss(embeds, base).item() == pytest.approx(total / 6**3, rel=1e-4)
    assert structure_loss(unit, base).item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_are_float32(rows, dtype):
    query, audio, base = (r.to(dtype) for r in rows)
    assert info_nce_loss(query, audio, 0.03).dtype == torch.float32
    assert structure_loss(query, base).dtype == torch.float32


def test_the_model_adds_what_its_config_says():
    torch.manual_seed(0)
    sizes = {"video_dim": 5, "audio_dim": 4, "hidden_size": 16, "projection_dim": 16, "intermediate_size": 32}
    config = ViMLConfig(**sizes, encoder="linear", loss="triplet", query_modalities=["video"])
    model = ViMLModel(config).eval()
    video, audio = torch.randn(6, 3, 5), torch.randn(6, 2, 4)
    output = model(video_features=video, audio_features=audio, return_loss=True)
    expected = triplet_loss(output.query_embeds, output.audio_embeds, **TRIPLET)
    structure = structure_loss(output.query_embeds, video.mean(1)) + structure_loss(output.audio_embeds, audio.mean(1))
    assert output.loss.item() == pytest.approx((expected + 0.2 * structure).item(), rel=1e-5)


def test_a_row_of_weight_three_counts_as_three_equal_rows():
    torch.manual_seed(3)
    query, audio = (torch.nn.functional.normalize(torch.randn(4, 8), dim=-1) for _ in range(2))
    counts = torch.tensor([1, 3, 2, 1])
    copies = torch.arange(4).repeat_interleave(counts)
    loss = 0.0
    for left, right in ((query, audio), (audio, query)):
        scores = (left[copies] @ right[copies].T / 0.1).exp()
        for row, source in enumerate(copies):  # any copy of the match is right
            loss -= (scores[row, copies == source].sum() / scores[row].sum()).log() / len(copies)
    assert info_nce_loss(query, audio, 0.1, counts.float()).item() == pytest.approx(loss.item(), rel=1e-5)
    ones = info_nce_loss(query, audio, 0.1, torch.ones(4))
    torch.testing.assert_close(ones, info_nce_loss(query, audio, 0.1))
