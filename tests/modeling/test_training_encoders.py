"""Encoders inside ViMLForMusicRetrieval in anybody's training script: frozen, partly trained, with LoRA."""

import copy

import pytest
import torch
from transformers import AutoModel, ByT5Tokenizer, Trainer, TrainingArguments

from tests.modeling.tiny import make_inputs, tiny_model
from viml_hf import MediaEncoder, ViMLForMusicRetrieval, ViMLModel


@pytest.fixture
def model():
    return tiny_model("clap")


def rows(count=8, text=True):
    """Items of a data set, a row each; some have no text."""
    inputs = make_inputs("clap")
    items = [{name: value[i % 2] for name, value in inputs.items()} for i in range(count)]
    for i, item in enumerate(items):
        item["input_features"] = item["input_features"] + i
        item["text_attention_mask"] = item["text_attention_mask"] * int(text and i % 3 > 0)
    return items


def collate(items):
    return {name: torch.stack([item[name] for item in items]) for name in items[0]} | {"return_loss": True}


def train(model, folder, **options):
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=2,
        per_device_train_batch_size=4,
        learning_rate=0.05,
        warmup_steps=0,
        use_cpu=True,
        save_strategy="no",
        report_to="none",
        remove_unused_columns=False,
        **options,
    )
    trainer = Trainer(model, arguments, data_collator=collate, train_dataset=rows())
    trainer.train()
    return trainer


def changed(model, before):
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


def state(model):
    return copy.deepcopy(model.state_dict())


def embeds(model):
    """All kinds of queries, and music; "no text" must be the same bits however it is said."""
    inputs = make_inputs("clap")
    without = {name: value for name, value in inputs.items() if name not in ("input_ids", "text_attention_mask")}
    masked = inputs | {"text_attention_mask": torch.zeros_like(inputs["text_attention_mask"])}
    with torch.no_grad():
        outputs = [model(**one) for one in (inputs, without, masked)]
        assert torch.equal(outputs[1].query_embeds, outputs[2].query_embeds)
        windows = model.embed_query(inputs["pixel_values"], inputs["frame_attention_mask"]).pooler_output
        torch.testing.assert_close(windows, outputs[1].query_embeds)
    return [outputs[0].query_embeds, outputs[0].audio_embeds, outputs[1].query_embeds]


def assert_same_embeds(one, other):
    for a, b in zip(embeds(one), embeds(other), strict=True):
        assert torch.equal(a, b)


def with_lora(model):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(
        r=2, target_modules=r"(video|text)_encoder\..*\.(q_proj|v_proj)", modules_to_save=["audio_tower"]
    )
    return peft.get_peft_model(model, config)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_lora_trains_its_own_tensors_and_nothing_else(model, tmp_path, checkpointing):
    adapted = with_lora(model)
    before = state(adapted)
    # Both matrices of LoRA change from the second step on: one of them begins with zeros.
    train(adapted, tmp_path, gradient_checkpointing=checkpointing)
    assert not any(module.training for module in model.audio_encoder.modules())
    trained = {name for name in before if "lora_" in name or ".modules_to_save." in name}
    assert sum("lora_" in name for name in trained) == 2 * 2 * 2
    assert changed(adapted, before) - {"base_model.model.viml.null_text_features"} == trained


def test_reentrant_checkpointing_reaches_adapters_in_the_heads(model):
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=r"viml\..*\.fc1")).train()
    model.gradient_checkpointing_enable({"use_reentrant": True})
    model.enable_input_require_grads()
    adapted(**make_inputs("clap"), return_loss=True).loss.backward()
    assert all(parameter.grad is not None for parameter in adapted.parameters() if parameter.requires_grad)


def test_an_adapter_and_a_merged_model_embed_as_before_they_were_saved(model, tmp_path):
    peft = pytest.importorskip("peft")
    model.save_pretrained(tmp_path / "base")
    untrained = embeds(model)
    adapted = with_lora(model)
    train(adapted, tmp_path).save_model(tmp_path / "adapter")
    adapted.eval()
    assert not torch.equal(embeds(model)[2], untrained[2])
    base = ViMLForMusicRetrieval.from_pretrained(tmp_path / "base")
    again = peft.PeftModel.from_pretrained(base, tmp_path / "adapter")
    assert_same_embeds(again.base_model.model, model)

    for merged in (adapted.merge_and_unload(), again.merge_and_unload()):
        merged.save_pretrained(tmp_path / "merged")
        assert_same_embeds(AutoModel.from_pretrained(tmp_path / "merged"), merged)
        null_text = merged.null_text_base_feature(ByT5Tokenizer())
        assert torch.equal(ViMLModel.from_pretrained(tmp_path / "merged").null_text_features, null_text)


