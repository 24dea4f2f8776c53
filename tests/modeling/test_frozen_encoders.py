import pytest
import torch
from transformers import (
    AlignConfig,
    AlignModel,
    AltCLIPConfig,
    AltCLIPModel,
    ASTModel,
    AutoModel,
    BertConfig,
    BertModel,
    ByT5Tokenizer,
    ChineseCLIPConfig,
    ChineseCLIPModel,
    ClapAudioModelWithProjection,
    CLIPConfig,
    CLIPModel,
    CLIPSegConfig,
    CLIPSegModel,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
    ConvNextConfig,
    Dinov2Config,
    Dinov2Model,
    EfficientNetConfig,
    HubertConfig,
    HubertModel,
    MetaClip2Config,
    MetaClip2Model,
    ResNetConfig,
    SiglipVisionConfig,
    SiglipVisionModel,
    Speech2TextConfig,
    Speech2TextModel,
    SwinConfig,
    T5Config,
    T5EncoderModel,
    T5Model,
    ViTConfig,
    ViTModel,
    Wav2Vec2Config,
    Wav2Vec2Model,
    WhisperConfig,
)

from tests.modeling.tiny import AST, CLAP_AUDIO, CLIP_TEXT, CLIP_VISION, HEADS, LAYERS
from viml_hf import ViMLForMusicRetrieval
from viml_hf.modeling import encoder_families, frozen_encoders
from viml_hf.modeling.encoder_families import FAMILIES, TOWERS, Tower
from viml_hf.modeling.encoder_widths import encoder_width
from viml_hf.modeling.frozen_encoders import (
    build_encoder,
    encode_images,
    encode_sound,
    encode_text_tokens,
    load_encoder,
    pooled_embedding,
    round_to_store,
)

RAW_SOUND = {
    **{**LAYERS, "conv_dim": [8, 8], "conv_kernel": [10, 8], "conv_stride": [8, 8]},
    **{"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2},
}


def clip_folder(folder):
    torch.manual_seed(0)
    text, vision = ({**config.to_dict(), "projection_dim": 12} for config in (CLIP_TEXT, CLIP_VISION))
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=12)).eval()
    model.save_pretrained(folder)
    ByT5Tokenizer().save_pretrained(folder)
    return model


def test_the_towers_of_a_clip_folder_compute_what_the_whole_does(tmp_path):
    whole = clip_folder(tmp_path)
    model = ViMLForMusicRetrieval.from_encoders(video=f"clip:{tmp_path}", text=f"clip:{tmp_path}", **HEADS)
    pixels, ids = torch.randn(3, 3, 16, 16), torch.tensor([[5, 6, 1], [7, 1, 0]])
    mask = (ids != 0).long()
    with torch.no_grad():
        images = whole.visual_projection(whole.vision_model(pixels).pooler_output)
        texts = whole.text_projection(whole.text_model(ids, mask).pooler_output)
        rows, _ = model.get_video_base_features(pixels[None, None])
        words, _ = model.get_text_base_features(ids, mask)
    torch.testing.assert_close(rows[0, 0], images.mean(0), atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(words[:, 0], texts, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("config", [CLIP_VISION, CLIP_TEXT, CLAP_AUDIO, AST], ids=lambda config: config.model_type)
def test_a_tower_saved_alone_keeps_its_class_and_weights(config, tmp_path):
    classes = {
        "clip_vision_model": (CLIPVisionModelWithProjection, "video", 12),
        "clip_text_model": (CLIPTextModelWithProjection, "text", 10),
        "clap_audio_model": (ClapAudioModelWithProjection, "audio", 14),
        "audio-spectrogram-transformer": (ASTModel, "audio", 16),
    }
    model_class, modality, width = classes[config.model_type]
    torch.manual_seed(0)
    model = model_class(config)
    model.save_pretrained(tmp_path)
    loaded = load_encoder(modality, str(tmp_path))
    assert type(loaded) is type(build_encoder(config)) is model_class
    assert encoder_width(modality, loaded) == width
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)


def test_models_without_a_projection_are_read_too(tmp_path):
    torch.manual_seed(0)
    siglip = SiglipVisionModel(SiglipVisionConfig(**LAYERS, image_size=16, patch_size=8)).eval()
    dino = Dinov2Model(
        Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8)
    ).eval()
    pixels = torch.randn(1, 1, 2, 3, 16, 16)
    for encoder in (siglip, dino):
        encoder.save_pretrained(tmp_path / encoder.config.model_type)
        model = ViMLForMusicRetrieval.from_encoders(video=str(tmp_path / encoder.config.model_type), **HEADS)
        rows, _ = model.get_video_base_features(pixels)
        with torch.no_grad():
            expected = encoder(pixels[0, 0]).pooler_output.mean(0)
        torch.testing.assert_close(rows[0, 0], expected, atol=2e-3, rtol=2e-3)


