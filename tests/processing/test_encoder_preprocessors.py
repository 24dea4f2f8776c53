"""The preprocessors of encoders by name, and frames prepared by them against transformers' own way."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoImageProcessor,
    ByT5Tokenizer,
    ClapFeatureExtractor,
    CLIPImageProcessorPil,
    SiglipTokenizer,
    Wav2Vec2FeatureExtractor,
    WhisperFeatureExtractor,
)

from tests.encoders import checkpoints
from viml_hf import DeepSimFeatureExtractor, ViMLDescriptorsFeatureExtractor, ViMLProcessor
from viml_hf.modeling.frozen_encoders import load_encoder_config, load_tokenizer, text_padding
from viml_hf.processing.encoder_preprocessors import (
    load_feature_extractor,
    load_image_processor,
    window_samples,
)
from viml_hf.processing.pixel_values import preprocess_frames, short_side

GREY_LEVEL = 1 / 255


@pytest.mark.parametrize(
    ("family", "load", "kind"),
    [
        ("clip", load_image_processor, "CLIPImageProcessorPil"),
        ("siglip", load_image_processor, "SiglipImageProcessorPil"),
        ("pe_av", load_image_processor, "CLIPImageProcessorPil"),
        ("clap", load_feature_extractor, "ClapFeatureExtractor"),
        ("pe_av", load_feature_extractor, "PeAudioFeatureExtractor"),
        ("deepsim", load_feature_extractor, "DeepSimFeatureExtractor"),
        ("ast", load_feature_extractor, "ASTFeatureExtractor"),
        ("mert", load_feature_extractor, "Wav2Vec2FeatureExtractor"),
        ("siglip", load_tokenizer, "SiglipTokenizer"),
    ],
)
def test_each_family_has_its_own(tmp_path, family, load, kind):
    checkpoints.make(family, tmp_path)
    assert type(load(checkpoints.name_of(family, tmp_path))).__name__ == kind


def test_the_descriptors_need_no_file():
    assert type(load_image_processor("descriptors")) is CLIPImageProcessorPil
    assert type(load_feature_extractor("descriptors")) is ViMLDescriptorsFeatureExtractor
    assert type(load_tokenizer("descriptors")) is ByT5Tokenizer


@pytest.mark.parametrize(("family", "length"), [("siglip", 40), ("clip", None), ("bert", None)])
def test_only_siglip_pads_to_its_full_length(tmp_path, family, length):
    checkpoints.make(family, tmp_path)
    padding = {"padding": "max_length", "max_length": length} if length else {"padding": True}
    assert text_padding(load_encoder_config("text", str(tmp_path))) == padding


def test_a_tokenizer_without_a_mask_marks_which_texts_there_are(tmp_path):
    checkpoints.make("siglip", tmp_path)
    processor = ViMLProcessor.from_encoders(text=f"siglip:{tmp_path}")
    assert type(processor.tokenizer) is SiglipTokenizer
    assert "attention_mask" not in processor.tokenizer("slow piano")
    inputs = processor(text=["slow piano", None, "", "a calm guitar and drums " * 9])
    assert inputs["input_ids"].shape == (4, 40)
    assert inputs["text_attention_mask"].sum(1).tolist() == [40, 0, 0, 40]


@pytest.mark.parametrize(
    ("extractor", "window"),
    [
        (ClapFeatureExtractor(sampling_rate=8000), 80_000),
        (DeepSimFeatureExtractor(), 66_560),
        (WhisperFeatureExtractor(), None),
        (Wav2Vec2FeatureExtractor(), None),
        (ViMLDescriptorsFeatureExtractor(), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_windows_shorter_than_a_segment(extractor, window):
    found = window_samples(extractor)
    # Whisper's 30 s are longer than any segment: no window, or one that never cuts.
    assert found == window or (window is None and found > 12 * extractor.sampling_rate)


def test_what_ast_hears_is_all_of_its_window_and_no_more(tmp_path):
    checkpoints.make("ast", tmp_path)
    extractor = load_feature_extractor(str(tmp_path))
    window, hop = window_samples(extractor), 160

    def spectrum(samples):
        return extractor(samples, sampling_rate=16_000)["input_values"][0]

    sound = np.random.default_rng(0).uniform(-0.5, 0.5, window + hop).astype(np.float32)
    whole = spectrum(sound[:window])
    assert np.array_equal(spectrum(sound), whole)
    assert not np.array_equal(spectrum(sound[: window - 1])[-1], whole[-1])


def soft_pictures(count, height, width):
    generator = np.random.default_rng(0)
    small = generator.integers(0, 256, (count, 6, 8, 3), dtype=np.uint8)
    size = (width, height)
    return np.stack([np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC)) for picture in small])


@pytest.mark.parametrize("family", ["clip", "siglip", "pe_av"])
@pytest.mark.parametrize("shape", [(64, 48), (30, 100), (20, 23)])
def test_frames_are_prepared_as_transformers_prepares_them(tmp_path, family, shape):
    checkpoints.make(family, tmp_path)
    frames = soft_pictures(3, *shape)
    image_processor = load_image_processor(f"{family}:{tmp_path}")
    expected = image_processor if family == "pe_av" else AutoImageProcessor.from_pretrained(tmp_path)
    expected = torch.from_numpy(np.stack(expected(list(frames))["pixel_values"])).float()
    found = preprocess_frames(frames, image_processor)
    assert found.shape == expected.shape == (3, 3, 24, 24)
    spread = torch.tensor(image_processor.image_std)[:, None, None]
    assert ((found - expected) * spread).abs().mean() < 2 * GREY_LEVEL


def test_siglip_squeezes_the_whole_picture_into_a_square(tmp_path):
    """What lies at the edges is seen, where CLIP cuts it off."""
    picture = np.zeros((1, 24, 72, 3), np.uint8)
    picture[:, :, :24] = 255
    for family, seen in (("siglip", 1 / 3), ("clip", 0.0)):
        checkpoints.make(family, tmp_path / family)
        image_processor = load_image_processor(f"{family}:{tmp_path / family}")
        assert short_side(image_processor) == 24
        mean, std = (torch.tensor(v)[:, None, None] for v in (image_processor.image_mean, image_processor.image_std))
        pixels = preprocess_frames(picture, image_processor) * std + mean
        assert pixels.mean() == pytest.approx(seen, abs=0.01)


def test_pe_av_prepares_frames_as_its_video_processor_says(tmp_path):
    checkpoints.make("pe_av", tmp_path)
    path = tmp_path / "video_preprocessor_config.json"
    stated = json.loads(path.read_text())
    image_processor = load_image_processor(f"pe_av:{tmp_path}")
    for name in ("do_resize", "do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std", "resample"):
        found = getattr(image_processor, name)
        assert (list(found) if isinstance(found, tuple) else found) == stated[name]
    assert (image_processor.size.height, image_processor.size.width) == (24, 24)
    assert not image_processor.do_center_crop
    checkpoints.edit_json(path, image_mean=[0.1, 0.2, 0.3], resample=3, size={"height": 40, "width": 32})
    changed = load_image_processor(f"pe_av:{tmp_path}")
    assert preprocess_frames(soft_pictures(1, 60, 80), changed).shape == (1, 3, 40, 32)
    assert (list(changed.image_mean), changed.resample) == ([0.1, 0.2, 0.3], 3)
