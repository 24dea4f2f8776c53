import numpy as np
import pytest

from tests.media import sine, write_audio
from tests.retrieval.conftest import encoder  # noqa: F401 (a fixture)
from viml_hf import ViMLError, find_moments
from viml_hf.analysis.beats import Beats, find_beats
from viml_hf.analysis.sections import section_starts
from viml_hf.analysis.spectra import SAMPLING_RATE
from viml_hf.generated.music import synthesise
from viml_hf.generated.styles import draw_style
from viml_hf.retrieval.tracks import embed_windows
from viml_hf.soundtrack.moment import best_apart, looped, on_beats, section_beats, stretch_scores, to_section

BEATS = Beats(120.0, tuple(np.arange(0.25, 60, 0.5)), tuple(np.arange(0.25, 60, 2.0)))


@pytest.fixture(scope="module")
def track(tmp_path_factory):
    """Three pieces of 20 s, one after the other."""
    pieces = [synthesise(draw_style(0, index), 20.0, SAMPLING_RATE) for index in (1, 2, 6)]
    return write_audio(tmp_path_factory.mktemp("track") / "track.wav", np.concatenate(pieces), SAMPLING_RATE)


def own_query(encoder, track, start, end):  # noqa: F811
    """The embedding of a stretch itself: the best query for it that there is."""
    rows = encoder.encode_audio(track, start=start, end=end).rows
    return embed_windows(encoder, rows, [(0, len(rows))])[0]


@pytest.mark.parametrize("place", [0, 1, 2])
def test_the_piece_that_is_asked_for_is_found_to_its_beat(encoder, track, place):  # noqa: F811
    (moment,) = find_moments(encoder, track, own_query(encoder, track, 20 * place, 20 * place + 20), 20.0)
    assert moment.start == pytest.approx(20 * place, abs=0.15)
    assert moment.length == pytest.approx(20, abs=1.0)
    assert moment.beats[0] == pytest.approx(0, abs=0.3)
    assert moment.score > 0.9


def test_several_moments_do_not_lie_on_each_other(encoder, track):  # noqa: F811
    moments = find_moments(encoder, track, own_query(encoder, track, 20, 40), 10.0, count=3)
    starts = sorted(moment.start for moment in moments)
    assert len(moments) == 3
    assert min(np.diff(starts)) > 3
    assert moments[0].score == max(moment.score for moment in moments)


def test_only_a_part_of_the_track_is_searched(encoder, track):  # noqa: F811
    (moment,) = find_moments(encoder, track, own_query(encoder, track, 0, 20), 10.0, start=25.0, end=50.0)
    assert moment.start >= 25
    assert moment.end <= 50.3


def test_what_is_heard_first_is_no_beginning_where_only_a_part_is_searched(encoder, track, monkeypatch):  # noqa: F811
    known = []
    monkeypatch.setattr(
        "viml_hf.soundtrack.moment.find_beats",
        lambda heard, beginning=None: known.append(beginning) or find_beats(heard, beginning=beginning),
    )
    query = own_query(encoder, track, 0, 20)
    find_moments(encoder, track, query, 6.0, end=16.0)
    find_moments(encoder, track, query, 6.0, start=2.3, end=18.0)
    assert known == [0.0, None]


def test_scores_of_stretches_are_those_of_their_sound(encoder, track):  # noqa: F811
    query = own_query(encoder, track, 0, 10)
    starts, scores = stretch_scores(encoder, track, query, 10.0, 0.0, 60.0)
    assert np.allclose(np.diff(starts), 2.0)
    assert starts[-1] == pytest.approx(50.0)
    assert scores[0] == pytest.approx(1.0, abs=1e-3)
    alone = own_query(encoder, track, 14, 24) @ query
    assert scores[7] == pytest.approx(alone, abs=1e-2)


@pytest.mark.parametrize(("start", "expected"), [(3.9, 4.25), (5.5, 6.25), (5.2, 4.25)])
def test_a_start_moves_to_the_nearest_downbeat(start, expected):
    assert on_beats(BEATS, start, 10.0, 60.0).start == expected