def test_the_wrong_family_is_refused(tmp_path):
    clip_folder(tmp_path)
    with pytest.raises(ValueError, match=r"'clip' checkpoint, not 'clap': name it `auto:.*` or give a clap"):
        load_encoder("audio", f"clap:{tmp_path}")
    with pytest.raises(ValueError, match="of which no audio tower is known here"):
        load_encoder("audio", str(tmp_path))


def test_the_width_of_clip_is_the_whole_models(tmp_path):
    """Its towers have a `projection_dim` too, which the whole model does not read and some checkpoints leave alone."""
    vision, text = CLIPVisionConfig(**LAYERS, image_size=16, patch_size=8), CLIP_TEXT.to_dict()
    config = CLIPConfig(text_config={**text, "projection_dim": 7}, vision_config=vision.to_dict(), projection_dim=12)
    torch.manual_seed(0)
    whole = CLIPModel(config).eval()
    whole.save_pretrained(tmp_path)
    for modality, projection in (("video", "visual_projection"), ("text", "text_projection")):
        tower = load_encoder(modality, f"clip:{tmp_path}")
        assert encoder_width(modality, tower) == 12
        assert torch.equal(getattr(tower, projection).weight, getattr(whole, projection).weight)
        assert getattr(build_encoder(tower.config), projection).weight.shape == (12, 16)


def test_a_new_family_is_a_name_and_a_row(tmp_path, monkeypatch):
    torch.manual_seed(0)
    text, vision = {**LAYERS, "vocab_size": 20}, {**LAYERS, "image_size": 16, "patch_size": 8}
    whole = CLIPSegModel(CLIPSegConfig(text_config=text, vision_config=vision)).eval()
    whole.save_pretrained(tmp_path)
    row = Tower("clipseg", "video", "clipseg_vision_model", "CLIPSegVisionModel", {"clipseg": "vision_config"})
    for module in (encoder_families, frozen_encoders):
        monkeypatch.setattr(module, "TOWERS", (*TOWERS, row))
    monkeypatch.setitem(FAMILIES, "clipseg", None)
    model = ViMLForMusicRetrieval.from_encoders(video=f"clipseg:{tmp_path}", **HEADS)
    pixels = torch.randn(1, 1, 2, 3, 16, 16)
    with torch.no_grad():
        expected = whole.vision_model(pixels[0, 0]).pooler_output.mean(0)
    torch.testing.assert_close(model.get_video_base_features(pixels)[0][0, 0], expected, atol=2e-3, rtol=2e-3)


def test_a_text_of_one_token_is_its_state_too(tmp_path):
    """A tokenizer without marks of its own makes such texts; BERT's pooler is for another task."""
    torch.manual_seed(0)
    bert = BertModel(BertConfig(**LAYERS, vocab_size=400)).eval()
    ids = torch.tensor([[5]])
    with torch.no_grad():
        expected = bert(ids).last_hidden_state[:, 0]
        assert torch.equal(encode_text_tokens(bert, ids, torch.ones_like(ids)), expected)


