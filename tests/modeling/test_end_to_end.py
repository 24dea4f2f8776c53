"""ViMLForMusicRetrieval with real encoder classes (tiny, random) and with the descriptors."""

import pytest
import torch
from transformers import AutoModel, AutoProcessor, ByT5Tokenizer, Wav2Vec2Config, Wav2Vec2Model

from tests.encoders.checkpoints import raw_sound_config
from tests.modeling.tiny import HEADS, make_inputs, tiny_model
from viml_hf import ViMLForMusicRetrieval, ViMLForMusicRetrievalConfig, ViMLModel, ViMLProcessor
from viml_hf.modeling.configuration_deepsim import DeepSimConfig
from viml_hf.modeling.modeling_deepsim import DeepSimModel


@pytest.fixture(params=["ast", "clap"])
def audio(request):
    return request.param


@pytest.fixture
def model(audio):
    return tiny_model(audio)


def test_widths_follow_from_the_encoders(model, audio):
    config = model.config.viml_config
    assert (config.video_dim, config.text_dim, config.audio_dim) == (12, 10, 16 if audio == "ast" else 14)


def test_a_segment_is_the_mean_of_its_unnormalised_projected_frames(model, audio):
    inputs = make_inputs(audio)
    with torch.no_grad():
        rows, mask = model.get_video_base_features(inputs["pixel_values"], inputs["frame_attention_mask"])
        frames = inputs["pixel_values"][0, 1, :3]
        naive = sum(model.video_encoder(pixel_values=frame[None]).image_embeds[0] for frame in frames) / 3
    torch.testing.assert_close(rows[0, 1], naive, atol=1e-3, rtol=1e-3)
    assert mask.tolist() == [[1, 1, 0], [1, 1, 1]]
    assert not rows[0, 2].any()
    assert torch.equal(rows, rows.half().float())


