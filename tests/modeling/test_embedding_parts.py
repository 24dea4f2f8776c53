"""Embeddings of a part for the video and one for the text: each ranks by itself, and both together."""

import json

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from torch.nn.functional import normalize

from tests.modeling.test_viml_model import make_batch, make_model
from viml_hf import ViMLConfig, ViMLModel
from viml_hf.evaluation.ranks import retrieval_ranks
from viml_hf.hub.saved_weights import heads_settings
from viml_hf.modeling.embedding_parts import join_parts
from viml_hf.modeling.loss_viml import info_nce_loss
from viml_hf.retrieval.model_loading import heads_fingerprint

PARTS = {"fusion": "concatenation", "encoder": "mlp", "text_weight": 0.4}


def of_modality(batch, *modalities):
    return {name: value for name, value in batch.items() if name.partition("_")[0] in (*modalities, "audio")}


@pytest.mark.parametrize("projection_dim", [32, 16])
def test_without_text_the_ranking_is_that_of_the_video_model_bit_for_bit(projection_dim):
    """Of the model with the same weights, whether or not a tower's width is that of its part."""
    model, batch = make_model(**PARTS, projection_dim=projection_dim), make_batch(rows=50)
    alone = make_model(encoder="mlp", query_modalities=["video"], projection_dim=projection_dim // 2)
    report = alone.load_state_dict(model.state_dict(), strict=False)
    assert not report.missing_keys
    assert all("text" in name for name in report.unexpected_keys)
    found, expected = model(**of_modality(batch, "video")), alone(**of_modality(batch, "video"))
    video_part, text_part = found.query_embeds.chunk(2, dim=1)
    assert torch.equal(video_part, expected.query_embeds)
    assert not text_part.any()
    masked = model(**batch, text_attention_mask=torch.zeros(50, 2))
    assert torch.equal(masked.query_embeds, found.query_embeds)
    with torch.no_grad():
        ranks = [retrieval_ranks(output.query_embeds, output.audio_embeds) for output in (found, expected)]
        with_text = model(**batch)
    assert ranks[0].tolist() == ranks[1].tolist()
    assert ranks[0].tolist() != retrieval_ranks(with_text.query_embeds, with_text.audio_embeds).tolist()
    torch.testing.assert_close(
        found.query_embeds @ found.audio_embeds.T, expected.query_embeds @ expected.audio_embeds.T * 1.4**-0.5
    )


def test_without_text_the_corrected_ranking_is_that_of_the_video_model():
    model, batch = make_model(**PARTS, projection_dim=32), make_batch(rows=50)
    alone = make_model(encoder="mlp", query_modalities=["video"], projection_dim=16)
    assert not alone.load_state_dict(model.state_dict(), strict=False).missing_keys
    ranks = []
    for one in (model, alone):
        output = one(**of_modality(batch, "video"))
        queries, audio = output.query_embeds.detach(), output.audio_embeds.detach()
        both = one(**batch).query_embeds.detach() if one is model else None
        one.set_query_bank(both[:20] if one is model else None, queries[:20])
        corrections = one.query_bank.corrections(audio)[:, 0]
        ranks.append(retrieval_ranks(queries, audio, corrections=corrections.numpy()).tolist())
    assert ranks[0] == ranks[1]
    assert ranks[0] != retrieval_ranks(queries, audio).tolist()


def test_the_cosine_is_the_weighted_mean_of_those_of_the_parts():
    model, batch = make_model(**PARTS), make_batch()
    output = model(**batch)
    cosines = [
        normalize(one, dim=1) @ normalize(other, dim=1).T
        for one, other in zip(output.query_embeds.chunk(2, 1), output.audio_embeds.chunk(2, 1), strict=True)
    ]
    torch.testing.assert_close(output.query_embeds @ output.audio_embeds.T, (cosines[0] + 0.4 * cosines[1]) / 1.4)


def test_a_text_alone_is_the_text_part():
    model, batch = make_model(**PARTS), make_batch()
    video_part, text_part = model(**of_modality(batch, "text")).query_embeds.chunk(2, dim=1)
    assert not video_part.any()
    torch.testing.assert_close(text_part, normalize(model(**batch).query_embeds.chunk(2, dim=1)[1], dim=1))


def test_nothing_has_length_zero():
    assert not join_parts(torch.zeros(2, 3), torch.zeros(2, 3), 0.5).any()


def test_each_part_has_a_loss_of_the_rows_that_it_has():
    """A row without text is in the loss of the videos alone."""
    model, batch = make_model(**PARTS), make_batch()
    weights = torch.tensor([1.0, 0.5, 2.0, 1.0])
    mask = torch.tensor([[1, 1], [0, 0], [1, 1], [1, 1]])
    output = model(**batch, text_attention_mask=mask, sample_weights=weights, return_loss=True)
    embeds = output.query_embeds, output.audio_embeds
    queries, audio = ([normalize(part, dim=1) for part in one.chunk(2, dim=1)] for one in embeds)
    has = [0, 2, 3]
    expected = info_nce_loss(queries[0], audio[0], 0.03, weights)
    expected = expected + info_nce_loss(queries[1][has], audio[1][has], 0.03, weights[has])
    torch.testing.assert_close(output.loss, expected)
    without = model(**of_modality(batch, "video"), return_loss=True)
    without.loss.backward()
    assert all(p.grad is None or not p.grad.any() for name, p in model.named_parameters() if "text" in name)


@pytest.mark.parametrize(
    ("config", "hint"),
    [
        ({"projection_dim": 33}, "even projection_dim, not 33"),
        ({"textless_loss_weight": 1.0}, "textless_loss_weight=1.0 has no effect"),
        ({"text_weight": 0.0}, "text_weight=0.0: give a number above 0"),
    ],
)
def test_what_parts_cannot_be_made_of_is_refused(config, hint):
    with pytest.raises(StrictDataclassError, match=hint):
        ViMLConfig(**{"fusion": "concatenation", **config})


def test_the_weight_of_the_text_is_part_of_a_models_checksum_only_where_it_has_parts():
    assert "text_weight" not in heads_settings(ViMLConfig())
    assert heads_settings(ViMLConfig(fusion="concatenation", text_weight=0.3))["text_weight"] == 0.3


def test_a_model_saved_before_there_were_parts_computes_what_it_did(tmp_path):
    model, batch = make_model(fusion="addition", encoder="mlp"), make_batch()
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["text_weight"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = ViMLModel.from_pretrained(tmp_path)
    assert heads_fingerprint(loaded) == heads_fingerprint(model)
    assert torch.equal(loaded(**batch).logits_per_query, model(**batch).logits_per_query)
