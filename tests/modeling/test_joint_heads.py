"""Heads in a joint space: training-free towers, residual ones that begin there, late fusion."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch.nn import functional as F

from viml_hf import ViMLConfig, ViMLModel
from viml_hf.modeling.modeling_viml_joint import set_centres

WIDTHS = {"video_dim": 8, "text_dim": 8, "audio_dim": 8}


def make(encoder="identity", **options):
    torch.manual_seed(0)
    return ViMLModel(ViMLConfig(**WIDTHS, encoder=encoder, fusion="late", **options)).eval()


def rows(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "video_features": torch.randn(3, 4, 8, generator=generator),
        "text_features": torch.randn(3, 1, 8, generator=generator),
        "audio_features": torch.randn(5, 2, 8, generator=generator),
    }


def mean_of(features):
    return F.normalize(F.normalize(features, dim=-1).mean(1), dim=-1)


@pytest.mark.parametrize("weight", [1.0, 0.4])
@pytest.mark.parametrize("encoder", ["identity", "residual"])
def test_the_score_is_the_weighted_sum_of_cosines(encoder, weight):
    inputs, model = rows(), make(encoder, text_weight=weight)
    video, text, audio = (mean_of(inputs[f"{one}_features"]) for one in ("video", "text", "audio"))
    with torch.no_grad():
        output = model(**inputs)
    assert torch.allclose(output.audio_embeds, audio, atol=1e-6)
    scores = video @ audio.T + weight * (text @ audio.T)
    found = output.query_embeds @ output.audio_embeds.T
    length = (video + weight * text).norm(dim=-1, keepdim=True)
    assert torch.allclose(found * length, scores, atol=1e-6)
    assert torch.equal(found.argsort(-1), scores.argsort(-1))


@pytest.mark.parametrize("encoder", ["identity", "residual"])
@torch.no_grad()
def test_what_is_absent_takes_no_part_bit_for_bit(encoder):
    inputs, model = rows(), make(encoder)
    model.null_text_features.normal_()
    video, text = inputs["video_features"], inputs["text_features"]
    alone = model.get_query_features(video).pooler_output
    masked = model.get_query_features(video, None, text, torch.zeros(3, 1)).pooler_output
    assert torch.equal(alone, masked)
    assert torch.allclose(alone, mean_of(video), atol=1e-6)  # and not a null text beside it
    only_text = model.get_query_features(text_features=text).pooler_output
    assert torch.equal(only_text, model.get_query_features(video, torch.zeros(3, 4), text).pooler_output)
    assert torch.allclose(only_text, mean_of(text), atol=1e-6)


@torch.no_grad()
def test_a_text_that_prefers_nothing_changes_no_ranking_and_one_that_agrees_confirms_it():
    model = make(text_weight=1.0)
    audio = torch.eye(8)[:4, None] + 0.5 * torch.eye(8)[7]
    video = torch.tensor([0.4, 0.3, 0.2, 0.1, 0, 0, 0, 0.2])[None, None]

    def ranking(text):
        output = model(video_features=video, text_features=text[None, None], audio_features=audio)
        return output.logits_per_query[0].argsort(descending=True).tolist()

    assert ranking(torch.eye(8)[7]) == ranking(torch.eye(8)[5]) == [0, 1, 2, 3]
    assert ranking(video[0, 0]) == [0, 1, 2, 3]
    assert ranking(torch.eye(8)[3]) == [3, 0, 1, 2]


@torch.no_grad()
def test_centres_are_taken_from_each_modality(tmp_path):
    inputs, model = rows(), make()
    gap = torch.full((8,), 0.3)
    set_centres(model, audio=gap, video=-gap)
    expected = F.normalize(F.normalize(inputs["audio_features"], dim=-1).mean(1) - gap, dim=-1)
    assert torch.allclose(model.get_audio_features(inputs["audio_features"]).pooler_output, expected, atol=1e-6)
    model.save_pretrained(tmp_path)
    again = ViMLModel.from_pretrained(tmp_path)
    for ours, theirs in zip(model(**inputs).to_tuple(), again(**inputs).to_tuple(), strict=True):
        if isinstance(ours, torch.Tensor):
            assert torch.equal(ours, theirs)
    assert not again.text_tower.centre.any()
    for wrong, modality in ((torch.zeros(7), "audio"), (torch.full((8,), torch.nan), "text"), (gap, "touch")):
        with pytest.raises(ValueError, match=r"A centre of shape .* for \w+, whose tower takes .*: give the mean"):
            set_centres(model, **{modality: wrong})


def test_residual_heads_learn_from_where_they_begin():
    model, inputs = make("residual", dropout=0.0).train(), rows()
    inputs["audio_features"] = inputs["audio_features"][:3]
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(30):
        loss = model(**inputs, return_loss=True).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert sum(p.numel() for p in make().parameters()) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text_dim": 7}, r"encoder='identity' is for features of one joint space, but audio_dim=8.*text_dim=7"),
        ({"hidden_size": 4, "projection_dim": 4}, r"hidden_size=4, projection_dim=4: give equal widths"),
        ({"text_weight": 0}, r"text_weight=0: give a number above 0"),
    ],
)
def test_what_is_no_joint_space_is_refused(options, message):
    with pytest.raises(StrictDataclassError, match=message):
        ViMLConfig(**{**WIDTHS, "encoder": "identity", "fusion": "late", **options})


def test_a_modality_that_takes_no_part_may_have_any_width():
    config = ViMLConfig(**{**WIDTHS, "text_dim": 3}, encoder="identity", query_modalities=["video"])
    assert config.projection_dim == config.hidden_size == 8