def test_text_and_audio_base_features_are_the_encoders_own(model, audio):
    inputs = make_inputs(audio)
    with torch.no_grad():
        text, text_mask = model.get_text_base_features(inputs["input_ids"], inputs["text_attention_mask"])
        rows, _ = model.get_audio_base_features(inputs["input_features"], inputs["audio_segment_mask"])
        words = model.text_encoder(inputs["input_ids"], inputs["text_attention_mask"]).text_embeds
        output = model.audio_encoder(inputs["input_features"][1])
    sound = output.pooler_output if audio == "ast" else output.audio_embeds
    torch.testing.assert_close(text[:, 0], words, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(rows[1], sound, atol=2e-3, rtol=2e-3)
    assert not rows[0, 2].any()
    assert text_mask.tolist() == [[1], [1]]


def test_a_row_of_zeros_is_no_text(model, audio):
    inputs = make_inputs(audio)
    without = {k: v for k, v in inputs.items() if k not in ("input_ids", "text_attention_mask")}
    inputs["text_attention_mask"][:] = 0
    assert torch.equal(model(**inputs).query_embeds, model(**without).query_embeds)


def test_the_null_text_is_the_empty_string(model):
    tokens = ByT5Tokenizer()([""], return_tensors="pt")
    with torch.no_grad():
        empty = model.text_encoder(**tokens).text_embeds[0]
    torch.testing.assert_close(model.viml.null_text_features, empty, atol=1e-3, rtol=1e-3)
    assert model.viml.null_text_features.any()


def test_a_checkpoint_is_self_contained_and_bit_equal(model, audio, tmp_path):
    inputs = make_inputs(audio)
    output = model(**inputs)
    model.save_pretrained(tmp_path)
    for loader in (ViMLForMusicRetrieval, AutoModel):
        again = loader.from_pretrained(tmp_path)(**inputs)
        assert torch.equal(again.query_embeds, output.query_embeds)
        assert torch.equal(again.audio_embeds, output.audio_embeds)


def test_the_heads_are_read_out_of_it_without_a_word(model, tmp_path, capfd):
    model.save_pretrained(tmp_path)
    capfd.readouterr()
    heads, report = ViMLModel.from_pretrained(tmp_path, output_loading_info=True)
    assert "REPORT" not in capfd.readouterr().err
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    for name, tensor in model.viml.state_dict().items():
        assert torch.equal(heads.state_dict()[name], tensor)


def test_frozen_encoders_stay_frozen(model, audio, tmp_path):
    model.save_pretrained(tmp_path)
    reloaded, _ = ViMLForMusicRetrieval.from_pretrained(tmp_path, output_loading_info=True)
    for loaded in (model, reloaded, ViMLForMusicRetrieval.from_pretrained(tmp_path)):
        loaded.train()
        assert loaded.viml.training
        for encoder in loaded.encoders.values():
            assert not any(p.requires_grad for p in encoder.parameters())
            assert not any(module.training for module in encoder.modules())
        loaded(**make_inputs(audio), return_loss=True).loss.backward()
        assert loaded.viml.audio_tower.projection.weight.grad.any()
        assert all(p.grad is None for e in loaded.encoders.values() for p in e.parameters())


def test_encoders_can_be_trained(tmp_path):
    model = tiny_model(freeze_encoders=False)
    model.save_pretrained(tmp_path)
    model = ViMLForMusicRetrieval.from_pretrained(tmp_path).train()
    model(**make_inputs(), return_loss=True).loss.backward()
    for encoder in model.encoders.values():
        assert encoder.training
        assert any(p.grad is not None and p.grad.any() for p in encoder.parameters())


def test_descriptors_reload_through_the_auto_classes(tmp_path):
    model, processor = ViMLForMusicRetrieval.from_encoders(**HEADS), ViMLProcessor.from_encoders()
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    inputs = processor(text=["slow piano", None])
    again = AutoProcessor.from_pretrained(tmp_path)
    assert type(again) is ViMLProcessor
    assert torch.equal(
        AutoModel.from_pretrained(tmp_path)(**again(text=["slow piano", None])).query_embeds,
        model(**inputs).query_embeds,
    )


class TestRefusals:
    def test_heads_of_another_width(self):
        with pytest.raises(ValueError, match=r"gives 12 numbers.*video_dim=160"):
            ViMLForMusicRetrieval.from_encoders(
                video=tiny_model().video_encoder, viml=ViMLForMusicRetrieval.from_encoders(**HEADS).viml
            )

    def test_heads_and_fields(self):
        viml = ViMLForMusicRetrieval.from_encoders(**HEADS).viml
        with pytest.raises(ValueError, match=r"not both.*hidden_size"):
            ViMLForMusicRetrieval.from_encoders(viml=viml, hidden_size=32)

    def test_an_unknown_tokenizer(self):
        with pytest.raises(ValueError, match="tokenizer"):
            ViMLForMusicRetrieval.from_encoders(text=tiny_model().text_encoder, **HEADS)

    def test_a_dict_without_a_type(self):
        with pytest.raises(Exception, match="model_type"):
            ViMLForMusicRetrievalConfig(video_encoder_config={"hidden_size": 3})


@pytest.mark.parametrize("implementation", ["sdpa", "eager", "flex_attention"])
def test_encoders_without_attention_take_any_implementation_of_it(implementation, tmp_path):
    deepsim = DeepSimModel(DeepSimConfig(hidden_size=16, num_blocks=1))
    ViMLForMusicRetrieval.from_encoders(audio=deepsim, **HEADS).save_pretrained(tmp_path)
    model = AutoModel.from_pretrained(tmp_path, attn_implementation=implementation)
    assert model.viml.config._attn_implementation == implementation


@pytest.mark.parametrize("kind", ["ast", "clap", "descriptors"])
def test_shapes_on_the_meta_device(kind):
    model = ViMLForMusicRetrieval.from_encoders(**HEADS) if kind == "descriptors" else tiny_model(kind)
    inputs = make_inputs("ast" if kind == "descriptors" else kind)
    if kind == "descriptors":
        inputs["input_features"] = torch.zeros(2, 3, 431, 96)
        inputs["audio_frame_mask"] = torch.ones(2, 3, 431)
    inputs = {name: value.to("meta") for name, value in inputs.items()}
    output = model.to("meta")(**inputs, return_loss=True)
    assert output.logits_per_query.shape == (2, 2)
    assert output.loss.shape == ()
    assert model.get_audio_features(inputs["input_features"]).pooler_output.shape == (2, 16)


def test_masked_sound_on_the_meta_device():
    sound = torch.zeros(2, 3, 4000, device="meta")
    encoder = Wav2Vec2Model(Wav2Vec2Config(**raw_sound_config()))
    model = ViMLForMusicRetrieval.from_encoders(audio=encoder, **HEADS).to("meta")
    features, mask = model.get_audio_base_features(sound, audio_frame_mask=torch.ones_like(sound))
    assert features.shape == (2, 3, 16)
    assert mask.shape == (2, 3)


def test_features_of_one_modality_are_those_of_a_query_of_it_alone(model, audio):
    inputs = make_inputs(audio)
    video = {name: inputs[name] for name in ("pixel_values", "frame_attention_mask")}
    text = {name: inputs[name] for name in ("input_ids", "text_attention_mask")}
    for alone, features in ((video, model.get_video_features), (text, model.get_text_features)):
        assert torch.equal(features(**alone).pooler_output, model(**alone).query_embeds)
        assert torch.equal(features(**alone, return_dict=False)[1], model(**alone).query_embeds)


def test_what_a_tokenizer_gives_is_taken_as_it_is(model, audio):
    tokens = ByT5Tokenizer()(["slow piano", "a"], padding=True, return_tensors="pt")
    renamed = {"input_ids": tokens["input_ids"], "text_attention_mask": tokens["attention_mask"]}
    expected = model(**renamed).query_embeds
    for method in (model.get_text_features, model.get_query_features, model.embed_query):
        assert torch.equal(method(**tokens).pooler_output, expected)
        with pytest.raises(ValueError, match="attention_mask and text_attention_mask are the same"):
            method(**tokens, text_attention_mask=tokens["attention_mask"])
    assert torch.equal(model(**tokens).query_embeds, expected)
    without = model.get_text_features(tokens["input_ids"], attention_mask=torch.zeros_like(tokens["input_ids"]))
    assert not torch.allclose(without.pooler_output, expected)


@pytest.mark.parametrize(("has", "lacks"), [("video", "text"), ("text", "video")])
def test_features_of_a_modality_that_queries_lack_are_refused(has, lacks):
    model, inputs = tiny_model(query_modalities=[has]), make_inputs()
    given = {"video": inputs["pixel_values"], "text": inputs["input_ids"]}
    assert getattr(model, f"get_{has}_features")(given[has]).pooler_output.shape == (2, 16)
    for refused in (model, model.viml):
        with pytest.raises(ValueError, match=f"No {lacks} is part of these queries"):
            getattr(refused, f"get_{lacks}_features")(given[lacks])


def test_the_config_has_the_width_that_libraries_ask_for(model):
    assert model.config.hidden_size == 16
    assert "hidden_size" not in model.config.to_diff_dict()