def test_t5_gives_the_mean_over_its_encoder(tmp_path):
    torch.manual_seed(0)
    config = T5Config(d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, vocab_size=400, decoder_start_token_id=0)
    whole = T5Model(config).eval()
    whole.save_pretrained(tmp_path)
    ids, mask = torch.tensor([[5, 6, 1], [7, 1, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
    encoder = load_encoder("text", str(tmp_path))
    assert type(encoder) is type(build_encoder(encoder.config)) is T5EncoderModel
    with torch.no_grad():
        expected = whole.encoder(ids[1:, :2]).last_hidden_state.mean(1)
        torch.testing.assert_close(encode_text_tokens(encoder, ids, mask)[1:], expected, atol=1e-5, rtol=1e-4)


def test_segments_of_any_length_are_encoded_as_if_alone():
    """This network normalises over time: a mask would not keep the padding out."""
    torch.manual_seed(0)
    layers = {"conv_dim": [8, 8], "conv_kernel": [10, 8], "conv_stride": [8, 5], "num_conv_pos_embeddings": 8}
    encoder = HubertModel(HubertConfig(**LAYERS, **layers, num_conv_pos_embedding_groups=2)).eval()
    sound, lengths = torch.randn(4, 900), [900, 500, 0, 500]
    mask = (torch.arange(900) < torch.tensor(lengths)[:, None]).long()
    with torch.no_grad():
        found = encode_sound(encoder, sound, mask)
        for row, samples, length in zip(found, sound, lengths, strict=True):
            alone = encoder(samples[None, :length]).last_hidden_state[0].mean(0) if length else torch.zeros(16)
            torch.testing.assert_close(row, alone)
    encode_sound(encoder, sound, mask).sum().backward()
    assert encoder.feature_projection.projection.weight.grad.any()


def test_weights_that_the_features_need_are_not_left_to_chance(tmp_path):
    """A classifier's checkpoint has no pooler: it would be random, and another one at every load."""
    torch.manual_seed(0)
    config = ViTConfig(**LAYERS, image_size=16, patch_size=8)
    ViTModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "lacking")
    with pytest.raises(ValueError, match=r"lacks weights that a ViTModel needs \(pooler.dense.bias and 1 more\)"):
        load_encoder("video", str(tmp_path / "lacking"))
    ViTModel(config).save_pretrained(tmp_path / "whole")
    assert load_encoder("video", str(tmp_path / "whole")).pooler.dense.weight.any()


def test_weights_of_another_shape_are_refused(tmp_path):
    clip_folder(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"projection_dim": 12', '"projection_dim": 13'))
    with pytest.raises(ValueError, match=r"lacks weights that a CLIPVisionModelWithProjection needs \(visual_proj"):
        load_encoder("video", f"clip:{tmp_path}")


def test_encoders_that_need_a_decoder_are_refused(tmp_path):
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "vocab_size": 20}
    Speech2TextModel(Speech2TextConfig(**sizes, decoder_attention_heads=2)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="'speech_to_text' checkpoint, of which no audio tower is known here"):
        load_encoder("audio", str(tmp_path))


def test_an_encoder_of_another_modality_is_refused(tmp_path):
    WhisperConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="'whisper' checkpoint, of which no text tower is known here"):
        load_encoder("text", str(tmp_path))


SMALL_PICTURES = {
    "efficientnet": (EfficientNetConfig(width_coefficient=0.2, hidden_dim=256, image_size=32), 256),
    "resnet": (ResNetConfig(embedding_size=8, hidden_sizes=[8, 24], depths=[1, 1], layer_type="basic"), 24),
    "convnext": (ConvNextConfig(hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 1, 1], image_size=32), 20),
    "swin": (SwinConfig(embed_dim=8, depths=[1, 1], num_heads=[1, 1], image_size=32, patch_size=4, window_size=4), 16),
}


@pytest.mark.parametrize("name", SMALL_PICTURES)
def test_a_width_is_seen_in_one_run_whatever_the_config_calls_it(tmp_path, name):
    config, width = SMALL_PICTURES[name]
    torch.manual_seed(0)
    encoder = AutoModel.from_config(config).train()
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    assert encoder_width("video", encoder) == width
    assert encoder.training
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())
    encoder.save_pretrained(tmp_path)
    model = ViMLForMusicRetrieval.from_encoders(video=str(tmp_path), **HEADS)
    rows, _ = model.get_video_base_features(torch.randn(1, 1, 2, 3, 32, 32))
    assert rows.shape[-1] == model.config.viml_config.video_dim == width
    model.save_pretrained(tmp_path / "whole")
    again = ViMLForMusicRetrieval.from_pretrained(tmp_path / "whole")
    assert again.config.viml_config.video_dim == width


def test_sound_whose_adapter_changes_the_width():
    """`hidden_size` is stated, and is not what comes out."""
    config = Wav2Vec2Config(**RAW_SOUND, add_adapter=True, output_hidden_size=24, num_adapter_layers=1)
    assert encoder_width("audio", Wav2Vec2Model(config)) == 24


