"""What must hold for every tower, fusion and query: padding, batches, order, absent inputs, reloads, gradients."""

import pytest
import torch

from viml_hf import ViMLConfig, ViMLModel

SIZES = {"video_dim": 12, "audio_dim": 14, "text_dim": 10, "hidden_size": 32, "projection_dim": 32}
SMALL = {**SIZES, "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 32}
VARIANTS = {
    "paper": {},
    "cls": {"pooling": "cls"},
    "sinusoidal": {"position_embedding": "sinusoidal"},
    "no positions": {"position_embedding": "none"},
    "mlp towers": {"encoder": "mlp", "fusion": "addition"},
    "linear towers": {"encoder": "linear", "fusion": "linear", "loss": "triplet"},
    "mlp fusion": {"fusion": "mlp", "learned_temperature": True},
    "parts": {"fusion": "concatenation"},
    "mlp parts": {"fusion": "concatenation", "encoder": "mlp", "projection_dim": 64},
    "ensemble": {"encoder": "mlp", "query_modalities": ["video"], "ensemble_size": 3, "projection_dim": 96},
    "ensemble of parts": {"fusion": "concatenation", "ensemble_size": 2, "projection_dim": 128},
    "video only": {"query_modalities": ["video"]},
    "text only": {"query_modalities": ["text"]},
    "other widths": {"projection_dim": 16, "query_modalities": ["video"]},
    "zero null": {"null_text": "zero"},
}


def make_model(**config):
    torch.manual_seed(0)
    model = ViMLModel(ViMLConfig(**{**SMALL, **config})).eval()
    model.set_null_text(torch.randn(10))
    return model


def make_batch(batch=4, video=5, text=1, audio=7, seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = {}
    for modality, width, length in (("video", 12, video), ("text", 10, text), ("audio", 14, audio)):
        inputs[f"{modality}_features"] = torch.randn(batch, length, width, generator=generator)
        inputs[f"{modality}_attention_mask"] = torch.ones(batch, length, dtype=torch.long)
    inputs["video_attention_mask"][1::2, -2:] = 0
    inputs["audio_attention_mask"][::2, -3:] = 0
    return inputs


def embeds(model, inputs):
    with torch.no_grad():
        output = model(**inputs)
    return output.query_embeds, output.audio_embeds


def assert_same(one, two, atol=1e-5):
    for a, b in zip(one, two, strict=True):
        torch.testing.assert_close(a, b, atol=atol, rtol=0)


@pytest.fixture(params=list(VARIANTS))
def model(request):
    return make_model(**VARIANTS[request.param])


def test_embeddings_are_unit_vectors(model):
    for rows in embeds(model, make_batch()):
        torch.testing.assert_close(rows.norm(dim=-1), torch.ones(4))


@pytest.mark.parametrize("garbage", [1e4, float("nan"), float("inf")])
def test_padding_may_hold_anything(model, garbage):
    inputs = make_batch()
    padded = {}
    for modality in ("video", "text", "audio"):
        features, mask = inputs[f"{modality}_features"], inputs[f"{modality}_attention_mask"]
        extra = torch.full((4, 3, features.shape[-1]), garbage)
        features = features.masked_fill(~mask.bool()[..., None], garbage)
        padded[f"{modality}_features"] = torch.cat([features, extra], dim=1)
        padded[f"{modality}_attention_mask"] = torch.cat([mask, mask.new_zeros(4, 3)], dim=1)
    assert_same(embeds(model, padded), embeds(model, inputs), atol=1e-6)


def test_batch_equals_single(model):
    inputs = make_batch()
    together = embeds(model, inputs)
    for row in range(4):
        alone = embeds(model, {name: value[row : row + 1] for name, value in inputs.items()})
        assert_same(alone, [rows[row : row + 1] for rows in together])


@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "none"])
def test_order_of_the_segments_matters_with_positions(positions):
    model = make_model(position_embedding=positions)
    if positions == "learned":
        torch.nn.init.normal_(model.video_tower.position_embedding.weight)
        torch.nn.init.normal_(model.audio_tower.position_embedding.weight)
    inputs = {n: v for n, v in make_batch().items() if "mask" not in n}
    turned = {n: v.flip(1) if n != "text_features" else v for n, v in inputs.items()}
    for one, two in zip(embeds(model, inputs), embeds(model, turned), strict=True):
        assert ((one - two).abs().max() < 1e-5) == (positions == "none")


