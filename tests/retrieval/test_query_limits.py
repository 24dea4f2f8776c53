"""A query beyond a limit is refused before anything of its video is decoded."""

import time
from fractions import Fraction

import av
import numpy as np
import pytest

from tests.media import sine, write_audio, write_video
from tests.retrieval.conftest import make_encoder
from viml_hf import QueryLimits, Recommender, ViMLError, build_index
from viml_hf.errors import MediaDecodeError


def long_gif(path, pictures=12, seconds=600):
    """A few hundred bytes that are hours of pictures."""
    with av.open(path, "w") as container:
        stream = container.add_stream("gif", rate=10)
        stream.width, stream.height, stream.pix_fmt = 16, 16, "rgb8"
        for index in range(pictures):
            frame = av.VideoFrame.from_ndarray(np.full((16, 16, 3), index * 20, np.uint8), format="rgb24")
            frame.pts, frame.time_base = index * seconds * 10, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("limits") / "query.mp4", 24 * 6)


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        ({"seconds": 5}, "a video of more than 5 seconds"),
        ({"picture_pixels": 3000}, "pictures of more than 3,000 pixels"),
        ({"video_pixels": 3072 * 143}, "a video of more than 439,296 pixels"),
    ],
)
def test_a_video_beyond_a_limit_is_refused_by_its_packets(video, limits, said):
    for source in (str(video), video, video.read_bytes()):
        with pytest.raises(MediaDecodeError, match=said):
            QueryLimits(**limits).check(source)


def test_a_query_within_the_limits_is_taken(video):
    QueryLimits(seconds=6, picture_pixels=64 * 48, video_pixels=64 * 48 * 144, characters=3).check(str(video), "abc")
    QueryLimits().check(np.zeros((1, 4, 4, 3), np.uint8))


def test_hours_in_a_few_bytes_are_refused_at_once(tmp_path):
    path = long_gif(tmp_path / "long.gif")
    assert path.stat().st_size < 10_000
    begin = time.perf_counter()
    with pytest.raises(MediaDecodeError, match="more than 3,600 seconds"):
        QueryLimits(seconds=3600).check(path)
    assert time.perf_counter() - begin < 0.5


def test_a_picture_that_is_held_for_as_long_as_there_is_sound_counts(tmp_path):
    path = write_video(tmp_path / "still.mkv", 2, audio=sine(440, 30, 8000), sampling_rate=8000)
    with pytest.raises(MediaDecodeError, match="a file of more than 20"):
        QueryLimits(seconds=20).check(path)


@pytest.mark.parametrize("name", ["seconds", "picture_pixels", "video_pixels", "characters"])
def test_a_limit_is_above_0(name):
    with pytest.raises(ViMLError, match=f"{name}=0: give a number above 0"):
        QueryLimits(**{name: 0})


def test_the_recommender_holds_its_queries_to_them(video, tmp_path):
    encoder = make_encoder(0)
    write_audio(tmp_path / "a.wav", sine(440, 4, 22050), 22050)
    index = build_index([tmp_path / "a.wav"], encoder, model="x", progress=False)
    with pytest.raises(ViMLError, match="more than 10,000 characters"):
        Recommender(encoder, index).recommend(text="a " * 10_000)
    short = Recommender(encoder, index, QueryLimits(seconds=2))
    for form in (str(video), video.open("rb"), {"bytes": video.read_bytes(), "path": None}):
        with pytest.raises(MediaDecodeError, match="more than 2 seconds"):
            short.recommend(form)