def test_an_end_is_a_beat_and_within_the_track():
    moment = on_beats(BEATS, 4.0, 10.1, 14.4)
    assert moment.pieces == ((4.25, 14.25),)
    assert moment.beats[:2] == (0.0, 0.5)
    assert moment.downbeats == (0.0, 2.0, 4.0, 6.0, 8.0)


def test_without_beats_a_moment_is_where_it_fits_best():
    assert on_beats(None, 3.3, 5.0, 60.0).pieces == ((3.3, 8.3),)


def test_a_section_begins_or_ends_a_moment_that_is_near():
    boundaries = np.array([30.0, 60.0])
    assert to_section(26.0, 20.0, boundaries, 90.0) == 30.0
    assert to_section(44.0, 20.0, boundaries, 90.0) == 40.0
    assert to_section(17.0, 20.0, boundaries, 90.0) == 17.0
    assert to_section(58.0, 40.0, boundaries, 90.0) == 58.0  # it would end after the track


def test_each_section_has_the_beats_of_its_own_tempo():
    clicks = [np.zeros(20 * SAMPLING_RATE, np.float32) for _ in range(2)]
    for waveform, bpm in zip(clicks, (120, 90), strict=True):
        waveform[np.round(np.arange(0, 20, 60 / bpm) * SAMPLING_RATE).astype(int)] = 1.0
    beats = section_beats(np.concatenate(clicks), np.array([0.0, 20.0]), 10.0, 30.0)
    times = np.array(beats.times)
    assert np.diff(times[times < 19.9]) == pytest.approx(0.5, abs=0.03)
    assert np.diff(times[times > 19.9]) == pytest.approx(60 / 90, abs=0.03)
    assert np.abs(times - 20).min() < 0.05
    assert np.abs(np.array(beats.downbeats) - 20).min() < 0.05  # a bar begins with the section
    assert section_beats(np.zeros(20 * SAMPLING_RATE, np.float32), np.array([0.0]), 0.0, 20.0) is None


def test_best_apart_is_the_naive_choice():
    scores = np.random.default_rng(0).random(50)
    chosen = best_apart(scores, 5, 4)
    assert chosen[0] == int(np.argmax(scores))
    assert all(abs(a - b) >= 5 for a in chosen for b in chosen if a != b)


def test_a_short_track_is_repeated_at_its_bars():
    beats = Beats(120.0, tuple(np.arange(1.0, 9.1, 0.5)), (1.0, 3.0, 5.0, 7.0, 9.0))
    moment = looped(beats, 10.0, 30.0)
    assert moment.pieces == ((0.0, 9.0), (1.0, 9.0), (1.0, 9.0), (1.0, 6.0))
    assert moment.length == pytest.approx(30.0)
    assert np.allclose(np.diff(moment.downbeats), 2.0)


def test_a_short_track_is_repeated_or_refused(encoder, track, tmp_path):  # noqa: F811
    query = np.zeros(16, np.float32)
    (moment,) = find_moments(encoder, track, query, 90.0)
    assert len(moment.pieces) > 1
    assert moment.length == pytest.approx(90, abs=0.01)
    with pytest.raises(ViMLError, match="may not be repeated"):
        find_moments(encoder, track, query, 90.0, loop=False)
    tone = write_audio(tmp_path / "tone.wav", sine(440, 2, SAMPLING_RATE), SAMPLING_RATE)
    with pytest.raises(ViMLError, match="no bars to repeat it by"):
        find_moments(encoder, tone, query, 5.0)


@pytest.mark.parametrize(("length", "count"), [(0.5, 1), (float("inf"), 1), (5.0, 0)])
def test_lengths_and_counts_out_of_range_are_refused(encoder, track, length, count):  # noqa: F811
    with pytest.raises(ViMLError, match="give seconds"):
        find_moments(encoder, track, np.zeros(16, np.float32), length, count=count)


def test_sections_begin_where_pieces_do(track):
    pieces = [synthesise(draw_style(0, index), 20.0, SAMPLING_RATE) for index in (1, 2, 6)]
    assert section_starts(np.concatenate(pieces)) == pytest.approx([0, 20, 40], abs=0.15)