def test_a_missing_mask_means_all_valid(model):
    inputs = {n: v for n, v in make_batch().items() if "mask" not in n}
    masks = {n.replace("features", "attention_mask"): torch.ones(v.shape[:2]) for n, v in inputs.items()}
    assert_same(embeds(model, inputs), embeds(model, {**inputs, **masks}), atol=1e-6)


@pytest.mark.parametrize("modality", ["video", "text", "audio"])
def test_rows_without_anything_are_finite_and_leave_the_others_alone(model, modality):
    inputs = make_batch()
    full = embeds(model, inputs)
    inputs[f"{modality}_attention_mask"][2] = 0
    masked = embeds(model, inputs)
    others = [0, 1, 3]
    assert_same([rows[others] for rows in masked], [rows[others] for rows in full], atol=1e-6)
    assert all(torch.isfinite(rows).all() for rows in masked)
    loss = model(**inputs, return_loss=True).loss
    loss.backward()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())
    if modality == "audio":
        assert not masked[1][2].any()


@pytest.mark.parametrize("null_text", ["stored", "zero"])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("fusion", ["transformer", "mlp", "linear", "addition"])
def test_a_dropped_text_is_no_text_bit_for_bit(fusion, pooling, null_text):
    model = make_model(fusion=fusion, pooling=pooling, null_text=null_text)
    inputs = make_batch(text=3)
    inputs["text_attention_mask"][[1, 3]] = 0
    video = {n: v for n, v in inputs.items() if n.startswith("video")}
    none_at_all = model.get_query_features(**video).pooler_output
    mixed, _ = embeds(model, inputs)
    assert torch.equal(mixed[[1, 3]], none_at_all[[1, 3]])
    assert not torch.allclose(mixed[[0, 2]], none_at_all[[0, 2]], atol=1e-3)
    other_text = {**inputs, "text_features": torch.full_like(inputs["text_features"], float("nan"))}
    other_text["text_attention_mask"] = torch.zeros_like(inputs["text_attention_mask"])
    assert torch.equal(embeds(model, other_text)[0], none_at_all)


def test_the_stored_null_text_decides_what_no_text_is():
    inputs = {n: v for n, v in make_batch().items() if n.startswith("video")}
    for null_text, matters in (("stored", True), ("zero", False)):
        model = make_model(null_text=null_text)
        before = model.get_query_features(**inputs).pooler_output
        model.set_null_text(torch.randn(10))
        assert torch.equal(model.get_query_features(**inputs).pooler_output, before) != matters


def test_a_text_alone_is_a_query():
    model, inputs = make_model(), make_batch()
    text = {n: v for n, v in inputs.items() if n.startswith("text")}
    alone = model.get_query_features(**text).pooler_output
    inputs["video_attention_mask"][:] = 0
    assert torch.equal(embeds(model, inputs)[0], alone)


def test_a_reloaded_model_gives_the_same_bits(model, tmp_path):
    inputs = make_batch()
    model.save_pretrained(tmp_path)
    reloaded = ViMLModel.from_pretrained(tmp_path)
    for one, two in zip(embeds(reloaded, inputs), embeds(model, inputs), strict=True):
        assert torch.equal(one, two)


def test_negatives_receive_gradient(model):
    inputs = make_batch()
    inputs["audio_features"].requires_grad_()
    output = model(**inputs)
    # The loss of query 0 alone: what it says about the music of the others.
    loss = torch.nn.functional.cross_entropy(output.logits_per_query[:1], torch.tensor([0]))
    loss.backward()
    assert (inputs["audio_features"].grad.flatten(1).abs().sum(1) > 0).all()


def test_eager_and_sdpa_agree(model, tmp_path):
    model.save_pretrained(tmp_path)
    found = [
        embeds(ViMLModel.from_pretrained(tmp_path, attn_implementation=kind), make_batch())
        for kind in ("eager", "sdpa")
    ]
    assert_same(*found)


