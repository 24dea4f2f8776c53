"""What ViMLModel's output is made of. What must hold for every tower and fusion is in `test_invariants.py`."""

import pytest
import torch
from torch.nn.functional import normalize

from tests.modeling.tiny import HEADS
from viml_hf import ViMLConfig, ViMLModel
from viml_hf.modeling.loss_viml import info_nce_loss

WIDTHS = {"video": 12, "text": 10, "audio": 14}


def make_model(**config):
    torch.manual_seed(0)
    widths = {f"{modality}_dim": width for modality, width in WIDTHS.items()}
    model = ViMLModel(ViMLConfig(**{**widths, **HEADS, "dropout": 0.0, **config})).eval()
    model.set_null_text(torch.randn(10))
    return model


def make_batch(rows=4, video=3, text=2, audio=5):
    generator = torch.Generator().manual_seed(1)
    lengths = {"video": video, "text": text, "audio": audio}
    return {
        f"{modality}_features": torch.randn(rows, length, WIDTHS[modality], generator=generator)
        for modality, length in lengths.items()
    }


def with_garbage(batch, garbage):
    """Two rows more per sequence and one sequence without a row, all of them garbage under the mask."""
    padded = {}
    for modality, width in WIDTHS.items():
        features = batch[f"{modality}_features"]
        mask = torch.ones(len(features), features.shape[1] + 2, dtype=torch.long)
        mask[:, -2:] = 0
        mask[1] = 0
        features = torch.cat([features, torch.zeros(len(features), 2, width)], dim=1)
        padded[f"{modality}_features"] = features.masked_fill(~mask.bool()[..., None], garbage)
        padded[f"{modality}_attention_mask"] = mask
    return padded


@pytest.mark.parametrize("queries", [["video", "text"], ["video"], ["text"]], ids="+".join)
@pytest.mark.parametrize("loss", ["info_nce", "triplet"])
@pytest.mark.parametrize("encoder", ["transformer", "mlp", "linear"])
@pytest.mark.parametrize("fusion", ["transformer", "mlp", "linear", "addition", "concatenation"])
def test_every_combination_trains_all_of_its_weights(encoder, fusion, loss, queries):
    model = make_model(encoder=encoder, fusion=fusion, loss=loss, query_modalities=queries).train()
    model(**make_batch(rows=8), return_loss=True).loss.backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    # A lone key has nobody to compete with: queries and keys of a fusion's attention over one vector are idle, and
    # so are key biases anywhere, and positions beyond the longest sequence.
    idle = [name for name in idle if not (name.startswith("fusion") and ("q_proj" in name or "k_proj" in name))]
    assert [name for name in idle if not name.endswith("k_proj.bias")] == []


@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"fusion": "concatenation"},
        {"pooling": "cls"},
        {"encoder": "mlp", "loss": "triplet"},
        {"encoder": "linear", "loss": "triplet"},
    ],
    ids=str,
)
def test_garbage_under_the_mask_changes_neither_loss_nor_gradients(config, garbage):
    found = []
    for value in (0.0, garbage):
        model = make_model(**config)
        output = model(**with_garbage(make_batch(), value), return_loss=True)
        output.loss.backward()
        found.append([output.loss, *(p.grad for p in model.parameters() if p.grad is not None)])
    for clean, dirty in zip(*found, strict=True):
        assert torch.isfinite(clean).all()
        assert torch.equal(clean, dirty)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int32, torch.float32, torch.bfloat16])
def test_masks_of_any_dtype_mean_the_same(dtype):
    model, batch = make_model(), with_garbage(make_batch(), float("nan"))
    others = {name: value.to(dtype) if "mask" in name else value for name, value in batch.items()}
    one, two = model(**batch, return_loss=True), model(**others, return_loss=True)
    assert torch.equal(one.query_embeds, two.query_embeds)
    assert torch.equal(one.audio_embeds, two.audio_embeds)
    assert torch.equal(one.loss, two.loss)


@pytest.mark.parametrize("temperature", [0.03, 0.5])
def test_logits_and_loss_follow_from_the_embeddings(temperature):
    model, batch = make_model(temperature=temperature), make_batch()
    output = model(**batch, return_loss=True)
    cosine = normalize(output.query_embeds, dim=-1) @ normalize(output.audio_embeds, dim=-1).T
    torch.testing.assert_close(output.logits_per_query, cosine / temperature)
    assert torch.equal(output.logits_per_audio, output.logits_per_query.T)
    expected = info_nce_loss(output.query_embeds, output.audio_embeds, temperature)
    torch.testing.assert_close(output.loss, expected)
    assert model(**batch).loss is None


