import re
import shutil
import subprocess

import numpy as np
import pytest

from tests.media import sine, write_audio
from viml_hf.analysis.loudness import measure_levels
from viml_hf.analysis.track_analysis import analyse_track
from viml_hf.processing.audio_decoding import iter_channels, sound_format

RATE = 48_000


def levels(sound, layout="stereo", rate=RATE, chunk=10_000):
    chunks = [sound[:, start : start + chunk] for start in range(0, sound.shape[1], chunk)]
    return measure_levels(chunks, rate, layout)


@pytest.mark.parametrize("rate", [8000, 22_050, 44_100, 48_000, 96_000])
def test_a_full_scale_sine_in_one_channel_is_minus_three(rate):
    """The calibration of BS.1770: 997 Hz at 0 dBFS in one front channel reads −3.01 LUFS."""
    assert levels(sine(997, 5, rate, 1.0)[None], "mono", rate).loudness == pytest.approx(-3.01, abs=0.05)


def test_channels_add_up_by_their_weights():
    tone = sine(997, 5, RATE, 0.1)
    front = levels(np.stack([tone, tone])).loudness
    assert front == pytest.approx(-20, abs=0.02)
    surround = np.zeros((6, len(tone)), np.float32)
    surround[[4, 5]] = tone
    assert levels(surround, "5.1").loudness == pytest.approx(front + 10 * np.log10(1.41), abs=0.01)
    surround[:] = 0
    surround[3] = tone  # LFE
    assert levels(surround, "5.1").loudness == float("-inf")


def test_both_gates():
    """Silence does not count (absolute gate), nor does what is 10 LU below the rest (relative gate)."""
    loud, quiet = sine(997, 10, RATE, 0.5), sine(997, 10, RATE, 0.05)
    alone = levels(loud[None], "mono").loudness
    silence = np.zeros(10 * RATE, np.float32)
    assert levels(np.concatenate([loud, silence])[None], "mono").loudness == pytest.approx(alone, abs=0.1)
    assert levels(np.concatenate([loud, quiet])[None], "mono").loudness == pytest.approx(alone, abs=0.1)


def test_true_peak_lies_between_samples():
    """A sine at a quarter of the rate, sampled 45° off its peaks, has samples 3 dB below them."""
    wave = np.sin(np.pi / 2 * np.arange(RATE) + np.pi / 4).astype(np.float32)
    assert np.abs(wave).max() == pytest.approx(np.sqrt(0.5), abs=1e-4)
    assert levels(wave[None], "mono").true_peak == pytest.approx(0, abs=0.25)


def test_the_same_in_chunks_of_any_length():
    sound = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 3 * RATE)).astype(np.float32)
    whole, parts = levels(sound, chunk=10**9), levels(sound, chunk=777)
    assert parts.loudness == pytest.approx(whole.loudness, abs=1e-3)
    assert parts.true_peak == pytest.approx(whole.true_peak, abs=1e-3)
    assert (parts.silence_at_start, parts.silence_at_end) == (whole.silence_at_start, whole.silence_at_end)


def test_silence_at_both_ends():
    sound = np.concatenate([np.zeros(RATE), sine(440, 2, RATE), np.zeros(RATE // 2)]).astype(np.float32)[None]
    found = levels(sound, "mono")
    assert found.silence_at_start == pytest.approx(1.0, abs=0.011)
    assert found.silence_at_end == pytest.approx(0.5, abs=0.011)
    assert levels(np.zeros((1, RATE), np.float32), "mono").silence_at_end == 1.0


def test_a_file_is_measured_whole_and_by_excerpt(tmp_path):
    sound = np.concatenate([sine(997, 4, RATE, 0.5), sine(997, 4, RATE, 0.05)])
    path = write_audio(tmp_path / "two.wav", np.stack([sound, sound]), RATE)
    assert analyse_track(path).levels.duration == pytest.approx(8.0)
    parts = [analyse_track(path, 0.0, 4.0), analyse_track(path, 4.0)]
    assert parts[0].levels.loudness - parts[1].levels.loudness == pytest.approx(20, abs=0.1)
    assert parts[1].levels.duration == pytest.approx(4.0)


@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs FFmpeg's command line to compare with")
def test_real_files_agree_with_ffmpeg(shared_media):
    for path in sorted((shared_media / "music").iterdir()):
        command = ["ffmpeg", "-nostats", "-t", "20", "-i", path, "-map", "0:a:0", "-filter_complex"]
        told = subprocess.run([*command, "ebur128=peak=true", "-f", "null", "-"], capture_output=True, text=True).stderr
        rate, layout = sound_format(path)
        found = measure_levels(iter_channels(path, rate, end=20.0), rate, layout)
        summary = told[told.rindex("Summary") :]
        assert found.loudness == pytest.approx(float(re.search(r"I: +(\S+) LUFS", summary)[1]), abs=0.1), path.name
        assert found.true_peak == pytest.approx(float(re.search(r"Peak: +(\S+) dBFS", summary)[1]), abs=0.2), path.name