def test_gradient_checkpointing_changes_no_gradient(model):
    if model.config.encoder == "linear":
        pytest.skip("the linear stack has no layers worth checkpointing")
    gradients = []
    for checkpointing in (False, True):
        model.zero_grad()
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.train()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        model(**make_batch(), return_loss=True).loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1])
    assert_same(*gradients, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_stays_close(model, dtype, tmp_path):
    inputs = make_batch()
    whole = embeds(model, inputs)
    model.save_pretrained(tmp_path)
    half = ViMLModel.from_pretrained(tmp_path, dtype=dtype)
    assert next(half.audio_tower.parameters()).dtype == dtype
    if half.log_temperature is not None:
        assert half.log_temperature.dtype == torch.float32
    for rows, expected in zip(embeds(half, inputs), whole, strict=True):
        assert rows.dtype == torch.float32
        assert torch.nn.functional.cosine_similarity(rows, expected).min() > 0.99
    output = half(**inputs, return_loss=True)
    assert output.loss.dtype == torch.float32
    torch.testing.assert_close(output.loss, model(**inputs, return_loss=True).loss, atol=1.5, rtol=0.1)


SLOW_TO_COMPILE = [pytest.param(variant, marks=pytest.mark.slow) for variant in ("cls", "mlp towers")]


@pytest.mark.parametrize("variant", ["paper", *SLOW_TO_COMPILE])
def test_compiles(variant):
    model = make_model(**VARIANTS[variant])
    compiled = torch.compile(model, backend="aot_eager")
    assert_same(embeds(compiled, make_batch()), embeds(model, make_batch()))


@pytest.mark.parametrize(
    ("fusion", "layers", "parameters"),
    [
        ("addition", 2, 0),
        ("linear", 2, 131_328),
        ("mlp", 2, 1_575_168),
        ("transformer", 1, 1_446_400),
        ("transformer", 2, 2_761_472),
    ],
)
def test_fusion_parameter_counts(fusion, layers, parameters):
    model = ViMLModel(ViMLConfig(fusion=fusion, num_fusion_layers=layers))
    assert sum(p.numel() for p in model.fusion.parameters()) == parameters


def test_tower_parameter_counts():
    model = ViMLModel(ViMLConfig(position_embedding="none"))
    for tower in (model.video_tower, model.text_tower):
        assert sum(p.numel() for p in tower.parameters()) == 131_328 + 2 * 1_315_072


@pytest.mark.parametrize(
    ("config", "inputs", "message"),
    [
        ({}, {"video_features": (4, 5, 11)}, r"video_features has shape \(4, 5, 11\).*12.*video_dim"),
        ({}, {"video_features": (4, 5, 12), "video_attention_mask": (4, 6)}, r"attention_mask has shape \(4, 6\)"),
        ({}, {"video_features": (1, 33, 12)}, r"33 rows.*max_position_embeddings=32"),
        ({}, {}, "Nothing to embed"),
        ({"query_modalities": ["video"]}, {"text_features": (1, 1, 10)}, r"query is empty.*video"),
        ({}, {"video_features": (1, 5, 12), "return_loss": ()}, "return_loss=True"),
    ],
)
def test_what_cannot_be_embedded_is_refused(config, inputs, message):
    given = {name: torch.ones(shape) if shape else True for name, shape in inputs.items()}
    with pytest.raises(ValueError, match=message):
        make_model(**config)(**given)


def test_a_null_text_of_another_width_is_refused():
    with pytest.raises(ValueError, match="null text"):
        make_model().set_null_text(torch.zeros(11))


def test_a_modality_that_is_no_part_of_the_query_is_not_looked_at():
    model, inputs = make_model(query_modalities=["video"]), make_batch()
    without = {n: v for n, v in inputs.items() if not n.startswith("text")}
    inputs["text_features"][:] = float("nan")
    assert_same(embeds(model, inputs), embeds(model, without), atol=0)


def test_a_learned_temperature_is_kept_in_its_range():
    model = make_model(learned_temperature=True)
    assert model.temperature.item() == pytest.approx(0.03)
    for value, kept in ((-20.0, 0.005), (5.0, 1.0)):
        model.log_temperature.data.fill_(value)
        assert model.temperature.item() == pytest.approx(kept)
    model = make_model(learned_temperature=True)
    model(**make_batch(), return_loss=True).loss.backward()
    assert model.log_temperature.grad.abs() > 0
