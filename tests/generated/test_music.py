from dataclasses import replace

import numpy as np
import pytest

from tests.generated.probes import accuracy, areas_under_curves
from viml_hf.errors import ViMLError
from viml_hf.generated import music
from viml_hf.generated.music import EXPRESSIONS, GROOVES, TIMBRES, Note, compose, synthesise
from viml_hf.generated.styles import DRUMS, GENRES, HARMONY, INSTRUMENTS, KEYS, MOODS, VOCALS, Style, draw_style

RATE = 22050
HOP = 512
FADE = ((0, 0.1), (0.47, 0.5), (0.5, 0.515), (0.515, 0.529), (0.531, 1))  # seconds around a note's end at 0.5
STYLE = Style("rock", "happy", 120, ("acoustic drumset", "electric bass", "piano"), "female", "D", seed=1)


def log_spectra(waveform):
    """(frames, 40): the log energies of a Hann window's bands, evenly wide on a logarithmic scale."""
    windows = np.lib.stride_tricks.sliding_window_view(waveform, 1024)[::HOP] * np.hanning(1024).astype(np.float32)
    power = np.abs(np.fft.rfft(windows)) ** 2
    edges = np.unique(np.geomspace(2, 512, 41).astype(int))
    return np.log(np.add.reduceat(power, edges[:-1], axis=1) + 1e-6)


def onset_strength(waveform):
    return np.maximum(np.diff(log_spectra(waveform), axis=0), 0).mean(axis=1)


@pytest.fixture(scope="module")
def heard():
    """300 styles, and the mean and the spread of their log spectra and onsets over 5 s."""
    styles = [draw_style(7, i) for i in range(300)]
    rows = []
    for style in styles:
        spectra = log_spectra(synthesise(style, 5.0))
        onsets = np.maximum(np.diff(spectra, axis=0), 0).mean(axis=0)
        rows.append(np.concatenate([spectra.mean(0), spectra.std(0), onsets]))
    return styles, np.array(rows)


@pytest.mark.parametrize(
    ("attribute", "names", "at_least"), [("genre", GENRES, 0.4), ("mood", MOODS, 0.4), ("vocals", VOCALS, 0.5)]
)
def test_mean_spectra_tell_genre_mood_and_singer(heard, attribute, names, at_least):
    styles, features = heard
    labels = [getattr(style, attribute) for style in styles]
    assert accuracy(features, labels, names) > at_least
    shuffled = np.random.default_rng(0).permutation(labels)
    assert accuracy(features, shuffled, names) < at_least - 0.05  # the probe does not invent it


def test_mean_spectra_tell_the_instruments(heard):
    styles, features = heard
    areas = areas_under_curves(features, styles, INSTRUMENTS)
    assert areas.mean() > 0.75, areas
    assert areas.min() > 0.55, areas


def test_the_beat_is_found_in_the_onsets():
    found = []
    for style in [draw_style(8, i) for i in range(40)]:
        onsets = onset_strength(synthesise(style, 10.0))
        onsets = onsets - onsets.mean()
        correlation = np.correlate(onsets, onsets, "full")[len(onsets) - 1 :]
        lags = np.arange(len(correlation)) * HOP / RATE
        beats = np.where((lags > 0.2) & (lags < 2.1), correlation, -np.inf).argmax() * HOP / RATE * style.tempo / 60
        found.append(min(abs(np.log(beats / multiple)) for multiple in (0.5, 1, 2)) < 0.05)
    assert np.mean(found) > 0.75


@pytest.mark.parametrize("index", range(4))
def test_music_is_neither_silent_nor_clipped(index):
    waveform = synthesise(draw_style(0, index), 6.0)
    assert waveform.shape == (6 * RATE,)
    assert waveform.dtype == np.float32
    assert 0.02 < np.abs(waveform).max() < 0.995
    assert np.abs(waveform).mean() > 0.01
    loudness = np.sqrt((waveform[: 6 * RATE].reshape(2, -1) ** 2).mean(axis=1))
    assert loudness.min() > 0.01
    assert abs(waveform.mean()) < 0.01


def test_the_same_style_gives_the_same_samples_whatever_was_played_before():
    first = synthesise(STYLE, 3.0)
    synthesise(replace(STYLE, mood="dramatic", vocals="male"), 3.0)
    assert np.array_equal(first, synthesise(STYLE, 3.0))
    for cache in (music._note_sample, music._drum_sample, music._filter):
        cache.cache_clear()
    assert np.array_equal(first, synthesise(STYLE, 3.0))


def test_every_attribute_changes_the_sound():
    other = Style("blues", "sad", 90, ("acoustic drumset", "electric bass", "flute"), "male", "A", seed=2)
    for attribute, value in vars(other).items():
        changed = replace(STYLE, **{attribute: value})
        assert not np.allclose(synthesise(STYLE, 3.0), synthesise(changed, 3.0), atol=0.02), attribute


@pytest.mark.parametrize("genre", GENRES)
def test_everybody_plays_in_every_genre_and_within_range(genre):
    for index in range(40):
        style = replace(draw_style(9, index), genre=genre)
        notes = compose(style, 12.0)
        singer = set() if style.vocals == "none" else {style.vocals}
        assert {note.player for note in notes} == set(style.instruments) | singer
        for note in notes:
            assert 0 <= note.start < 12.0
            assert 0 < note.velocity <= 1
            if note.player not in DRUMS:
                assert 24 <= note.pitch <= 110


