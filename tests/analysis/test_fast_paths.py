"""What is fast in the analysis gives what the plain way gives."""

import numpy as np
import pytest

from tests.media import sine
from viml_hf.analysis import beats, loudness, spectra
from viml_hf.generated.music import synthesise
from viml_hf.generated.styles import draw_style

RATE = spectra.SAMPLING_RATE


def test_beats_are_placed_as_frame_by_frame():
    def frame_by_frame(onsets, period):
        reach = np.arange(-round(period), round(period) + 1)
        local = np.convolve(onsets, np.exp(-0.5 * (32 * reach / period) ** 2), "same")[: len(onsets)]
        score, before = local.copy(), np.full(len(local), -1)
        for frame in range(len(local)):
            for step in range(round(period / 2), min(frame, round(2 * period)) + 1)[::-1]:
                total = score[frame - step] - beats.TIGHTNESS * np.log(step / period) ** 2
                if total > 0 and local[frame] + total > score[frame]:
                    score[frame], before[frame] = local[frame] + total, frame - step
        tail = max(0, len(score) - round(period))
        found = [tail + int(np.argmax(score[tail:]))]
        while before[found[-1]] >= 0:
            found.append(int(before[found[-1]]))
        return found[::-1]

    draw = np.random.default_rng(0)
    for length, period in ((45, 20.3), (300, 23.5), (700, 41.0), (150, 129.2)):
        onsets = np.maximum(draw.normal(size=length), 0)
        assert beats.track_beats(onsets, period).tolist() == frame_by_frame(onsets, period)


def test_the_true_peak_is_found_where_it_is():
    draw = np.random.default_rng(1)
    for _ in range(50):
        samples = draw.normal(size=(2, draw.integers(30, 3000)))
        samples = (samples * draw.uniform(size=samples.shape[1]) ** 8).astype(np.float32)
        meter = loudness._TruePeak(2)
        for chunk in np.split(samples, sorted(draw.integers(0, samples.shape[1], 3)), axis=1):
            meter.add(chunk)
        everywhere = loudness.peaks_between(np.pad(samples, ((0, 0), (24, 24)))).max()
        assert meter.peak() == pytest.approx(everywhere, rel=1e-6)


@pytest.mark.parametrize("samples", [10, 4410, 50_000])
def test_a_filter_in_blocks_is_a_convolution(samples):
    response = loudness._k_weighting(8000)
    before = len(response) - 1
    extended = np.random.default_rng(2).normal(size=(2, before + samples)).astype(np.float32)
    plain = np.stack([np.convolve(row, response, "valid") for row in extended.astype(np.float64)])
    assert loudness._filtered(extended, response) == pytest.approx(plain, abs=1e-4)


def test_semitones_of_every_fourth_sample_are_those_of_all():
    """Also where sound above the semitones would fold onto them."""
    waveform = synthesise(draw_style(3, 0), 4.0, RATE) + sine(5512.5 - 440, 4, RATE, 0.3)
    padded = np.pad(waveform, spectra.SEMITONE_WINDOW // 2)
    windows = np.lib.stride_tricks.sliding_window_view(padded, spectra.SEMITONE_WINDOW)[:: spectra.SEMITONE_HOP]
    spectrum = np.abs(np.fft.rfft(windows * np.hanning(spectra.SEMITONE_WINDOW + 1)[:-1]))
    filters = spectra._semitone_filters().numpy()
    plain = spectrum[:, : filters.shape[1]] @ filters.T
    found = spectra.semitone_frames(waveform)
    assert found.shape == plain.shape
    assert np.abs(found - plain).max() < 0.01 * plain.max()
    assert np.abs(found - plain).mean() < 0.01 * plain.mean()
