from dataclasses import replace

import numpy as np
import pytest

from tests.generated.probes import accuracy, areas_under_curves, linear_scores
from viml_hf.errors import ViMLError
from viml_hf.generated.pictures import GRADES, PALETTES, SHAPES, TEXTURES, render
from viml_hf.generated.styles import (
    GENRES,
    INSTRUMENTS,
    MOODS,
    VOCALS,
    PictureStyle,
    draw_picture_style,
    draw_style,
)

FPS = 12
STYLE = PictureStyle("pop", "happy", 120, seed=1)


def clip(style, duration=4.0, **options):
    return np.stack(list(render(style, duration, FPS, **options)))


def motion(frames):
    """(frames - 1,): the mean absolute change from frame to frame."""
    return np.abs(np.diff(frames.astype(np.int16), axis=0)).mean(axis=(1, 2, 3))


def describe_pictures(frames):
    """A histogram of 64 colours, light, edges and motion."""
    red, green, blue = np.moveaxis(frames[::4] // 64, -1, 0)
    colour = 16 * red + 4 * green + blue
    histogram = np.sqrt(np.bincount(colour.ravel(), minlength=64) / colour.size)
    grey = frames[::4].mean(axis=-1)
    edges = [np.abs(np.diff(grey, axis=axis)).mean() for axis in (1, 2)]
    return np.concatenate(
        [histogram, [grey.mean(), grey.std(), *np.log(edges)], np.log(np.quantile(motion(frames), [0.5, 0.9, 1]) + 0.1)]
    )


@pytest.fixture(scope="module")
def seen():
    styles = [draw_style(5, i) for i in range(300)]
    return styles, np.array([describe_pictures(clip(draw_picture_style(style), 3.0)) for style in styles])


@pytest.mark.parametrize(("attribute", "names"), [("genre", GENRES), ("mood", MOODS)])
def test_colour_and_motion_tell_genre_and_mood(seen, attribute, names):
    styles, features = seen
    found = accuracy(features, [getattr(style, attribute) for style in styles], names)
    assert 0.6 < found < 0.97  # not more: pictures lie


def test_colour_and_motion_tell_the_tempo(seen):
    styles, features = seen
    tempo = np.log([style.tempo for style in styles])
    predicted = linear_scores(features, tempo - tempo[:200].mean())
    assert np.corrcoef(predicted, tempo[200:])[0, 1] > 0.35


def test_pictures_tell_neither_instruments_nor_vocals(seen):
    styles, features = seen
    areas = areas_under_curves(features, styles, INSTRUMENTS)
    assert areas.mean() == pytest.approx(0.5, abs=0.06), areas
    vocals = accuracy(features, [style.vocals for style in styles], VOCALS)
    assert vocals == pytest.approx(1 / 3, abs=0.15)


@pytest.mark.parametrize("genre", GENRES)
def test_there_is_a_cut_every_bar(genre):
    frames = clip(replace(STYLE, genre=genre, tempo=120), duration=8.5)  # a bar lasts 24 frames
    change = motion(frames)
    cuts = [23, 47, 71, 95]
    steady = np.delete(change, cuts)
    assert change[cuts].min() > steady.max()
    assert steady.min() > 0.2  # something always moves


@pytest.mark.parametrize("genre", GENRES)
def test_faster_music_has_faster_pictures(genre):
    slow, fast = (np.median(motion(clip(replace(STYLE, genre=genre, tempo=tempo)))) for tempo in (60, 150))
    assert fast > 1.25 * slow


def test_every_genre_and_mood_looks_different():
    looks = [describe_pictures(clip(PictureStyle(g, m, 100, seed=3), 1.0))[:66] for g in GENRES for m in MOODS]
    x = np.array(looks) / [*[0.1] * 64, 20, 20]
    distance = np.abs(x[:, None] - x[None]).sum(-1) + 1e9 * np.eye(len(x))
    assert distance.min() > 1


def test_frames_are_what_is_promised():
    frames = clip(STYLE, 1.5)
    assert frames.shape == (18, 90, 160, 3)
    assert frames.dtype == np.uint8
    assert clip(STYLE, 1.0, size=(33, 17)).shape == (12, 17, 33, 3)


def test_the_same_style_gives_the_same_frames_and_a_longer_one_begins_with_them():
    for mood in MOODS:
        style = replace(STYLE, mood=mood)
        long, short = clip(style, 4.0), clip(style, 2.5)
        assert np.array_equal(long[:30], short)
        assert not np.array_equal(long, clip(replace(style, seed=2), 4.0))


@pytest.mark.parametrize("genre", ["electronic", "pop", "blues"])  # their shapes prefer some colours of the ring
def test_scenes_take_their_colours_in_turn(genre):
    firsts = [next(render(replace(STYLE, genre=genre, seed=seed), 1.0)).mean(axis=(0, 1)) for seed in range(12)]
    assert np.std(firsts, axis=0).max() > 10


def test_no_flicker():
    """Between cuts the light of the whole picture never jumps: pictures must be safe to watch."""
    for genre in GENRES:
        for mood in MOODS:
            light = clip(PictureStyle(genre, mood, 160, seed=4), 1.4).mean(axis=(1, 2, 3))  # one scene
            assert np.abs(np.diff(light)).max() < 20, (genre, mood)


def test_tables_cover_all_names():
    assert set(PALETTES) == set(SHAPES) == set(GENRES)
    assert set(GRADES) == set(MOODS)
    assert {grade.texture for grade in GRADES.values()} == set(TEXTURES)


@pytest.mark.parametrize(
    ("duration", "fps", "size"),
    [(0.0, 12, (160, 90)), (float("nan"), 12, (160, 90)), (1.0, 0, (160, 90)), (1.0, 12, (160, 8))],
)
def test_impossible_arguments_are_refused_at_once(duration, fps, size):
    with pytest.raises(ViMLError, match="accepted"):
        render(STYLE, duration, fps, size)