def test_requires_grad_on_the_last_layer_trains_exactly_that(model, tmp_path):
    name, layer = "video_encoder.vision_model.encoder.layers.0", model.video_encoder.vision_model.encoder.layers[0]
    layer.requires_grad_(True)
    for head in model.viml.parameters():
        head.requires_grad_(False)
    before = state(model)
    train(model, tmp_path)
    assert changed(model, before) == {f"{name}.{part}" for part in layer.state_dict()}
    assert model.video_encoder.training
    assert not model.text_encoder.training
    model.eval().save_pretrained(tmp_path)
    again = ViMLForMusicRetrieval.from_pretrained(tmp_path)
    assert not any(parameter.requires_grad for parameter in again.video_encoder.parameters())
    assert_same_embeds(again, model)


def test_a_trained_text_encoder_renews_the_null_text(model, tmp_path):
    model.unfreeze_encoders(["text"])
    for layer in model.text_encoder.text_model.encoder.layers:
        layer.self_attn.dropout = 0.9
    stored = model.viml.null_text_features.clone()
    train(model, tmp_path)
    model.renew_null_text()  # without dropout, though in training
    model.eval()
    assert torch.equal(model.viml.null_text_features, model.null_text_base_feature(ByT5Tokenizer()))
    model.viml.set_null_text(stored)
    before = embeds(model)
    model.freeze_encoders()
    assert all(torch.equal(a, b) for a, b in zip(before, embeds(model), strict=True))
    MediaEncoder(model, None)  # it reads the heads, and so the stored null text
    assert torch.equal(model.viml.null_text_features, model.null_text_base_feature(ByT5Tokenizer()))
    assert not torch.equal(model.viml.null_text_features, stored)
    model.save_pretrained(tmp_path)
    assert_same_embeds(ViMLForMusicRetrieval.from_pretrained(tmp_path), model)


def test_an_absent_text_gives_finite_gradients(model):
    model.unfreeze_encoders(["text"])
    model.train()
    model(**collate(rows(4, text=False))).loss.backward()
    gradients = [parameter.grad for parameter in model.text_encoder.parameters() if parameter.grad is not None]
    assert gradients  # of the null text
    assert all(torch.isfinite(gradient).all() for gradient in gradients)
    assert any(gradient.any() for gradient in gradients)


def test_a_gathered_state_has_the_null_text_of_the_last_step(model, tmp_path):
    model.unfreeze_encoders(["text"])
    model.train()
    with torch.no_grad():
        model.text_encoder.text_projection.weight.mul_(2)
        model(**collate(rows(4)))
    model.save_pretrained(tmp_path, state_dict=model.state_dict())
    renewed = ViMLModel.from_pretrained(tmp_path).null_text_features
    torch.testing.assert_close(renewed, model.null_text_base_feature(ByT5Tokenizer()))


def test_a_checkpoint_without_the_tokens_of_the_empty_string_says_so(model, caplog):
    model.config.null_text_tokens = None
    model.unfreeze_encoders(["text"])
    embeds(model)
    assert "renew_null_text(tokenizer)" in caplog.text
    model.renew_null_text(ByT5Tokenizer())
    assert model.config.null_text_tokens == [1]


def test_frozen_encoders_build_no_graph(model):
    inputs = make_inputs("clap")
    model.enable_input_require_grads()  # as peft does for gradient checkpointing
    model.train()
    features, _ = model.get_video_base_features(inputs["pixel_values"], inputs["frame_attention_mask"])
    assert not features.requires_grad
    features, _ = model.get_video_base_features(inputs["pixel_values"].requires_grad_(True))
    assert features.requires_grad  # somebody asks how a picture matters


def test_freezing_and_unfreezing_by_modality(model):
    model.train()
    model.unfreeze_encoders()
    model.freeze_encoders(["video", "audio"])
    assert [encoder.training for encoder in model.encoders.values()] == [False, True, False]
    model.eval().train()
    assert [encoder.training for encoder in model.encoders.values()] == [False, True, False]
    for wrong in (["vidoe"], "video"):
        with pytest.raises(ValueError, match="give a list of video, text, audio"):
            model.unfreeze_encoders(wrong)
    with pytest.raises(ValueError, match="no weights to train"):
        ViMLForMusicRetrieval.from_encoders().unfreeze_encoders(["audio"])
