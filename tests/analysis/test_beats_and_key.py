import numpy as np
import pytest

from tests.media import sine
from viml_hf import ViMLError
from viml_hf.analysis.beats import find_beats
from viml_hf.analysis.key import TONICS, find_key
from viml_hf.analysis.spectra import MEL_RATE, SAMPLING_RATE, mel_frames
from viml_hf.generated.music import synthesise
from viml_hf.generated.styles import Style


def piece(tempo=100, key="D", mood="happy", genre="pop", seconds=20.0):
    instruments = ("acoustic drumset", "electric bass", "piano")
    return synthesise(Style(genre, mood, tempo, instruments, "none", key, seed=3), seconds, SAMPLING_RATE)


@pytest.mark.parametrize("tempo", [72, 100, 132])
def test_tempo_and_beats_of_a_generated_piece(tempo):
    beats = find_beats(piece(tempo))
    assert beats.tempo == pytest.approx(tempo, rel=0.04)
    distance = np.mod(np.array(beats.times) + 30 / tempo, 60 / tempo) - 30 / tempo
    assert np.mean(np.abs(distance) <= 0.05) >= 0.95


@pytest.mark.parametrize("skipped", [0.0, 0.6, 1.2, 1.8])
def test_downbeats_begin_bars_wherever_the_music_begins(skipped):
    """At 100 beats per minute a bar has 2.4 s; the excerpt begins with one of its four beats."""
    downbeats = np.array(find_beats(piece(100)[round(skipped * SAMPLING_RATE) :]).downbeats) + skipped
    assert np.mean(np.abs(np.mod(downbeats + 1.2, 2.4) - 1.2) <= 0.05) > 0.9
    assert np.allclose(np.diff(downbeats), 2.4, atol=0.05)


def test_beats_follow_a_change_of_tempo():
    times = np.cumsum(np.concatenate([np.full(20, 0.5), np.linspace(0.5, 0.6, 20), np.full(20, 0.6)]))
    clicks = np.zeros(round((times[-1] + 1) * SAMPLING_RATE), np.float32)
    clicks[np.round(times * SAMPLING_RATE).astype(int)] = 1.0
    found = np.array(find_beats(clicks).times)
    assert np.mean([np.abs(times - time).min() < 0.03 for time in found]) > 0.9


@pytest.mark.parametrize(
    "waveform", [np.zeros(10 * SAMPLING_RATE, np.float32), piece(seconds=2.0)], ids=["silence", "too short"]
)
def test_where_no_tempo_can_be_told_there_is_none(waveform):
    assert find_beats(waveform) is None


KEYS = [("D", "happy", "major"), ("A#", "happy", "major"), ("E", "sad", "minor")]


@pytest.mark.parametrize(("key", "mood", "mode"), KEYS)
def test_key_of_a_generated_piece(key, mood, mode):
    found = find_key(piece(key=key, mood=mood))
    relative = {"major": (9, "minor"), "minor": (3, "major")}[mode]
    accepted = {(key, mode), (TONICS[(TONICS.index(key) + relative[0]) % 12], relative[1])}
    assert (found.tonic, found.mode) in accepted


def test_silence_has_no_key():
    assert find_key(np.zeros(SAMPLING_RATE, np.float32)) is None


def test_frames_do_not_depend_on_how_many_are_made_at_once(monkeypatch):
    waveform = piece(seconds=4.0)
    whole = mel_frames(waveform)
    monkeypatch.setattr("viml_hf.analysis.spectra._FRAMES_AT_ONCE", 50)
    assert np.allclose(mel_frames(waveform), whole, atol=1e-5)
    assert len(whole) == 1 + int(4.0 * MEL_RATE)


def test_a_waveform_of_channels_is_refused():
    with pytest.raises(ViMLError, match="one row of samples"):
        find_beats(np.stack([sine(440, 4, SAMPLING_RATE)] * 2))
