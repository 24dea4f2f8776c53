"""The semitone spectrogram's scale, silence and settings; its tones and padding are in `test_processor.py`."""

import math

import numpy as np
import pytest
import torch
from transformers import AutoFeatureExtractor

from tests.media import sine
from viml_hf import ViMLDescriptorsFeatureExtractor


@pytest.mark.parametrize("n_fft", [2048, 4096])
def test_a_full_scale_sine_fills_its_band_with_about_1000_whatever_the_window(n_fft):
    extractor = ViMLDescriptorsFeatureExtractor(n_fft=n_fft)
    tone = 32.703 * 2 ** (57 / 12)
    peak = extractor(sine(tone, 1, 22050, 1.0))["input_features"][0, 5:-5, 57].mean().expm1().item()
    assert 500 < peak < 2000
    # A tenth of the amplitude is a tenth of the energy, before the log.
    tenth = extractor(sine(tone, 1, 22050, 0.1))["input_features"][0, 5:-5, 57].mean().expm1().item()
    assert tenth == pytest.approx(peak / 10, rel=0.02)


def test_silence_is_zero():
    found = ViMLDescriptorsFeatureExtractor()(np.zeros(5000, np.float32))["input_features"]
    assert found.shape == (1, 1 + 5000 // 512, 96)
    assert not found.any()


def test_values_grow_with_the_sound_and_are_never_negative():
    noise = np.random.default_rng(0).uniform(-1, 1, 22050).astype(np.float32)
    quiet, loud = (ViMLDescriptorsFeatureExtractor()(noise * gain)["input_features"] for gain in (0.1, 1.0))
    assert (loud >= quiet).all()
    assert quiet.min() >= 0


def test_every_band_hears_its_tone_best():
    filters = ViMLDescriptorsFeatureExtractor().filters()
    assert filters.shape == (96, 1025)
    assert filters.min() == 0
    assert (filters.sum(1) > 0).all()
    centres = 32.703 * 2 ** (np.arange(96) / 12)
    assert np.abs(filters.argmax(1).numpy() * 22050 / 2048 - centres).max() <= 22050 / 2048 / 2 + 1e-3


def test_numpy_arrays_hold_the_same_as_tensors():
    extractor = ViMLDescriptorsFeatureExtractor()
    waves = [sine(300, 0.5, 22050), sine(400, 0.2, 22050)]
    arrays = extractor(waves, return_tensors="np")
    for name, tensor in extractor(waves).items():
        assert isinstance(arrays[name], np.ndarray)
        assert np.array_equal(arrays[name], tensor.numpy())


def test_its_settings_survive_a_reload(tmp_path):
    settings = {"feature_size": 60, "sampling_rate": 16000, "lowest_frequency": 65.4, "n_fft": 1024, "hop_length": 256}
    extractor = ViMLDescriptorsFeatureExtractor(**settings, padding_value=-1.0)
    extractor.save_pretrained(tmp_path)
    again = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert type(again) is ViMLDescriptorsFeatureExtractor
    assert {name: getattr(again, name) for name in settings} == settings
    waves = [sine(300, 0.5, 16000), sine(400, 0.2, 16000)]
    one, two = extractor(waves, sampling_rate=16000), again(waves, sampling_rate=16000)
    assert torch.equal(one["input_features"], two["input_features"])
    assert one["input_features"].shape == (2, 1 + math.floor(8000 / 256), 60)
    assert (two["input_features"][1, 14:] == -1).all()