@pytest.mark.parametrize("fusion", ["transformer", "addition"])
def test_the_loss_without_text_is_that_of_the_same_videos_alone(fusion):
    model, batch = make_model(textless_loss_weight=0.5, fusion=fusion), make_batch()
    output = model(**batch, return_loss=True)
    video = {name: value for name, value in batch.items() if not name.startswith("text")}
    alone = model(**video, return_loss=True)
    torch.testing.assert_close(alone.loss, info_nce_loss(alone.query_embeds, alone.audio_embeds, 0.03))
    both = info_nce_loss(output.query_embeds, output.audio_embeds, 0.03)
    torch.testing.assert_close(output.loss, both + 0.5 * alone.loss)


def test_the_temperature_in_use_is_the_learned_one():
    model = make_model(learned_temperature=True)
    model.log_temperature.data.fill_(-1.0)
    output = model(**make_batch(), return_loss=True)
    temperature = torch.tensor(-1.0).exp()
    torch.testing.assert_close(output.loss, info_nce_loss(output.query_embeds, output.audio_embeds, temperature))
    cosine = output.query_embeds @ output.audio_embeds.T
    torch.testing.assert_close(output.logits_per_query, cosine / temperature)


def test_getters_give_what_forward_gives():
    model, batch = make_model(), make_batch()
    output = model(**batch)
    query = {name: batch[name] for name in ("video_features", "text_features")}
    assert torch.equal(model.get_query_features(**query).pooler_output, output.query_embeds)
    assert torch.equal(model.get_audio_features(batch["audio_features"]).pooler_output, output.audio_embeds)
    assert torch.equal(model(audio_features=batch["audio_features"]).audio_embeds, output.audio_embeds)
    assert model(audio_features=batch["audio_features"]).query_embeds is None
    as_tuple = model(**batch, return_dict=False)
    assert isinstance(as_tuple, tuple)
    assert torch.equal(as_tuple[0], output.logits_per_query)


def test_hidden_states_and_attentions_are_those_of_the_fusion():
    model = make_model(attn_implementation="eager", num_fusion_layers=3)
    output = model(**make_batch(), output_hidden_states=True, output_attentions=True)
    assert [tuple(state.shape) for state in output.hidden_states] == [(4, 1, 16)] * 4
    assert [tuple(weights.shape) for weights in output.attentions] == [(4, 2, 1, 1)] * 3
    assert [tuple(w.shape) for w in output.audio_model_output.attentions] == [(4, 2, 5, 5)] * 2
    torch.testing.assert_close(output.audio_model_output.attentions[0].sum(-1), torch.ones(4, 2, 5))
    torch.testing.assert_close(normalize(output.hidden_states[-1][:, 0], dim=-1), output.query_embeds)


@pytest.mark.parametrize("encoder", ["mlp", "linear"])
def test_towers_without_attention_pool_the_mean_of_the_valid_rows(encoder):
    model, batch = make_model(encoder=encoder), make_batch()
    mask = torch.tensor([[1, 1, 0, 1, 0]] * 4)
    shorter = batch["audio_features"][:, [0, 1, 3]]
    embeds = model.get_audio_features(batch["audio_features"], mask).pooler_output
    torch.testing.assert_close(embeds, model.get_audio_features(shorter).pooler_output)


def test_the_linear_stack_halves_its_widths():
    model = make_model(encoder="linear", num_hidden_layers=2, audio_num_hidden_layers=3, intermediate_size=64)
    shapes = {
        name: [tuple(layer.weight.shape) for layer in (tower.projection, *tower.layers)]
        for name, tower in (("video", model.video_tower), ("audio", model.audio_tower))
    }
    assert shapes == {"video": [(64, 12), (16, 64)], "audio": [(64, 14), (32, 64), (16, 32)]}


def test_the_linear_stack_normalises_a_batch_in_training_and_a_null_by_what_it_saw():
    model = make_model(encoder="linear")
    batch = make_batch(rows=32, text=1)
    model.train()
    pooled = model.audio_tower(batch["audio_features"]).pooler_output
    torch.testing.assert_close(pooled.mean(0), torch.zeros(16), atol=1e-5, rtol=0)
    assert not torch.allclose(model.audio_tower.batch_norm.running_mean, torch.zeros(16))
    one = model.audio_tower(batch["audio_features"][:1]).pooler_output
    seen = model.audio_tower.batch_norm.running_mean.clone()
    torch.testing.assert_close(one, model.eval().audio_tower(batch["audio_features"][:1]).pooler_output)
    assert torch.equal(model.audio_tower.batch_norm.running_mean, seen)


def test_one_video_can_be_asked_about_with_many_texts():
    model, batch = make_model(), make_batch()
    one = model.get_query_features(batch["video_features"][:1], text_features=batch["text_features"]).pooler_output
    many = model.get_query_features(
        batch["video_features"][:1].expand(4, -1, -1), text_features=batch["text_features"]
    ).pooler_output
    torch.testing.assert_close(one, many, atol=1e-6, rtol=0)


def test_batches_that_do_not_fit_are_refused():
    batch = make_batch()
    with pytest.raises(ValueError, match=r"video_features.*2.*text_features.*4"):
        make_model().get_query_features(batch["video_features"][:2], text_features=batch["text_features"])
