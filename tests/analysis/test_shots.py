import numpy as np
import pytest

from tests.media import write_video
from viml_hf.analysis.shots import cuts_on_beats, find_cuts, sudden_changes
from viml_hf.generated.pictures import render
from viml_hf.generated.styles import draw_picture_style, draw_style


def test_the_cuts_of_a_generated_video(tmp_path):
    picture = draw_picture_style(draw_style(0, 4))
    bar = 240 / picture.tempo
    video = write_video(tmp_path / "clip.mp4", render(picture, 3.5 * bar, 12, (160, 90)), 12)
    assert find_cuts(video) == pytest.approx([bar, 2 * bar, 3 * bar], abs=1 / 12 + 0.01)


def test_cuts_have_the_times_of_the_pictures_also_at_a_variable_rate(tmp_path):
    times = [0.0, 0.1, 0.5, 0.55, 1.3, 1.4, 2.0, 2.9, 3.0]
    rows = np.mgrid[:48, :64][1].astype(np.uint8)
    pictures = [np.repeat((rows + (index >= 4) * 150)[..., None], 3, 2) for index in range(len(times))]
    assert find_cuts(write_video(tmp_path / "clip.mp4", pictures, times=times)) == pytest.approx([1.3], abs=0.001)


def test_motion_and_fades_are_no_cuts():
    times = np.arange(40) / 10
    assert sudden_changes(np.full(40, 0.2), times) == []
    fade = np.exp(-0.5 * ((np.arange(40) - 20) / 3) ** 2) * 0.2
    assert sudden_changes(fade, times) == []


def test_real_cuts_are_those_of_ffmpegs_detector(shared_media):
    """`scdet` at its default threshold finds these."""
    videos = shared_media / "videos"
    assert find_cuts(videos / "big_buck_bunny_0_30.webm") == pytest.approx([11.795, 15.67, 22.961], abs=0.01)
    assert find_cuts(videos / "nasa_13013.mp4") == pytest.approx([8.008], abs=0.01)
    assert find_cuts(videos / "chaplin.mp4") == []


def test_cuts_on_beats_and_between_them():
    beats = np.arange(0, 20, 0.5)
    assert cuts_on_beats([1.0, 2.5, 7.0], beats) == (1.0, 0.0)
    assert cuts_on_beats([1.25, 2.75], beats)[0] < 0.01
    score, offset = cuts_on_beats([1.25, 2.75], beats, reach=0.3)
    assert (round(score, 2), round(abs(offset), 2)) == (1.0, 0.25)
    assert cuts_on_beats([], beats) == (0.0, 0.0)
    assert cuts_on_beats([1.0], []) == (0.0, 0.0)