def test_a_network_that_does_not_run_on_pictures_alone_is_refused():
    vision, text = {**LAYERS, "image_size": 16, "patch_size": 8}, {**LAYERS, "vocab_size": 20}
    with pytest.raises(ValueError, match=r"'clip' model does not run on pictures alone.*give a model that does"):
        encoder_width("video", CLIPModel(CLIPConfig(text_config=text, vision_config=vision)))


def small_dual(name):
    text, vision = {**LAYERS, "vocab_size": 20}, {**LAYERS, "image_size": 16, "patch_size": 8}
    if name == "align":
        shape = {"width_coefficient": 0.2, "hidden_dim": 64, "image_size": 32, "depthwise_padding": []}
        return AlignModel(AlignConfig(text_config=text, vision_config=shape, projection_dim=16)), (16, 64)
    if name == "altclip":
        text |= {"project_dim": 12, "pad_token_id": 0}
        return AltCLIPModel(AltCLIPConfig(text_config=text, vision_config=vision, projection_dim=10)), (12, 16)
    if name == "chinese_clip":
        return ChineseCLIPModel(ChineseCLIPConfig(text_config=text, vision_config=vision, projection_dim=10)), (16, 16)
    text |= {"eos_token_id": 2}
    return MetaClip2Model(MetaClip2Config(text_config=text, vision_config=vision, projection_dim=10)), (10, 10)


@pytest.mark.parametrize("name", ["align", "altclip", "chinese_clip", "metaclip_2"])
def test_duals_load_by_their_towers(tmp_path, name):
    """A tower's feature is what the whole model projects into the space that both share, or the projection itself."""
    torch.manual_seed(0)
    whole, (text_width, video_width) = small_dual(name)
    whole.eval().save_pretrained(tmp_path)
    text, video = (load_encoder(modality, str(tmp_path)).eval() for modality in ("text", "video"))
    assert (encoder_width("text", text), encoder_width("video", video)) == (text_width, video_width)
    size = video.config.image_size
    pixels, ids = torch.randn(2, 3, size, size), torch.tensor([[5, 6, 2], [7, 2, 0]])
    mask = (ids != 0).long()
    with torch.no_grad():
        images, texts = encode_images(video, pixels), encode_text_tokens(text, ids, mask)
        if name in ("altclip", "chinese_clip"):
            images = whole.visual_projection(images)
        if name != "metaclip_2":
            texts = whole.text_projection(texts)
        torch.testing.assert_close(images, whole.get_image_features(pixels).pooler_output)
        torch.testing.assert_close(texts, whole.get_text_features(ids, attention_mask=mask).pooler_output)


def test_transformers_says_nothing_of_the_towers_left_out(tmp_path, caplog):
    clip_folder(tmp_path)
    with caplog.at_level("WARNING"):
        load_encoder("video", f"clip:{tmp_path}")
    assert "UNEXPECTED" not in caplog.text


def test_features_are_rounded_as_a_store_rounds_them():
    features = torch.linspace(-3, 3, 1001, requires_grad=True)
    rounded = round_to_store(features)
    assert torch.equal(rounded, features.half().float())
    assert torch.equal(round_to_store(rounded.detach()), rounded.detach())
    assert rounded.dtype == torch.float32
    assert round_to_store(features.detach().bfloat16()).dtype == torch.float32


class TestPooledEmbedding:
    def test_a_model_without_any_gives_the_mean_of_its_valid_states(self):
        states, encoder = torch.randn(2, 3, 4), BertModel(BertConfig(**LAYERS, vocab_size=400))
        output = type("Output", (), {"last_hidden_state": states})()
        found = pooled_embedding("text", encoder, output, torch.tensor([[1, 1, 0], [1, 1, 1]]))
        torch.testing.assert_close(found, torch.stack([states[0, :2].mean(0), states[1].mean(0)]))
        torch.testing.assert_close(pooled_embedding("text", encoder, output), states.mean(1))
        # A mask over samples says nothing about the fewer states made of them.
        torch.testing.assert_close(pooled_embedding("text", encoder, output, torch.ones(2, 300)), states.mean(1))
