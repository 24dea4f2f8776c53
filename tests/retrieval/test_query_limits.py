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
from viml_hf.processing.media import open_stream
from viml_hf.processing.video_decoding import iter_frames
from viml_hf.retrieval.queries import embed_query


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
        ({"video_pixels": 2**16 * 143}, "a video of more than 9,371,648 pixels"),
    ],
)
def test_a_video_beyond_a_limit_is_refused_by_its_packets(video, limits, said):
    for source in (str(video), video, video.read_bytes()):
        with pytest.raises(MediaDecodeError, match=said):
            QueryLimits(**limits).check(source)


def test_a_query_within_the_limits_is_taken(video):
    QueryLimits(seconds=6, picture_pixels=64 * 48, video_pixels=2**16 * 144, characters=3).check(str(video), "abc")
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


def test_pictures_beyond_the_limit_are_not_decoded_to_find_out(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (2048, 2048, 3), np.uint8)  # takes long to decode
    path = write_video(tmp_path / "large.mp4", [noise] * 3)

    def seconds_of(limits):
        begin = time.thread_time()
        with pytest.raises(MediaDecodeError, match="pictures of more than 1,000"):
            limits.check(path)
        return time.thread_time() - begin

    refused = min(seconds_of(QueryLimits(picture_pixels=1000)) for _ in range(3))
    with open_stream(path, "video", max_pixels=1000) as opened:
        assert (opened.stream.width, opened.stream.height) == (2048, 2048)
    begin = time.thread_time()
    with open_stream(path, "video"):
        assert refused < (time.thread_time() - begin) / 2


def test_pictures_that_grow_on_the_way_are_not_decoded(tmp_path):
    small, large = (write_video(tmp_path / f"{size}.h264", 24, size=(size, size)) for size in (64, 512))
    joined = small.read_bytes() + large.read_bytes()
    QueryLimits(picture_pixels=64 * 64).check(joined)
    assert len(list(iter_frames(joined))) == 2 * len(list(iter_frames(joined, max_pixels=2 * 64 * 64)))
    encoder = make_encoder(0)
    whole, first = (embed_query(encoder, joined, limits=QueryLimits(picture_pixels=size**2)) for size in (512, 64))
    assert np.array_equal(first, embed_query(encoder, small.read_bytes()))
    assert not np.array_equal(whole, first)


@pytest.mark.parametrize("name", ["seconds", "picture_pixels", "video_pixels", "characters"])
def test_a_limit_is_above_0(name):
    with pytest.raises(ViMLError, match=f"{name}=0: give a number above 0"):
        QueryLimits(**{name: 0})


def test_the_recommender_holds_its_queries_to_them(video, tmp_path):
    encoder = make_encoder(0)
    write_audio(tmp_path / "a.wav", sine(440, 4, 22050), 22050)
    index = build_index([tmp_path / "a.wav"], encoder, model="x", progress=False)
    with pytest.raises(ViMLError, match="more than 10,000 characters"):
        Recommender(encoder, index, QueryLimits(characters=10_000)).recommend(text="a " * 10_000)
    (best,) = Recommender(encoder, index).recommend(text="a " * 10_000, k=1)
    assert np.isfinite(best.score)
    short = Recommender(encoder, index, QueryLimits(seconds=2))
    for form in (str(video), video.open("rb"), {"bytes": video.read_bytes(), "path": None}):
        with pytest.raises(MediaDecodeError, match="more than 2 seconds"):
            short.recommend(form)
