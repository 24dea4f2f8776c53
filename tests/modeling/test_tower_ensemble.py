"""Several towers in the place of one: their cosines are averaged, and each is trained by itself."""

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError

from tests.modeling.test_viml_model import make_batch, make_model
from viml_hf import ViMLConfig
from viml_hf.hub.saved_weights import heads_settings

ENSEMBLE = {"encoder": "mlp", "ensemble_size": 3}
PARTS = {**ENSEMBLE, "fusion": "concatenation", "projection_dim": 96, "text_weight": 0.4}
VIDEO_ONLY = {**ENSEMBLE, "query_modalities": ["video"], "projection_dim": 48}


def member_of(model, number, **config):
    """The model of one tower of each kind."""
    alone = make_model(encoder="mlp", **config)
    weights = {
        name.replace(f"members.{number}.", ""): value
        for name, value in model.state_dict().items()
        if "members." not in name or f"members.{number}." in name
    }
    alone.load_state_dict(weights)
    return alone


@pytest.mark.parametrize(
    ("ensemble", "one"),
    [
        (PARTS, {"fusion": "concatenation", "projection_dim": 32, "text_weight": 0.4}),
        (VIDEO_ONLY, {"query_modalities": ["video"], "projection_dim": 16}),
    ],
)
def test_cosine_and_loss_are_the_means_of_those_of_the_towers(ensemble, one):
    model, batch = make_model(**ensemble), make_batch(rows=6)
    output = model(**batch, return_loss=True)
    alone = [member_of(model, number, **one)(**batch, return_loss=True) for number in range(3)]
    cosines = [each.query_embeds @ each.audio_embeds.T for each in alone]
    assert not torch.allclose(cosines[0], cosines[1], atol=1e-3)
    torch.testing.assert_close(output.query_embeds @ output.audio_embeds.T, torch.stack(cosines).mean(0))
    torch.testing.assert_close(output.query_embeds.norm(dim=1), torch.ones(6))
    torch.testing.assert_close(output.loss, torch.stack([each.loss for each in alone]).mean())


def test_without_text_the_ranking_is_that_of_the_video_ensemble():
    model, batch = make_model(**PARTS), make_batch()
    alone = make_model(**VIDEO_ONLY)
    assert not alone.load_state_dict(model.state_dict(), strict=False).missing_keys
    video = {name: value for name, value in batch.items() if not name.startswith("text")}
    found = model(**video).query_embeds.chunk(2, dim=1)
    assert torch.equal(found[0], alone(**video).query_embeds)
    assert not found[1].any()


def test_hidden_states_and_attentions_stand_side_by_side():
    config = {**VIDEO_ONLY, "encoder": "transformer", "num_hidden_layers": 2, "attn_implementation": "eager"}
    model = make_model(**config)
    output = model.audio_tower(make_batch()["audio_features"], output_hidden_states=True, output_attentions=True)
    assert {state.shape[-1] for state in output.hidden_states} == {48}
    assert {weights.shape[1] for weights in output.attentions} == {3 * model.config.num_attention_heads}


@pytest.mark.parametrize(
    ("config", "hint"),
    [
        ({"ensemble_size": 0}, "ensemble_size=0: give a whole number of at least 1"),
        ({"fusion": "addition"}, 'needs queries of one modality or fusion="concatenation"'),
        ({"encoder": "residual"}, "needs queries of one modality"),
        ({"projection_dim": 256}, "needs projection_dim=96, not 256"),
    ],
)
def test_what_is_no_ensemble_is_refused(config, hint):
    with pytest.raises(StrictDataclassError, match=hint):
        ViMLConfig(**{**PARTS, "hidden_size": 16, **config})


def test_a_model_of_single_towers_keeps_its_checksum():
    assert "ensemble_size" not in heads_settings(ViMLConfig())
    assert heads_settings(make_model(**PARTS).config)["ensemble_size"] == 3