@pytest.mark.parametrize("mood", MOODS)
def test_all_notes_belong_to_the_mode_of_the_mood(mood):
    for genre in GENRES:
        for key in ("C", "F#", "B"):
            style = replace(STYLE, mood=mood, key=key, genre=genre, vocals="male")
            heard = {(note.pitch - KEYS.index(key)) % 12 for note in compose(style, 20.0) if note.player not in DRUMS}
            assert heard <= set(EXPRESSIONS[mood].scale)
            assert 0 in heard


def test_time_follows_the_tempo():
    slow, fast = (compose(replace(STYLE, tempo=tempo), duration=480 / tempo) for tempo in (60, 120))
    assert [(n.player, n.pitch) for n in slow] == [(n.player, n.pitch) for n in fast]
    np.testing.assert_allclose([n.start for n in slow], [2 * n.start for n in fast])
    backbeat = [n.start for n in fast if n.player in DRUMS and n.pitch == 1]
    np.testing.assert_allclose(backbeat, [0.5, 1.5, 2.5, 3.5])


def test_swing_delays_the_off_beats_only():
    steps = [music._beats(step, swing=2 / 3) for step in range(5)]
    np.testing.assert_allclose(steps, [0, 1 / 3, 2 / 3, 5 / 6, 1])


def test_men_sing_lower_than_women():
    pitch = {v: np.mean([n.pitch for n in compose(replace(STYLE, vocals=v), 8) if n.player == v]) for v in VOCALS[1:]}
    assert pitch["female"] - pitch["male"] >= 11


def test_a_note_sounds_at_its_pitch():
    for player in TIMBRES:
        sample = music._note_sample(player, 57, RATE)  # A3, 220 Hz
        power = np.abs(np.fft.rfft(sample * np.hanning(len(sample)))) ** 2
        multiple = np.fft.rfftfreq(len(sample), 1 / RATE) / 220
        low = multiple < 10
        harmonic = np.abs(multiple - np.round(multiple)) < 0.03 * multiple  # half a semitone, for vibrato and chorus
        assert power[low & harmonic & (multiple > 0.9)].sum() > 0.9 * power[low].sum(), player


def test_voices_have_the_formants_of_their_vowels():
    for player in VOCALS[1:]:
        for pitch in (45, 46, 47):  # low, so that the harmonics lie densely; one pitch per vowel
            sample = music._note_sample(player, pitch, RATE)
            power = np.abs(np.fft.rfft(sample * np.hanning(len(sample))))
            loudest = np.fft.rfftfreq(len(sample), 1 / RATE)[power.argmax()]
            first = TIMBRES[player].formant_scale * music.VOWELS[pitch % 3][0]
            assert abs(loudest - first) < 120, (player, pitch)


def test_a_note_fades_out_after_its_end():
    waveform = np.zeros(RATE, np.float32)
    music._play(waveform, Note(0.1, 0.4, "strings", 60, 1.0), RATE)
    rms = [np.sqrt(np.mean(waveform[round(a * RATE) : round(b * RATE)] ** 2)) for a, b in FADE]
    assert rms[0] == 0
    assert rms[1] > rms[2] > rms[3] > 0
    assert rms[4] == 0


def test_horners_rule_sums_the_harmonics():
    timbre = replace(TIMBRES["acoustic guitar"], damping=2.0)
    time = np.arange(500) / RATE
    naive = sum(
        k**-timbre.slope
        * abs(np.sin(np.pi * k * timbre.pluck))
        * np.exp(-timbre.damping * k * time)
        * np.sin(2 * np.pi * 440 * k * time)
        for k in range(1, int(0.45 * RATE / 440) + 1)
    )
    np.testing.assert_allclose(music._harmonics(timbre, 69, 440.0, time, RATE), naive, atol=1e-9)


def test_tables_cover_all_names_and_bars_are_full():
    assert set(GROOVES) == set(GENRES)
    assert set(EXPRESSIONS) == set(MOODS)
    assert set(TIMBRES) == set(INSTRUMENTS) - set(DRUMS) | set(VOCALS[1:])
    for groove in GROOVES.values():
        assert {len(p) for p in (groove.kick, groove.snare, groove.hat, groove.bass, groove.chords)} == {16}
    assert {len(expression.melody) for expression in EXPRESSIONS.values()} == {16}
    assert all(TIMBRES[player].part != "bass" for player in HARMONY)


@pytest.mark.parametrize("rate", [16000, 48000])
def test_other_rates_sound_the_same(rate):
    reference, other = synthesise(STYLE, 4.0), synthesise(STYLE, 4.0, rate)
    assert len(other) == 4 * rate
    energies = []
    for waveform, per_second in ((reference, RATE), (other, rate)):
        power = np.abs(np.fft.rfft(waveform)) ** 2
        bands = np.add.reduceat(power, (np.geomspace(60, 5000, 12) * 4.0).astype(int))[:-1]
        assert len(power) == 2 * per_second + 1
        energies.append(np.log(bands / bands.sum()))
    assert np.abs(energies[0] - energies[1]).max() < 1.0


@pytest.mark.parametrize(("duration", "rate"), [(0.0, RATE), (float("nan"), RATE), (1.0, 4000)])
def test_impossible_arguments_are_refused(duration, rate):
    with pytest.raises(ViMLError, match=f"duration {duration} s at {rate} Hz.*accepted"):
        synthesise(STYLE, duration, rate)
