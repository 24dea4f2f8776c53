"""DeepSim's mel spectrogram against its definition written out in numpy, and against transformers' own functions."""

import json

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModel
from transformers.audio_utils import mel_filter_bank, spectrogram, window_function

from tests.media import sine
from viml_hf.modeling.configuration_deepsim import DeepSimConfig
from viml_hf.modeling.modeling_deepsim import DeepSimModel
from viml_hf.processing.feature_extraction_deepsim import DeepSimFeatureExtractor

WINDOW = 66_560


def some_waves(samples=WINDOW):
    noise = np.random.default_rng(0).uniform(-1, 1, samples).astype(np.float32)
    chord = sum(sine(f, samples / 22050, 22050, 0.2) for f in (110.0, 1244.5, 5000.0))
    return [noise, chord, 1e-3 * noise]


def slaney_hertz(mel):
    """Slaney's scale: linear up to 1000 Hz (15 mel), 27 steps to a factor of 6.4 above."""
    return np.where(mel < 15, mel * 200 / 3, 1000 * 6.4 ** ((np.maximum(mel, 15) - 15) / 27))


def written_out(wave):
    """The whole front end from its definition, in float64: `(129, 128)`."""
    top = 15 + 27 * np.log(22050 / 2 / 1000) / np.log(6.4)
    edges = slaney_hertz(np.linspace(0, top, 130))
    bins = np.arange(513) * 22050 / 1024
    filters = np.zeros((128, 513))
    for band, (low, centre, high) in enumerate(zip(edges, edges[1:], edges[2:], strict=False)):
        triangle = np.minimum((bins - low) / (centre - low), (high - bins) / (high - centre))
        filters[band] = np.maximum(triangle, 0) * 2 / (high - low)
    time = np.arange(1024)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * time / 1024)
    transform = np.exp(-2j * np.pi * np.outer(time, np.arange(513)) / 1024)
    frames = np.stack([wave[start : start + 1024] for start in range(0, 129 * 512, 512)]).astype(np.float64)
    magnitudes = np.abs((frames * hann) @ transform)
    return (np.log10(1 + 10 * magnitudes @ filters.T) - 0.20) / 0.25


def test_it_is_the_definition_written_out():
    found = DeepSimFeatureExtractor()(some_waves(), sampling_rate=22050)["input_features"]
    assert found.shape == (3, 129, 128)
    assert found.dtype == torch.float32
    for row, wave in enumerate(some_waves()):
        np.testing.assert_allclose(found[row].numpy(), written_out(wave), atol=1e-4)


def test_it_is_what_transformers_functions_give():
    filters = mel_filter_bank(513, 128, 0.0, 11025.0, 22050, norm="slaney", mel_scale="slaney")
    found = DeepSimFeatureExtractor()(some_waves())["input_features"]
    for row, wave in enumerate(some_waves()):
        mel = spectrogram(
            wave, window_function(1024, "hann"), 1024, 512, power=1.0, center=False, mel_filters=filters, mel_floor=0.0
        )
        np.testing.assert_allclose(found[row].numpy().T, (np.log10(1 + 10 * mel) - 0.20) / 0.25, atol=1e-4)


def test_every_band_hears_something():
    assert (DeepSimFeatureExtractor().mel_filters.sum(0) > 0).all()


def test_a_tone_is_loudest_in_its_band():
    found = DeepSimFeatureExtractor()(sine(1000, 3, 22050))["input_features"][0, :120]
    edges = slaney_hertz(np.linspace(0, 15 + 27 * np.log(11.025) / np.log(6.4), 130))
    nearest = int(np.abs(edges[1:-1] - 1000).argmin())
    assert (found.argmax(1) - nearest).abs().max() <= 1


def test_silence_is_minus_the_mean_over_the_deviation():
    found = DeepSimFeatureExtractor()(np.zeros(100, np.float32))["input_features"]
    torch.testing.assert_close(found, torch.full((1, 129, 128), -0.8))


def test_a_short_waveform_is_padded_at_its_end_and_a_window_is_full():
    extractor = DeepSimFeatureExtractor()
    assert extractor.nb_max_samples == WINDOW
    wave = some_waves()[0]
    short = extractor(wave[:30_000])["input_features"][0]
    full = extractor(wave)["input_features"][0]
    inside = (30_000 - 1024) // 512 + 1
    torch.testing.assert_close(short[:inside], full[:inside])
    torch.testing.assert_close(short[inside + 2 :], torch.full((129 - inside - 2, 128), -0.8))
    # The last sample of a window belongs to its last frame: none is left over.
    changed = wave.copy()
    changed[-400:] = 0
    difference = (extractor(changed)["input_features"][0] - full).abs().amax(1)
    assert (difference > 0).nonzero()[:, 0].tolist() == [128]


def test_a_waveform_does_not_know_the_others():
    extractor = DeepSimFeatureExtractor()
    together = extractor(some_waves())["input_features"]
    for row, wave in enumerate(some_waves()):
        torch.testing.assert_close(extractor(wave)["input_features"][0], together[row], atol=1e-5, rtol=1e-5)


def test_a_longer_waveform_is_refused_with_the_way_out():
    extractor = DeepSimFeatureExtractor()
    with pytest.raises(ValueError, match=r"66561 samples, but a window holds 66560 \(3\.02 s\): cut it into windows"):
        extractor([np.zeros(10, np.float32), np.zeros(WINDOW + 1, np.float32)])


def test_another_rate_is_refused():
    with pytest.raises(ValueError, match=r"sampling_rate=44100.*22050 Hz: resample"):
        DeepSimFeatureExtractor()(np.zeros(100, np.float32), sampling_rate=44100)


@pytest.mark.parametrize(
    "wave", [np.zeros(100, np.int16), np.zeros((2, 100), np.float32), np.zeros(0, np.float32), 0.5], ids=str
)
def test_what_is_no_mono_waveform_is_refused(wave):
    with pytest.raises(ValueError, match="give mono floats"):
        DeepSimFeatureExtractor()(wave)


def test_numpy_arrays_hold_the_same_as_tensors():
    extractor = DeepSimFeatureExtractor()
    arrays = extractor(some_waves(), return_tensors="np")["input_features"]
    assert isinstance(arrays, np.ndarray)
    assert np.array_equal(arrays, extractor(some_waves())["input_features"].numpy())


def test_its_settings_survive_a_reload(tmp_path):
    AutoConfig.register("deepsim", DeepSimConfig, exist_ok=True)
    AutoFeatureExtractor.register(DeepSimConfig, DeepSimFeatureExtractor, exist_ok=True)
    settings = {"feature_size": 40, "sampling_rate": 16000, "n_fft": 512, "hop_length": 128}
    settings |= {"window_frames": 20, "mean": 0.1, "std": 0.5, "padding_value": 0.25}
    extractor = DeepSimFeatureExtractor(**settings)
    extractor.save_pretrained(tmp_path)
    json.dumps(extractor.to_dict())
    again = AutoFeatureExtractor.from_pretrained(tmp_path)
    assert type(again) is DeepSimFeatureExtractor
    assert {name: getattr(again, name) for name in settings} == settings
    assert again.to_dict() == extractor.to_dict()
    waves = [sine(300, 0.1, 16000), sine(400, 0.15, 16000)]
    one, two = extractor(waves)["input_features"], again(waves)["input_features"]
    assert one.shape == (2, 20, 40)
    assert torch.equal(one, two)
    assert again.nb_max_samples == 19 * 128 + 512


def test_the_model_reads_what_it_makes():
    AutoModel.register(DeepSimConfig, DeepSimModel, exist_ok=True)
    model = AutoModel.from_config(DeepSimConfig(hidden_size=16, num_blocks=2)).eval()
    assert model(**DeepSimFeatureExtractor()(some_waves())).pooler_output.shape == (3, 16)
