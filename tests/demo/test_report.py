import base64
import hashlib
import io
import struct
import wave
from html.parser import HTMLParser

import av
import numpy as np
import pytest
from PIL import Image

from viml_hf.demo.report import ReportExample, ReportRecommendation, write_report
from viml_hf.errors import MediaDecodeError

RED, GREEN, BLUE = (220, 30, 30), (30, 200, 30), (30, 30, 220)


def picture(colour, other=None):
    """One colour, or the left half in one and the right half in another."""
    pixels = np.empty((48, 64, 3), np.uint8)
    pixels[:, :32], pixels[:, 32:] = colour, other or colour
    return pixels


def write_video(target, pictures, codec="mpeg4", format="mp4"):
    """Ten equal frames (one second) of each picture."""
    with av.open(target, "w", format=format) as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 64, 48, "yuv420p", 1_000_000
        for pixels in pictures:
            for _ in range(10):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return target


def write_music(path, tones, rate=8000):
    """Each tone (Hz) for one second."""
    time = np.arange(rate) / rate
    samples = np.concatenate([0.4 * np.sin(2 * np.pi * hertz * time) for hertz in tones])
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return path


class Page(HTMLParser):
    """The tags with their attributes, and the text by the tag that holds it."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.texts, self._open = [], [], []
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag):
        while self._open.pop() != tag:
            pass

    def handle_data(self, data):
        self.texts.append((self._open[-1] if self._open else "", data))

    def all(self, tag, **wanted):
        return [a for t, a in self.tags if t == tag and all(a.get(name) == value for name, value in wanted.items())]

    def text(self, tag):
        return "".join(data for t, data in self.texts if t == tag)


def payload(uri, media_type):
    head, data = uri.split(",", 1)
    assert head == f"data:{media_type};base64"
    return base64.b64decode(data, validate=True)


def sound(uri):
    """Decoded mono samples at 44,100 Hz."""
    with av.open(io.BytesIO(payload(uri, "audio/mp4"))) as container:
        assert container.streams.audio[0].codec_context.name == "aac"
        return np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])


def loudest_hertz(samples):
    return np.abs(np.fft.rfft(samples * np.hanning(len(samples)))).argmax() * 44_100 / len(samples)


def frames(page):
    return [Image.open(io.BytesIO(payload(image["src"], "image/jpeg"))).convert("RGB") for image in page.all("img")]


def mean_colour(image, box=None):
    return np.asarray(image.crop(box) if box else image).reshape(-1, 3).mean(axis=0)


@pytest.fixture
def video(tmp_path):
    path = tmp_path / "clip.mp4"
    write_video(str(path), [picture(colour) for colour in (RED, GREEN, BLUE)])
    return path


@pytest.fixture
def music(tmp_path):
    return write_music(tmp_path / "song.wav", [300, 600, 900, 1200])


def write(path, *, title="t", table=(), notes=(), examples=(), **options):
    return Page(write_report(path, title=title, table=table, notes=notes, examples=examples, **options))


def recommendation(music, rank=1, name="song", start=0.0, end=2.0, **options):
    return ReportRecommendation(rank, name, music, 0.5, start, end, **options)


def test_a_ranking_shows_what_a_listener_needs(tmp_path, video, music):
    first = ReportRecommendation(1, "Slow song", music, 0.71256, 0.0, 2.0, "A slow song.", True)
    second = ReportRecommendation(12, "Fast song", str(music), -0.02, 61.0, 125.9)
    page = write(
        tmp_path / "new" / "report.html",
        title="Music",
        table=[{"system": "ViML", "R@1": 12.5, "MR": 3}, {"system": "chance", "R@1": None}],
        notes=["First note.", "Second note."],
        examples=[ReportExample(video, "calm piano", [first], [second])],
    )
    assert page.text("title") == page.text("h1") == "Music"
    assert "First note." in page.text("p")
    assert [data for tag, data in page.texts if tag == "th"] == ["system", "R@1", "MR"]
    assert [data for tag, data in page.texts if tag == "td"] == ["ViML", "12.50", "3", "chance", "–", "–"]
    assert page.text("blockquote") == "calm piano"
    assert [data for tag, data in page.texts if tag == "h3"] == ["Video only", "Video + text"]
    assert [data for tag, data in page.texts if tag == "bdi"] == ["Slow song", "Fast song"]
    assert [a["class"] for a in page.all("li")] == ["match", "other"]
    assert [data for tag, data in page.texts if tag == "span"] == ["1", "true match", "12"]
    assert "A slow song." in page.text("p")
    assert "score 0.713 · 0:00–0:02" in page.text("p")
    assert "score -0.020 · 1:01–2:05" in page.text("p")


def test_what_is_empty_is_not_shown(tmp_path, video, music):
    page = write(tmp_path / "a.html")
    assert not page.all("table")
    assert not page.all("section")
    page = write(tmp_path / "b.html", examples=[ReportExample(video, "", [recommendation(music)], [])])
    assert page.text("h3") == "Video only"
    assert not page.all("blockquote")


HOSTILE = (
    """</p></title></style></script><script>alert(1)</script><img src='http://x/y' onerror="a()"> & $title ${x} &lt;"""
)


def test_every_text_is_escaped(tmp_path, music):
    def content(text, name):
        video = tmp_path / name
        write_video(str(video), [picture(RED)])
        item = recommendation(music, name=text, description=text)
        return {
            "title": text,
            "table": [{"system": text, text: text}],
            "notes": [text],
            "examples": [ReportExample(video, text, [item], [item])],
        }

    plain = write(tmp_path / "plain.html", **content("harmless", "clip.mp4"))
    name = """a"><img src=x onerror='b()'>.mp4"""
    page = write(tmp_path / "hostile.html", **content(HOSTILE, name))
    shape = [(tag, sorted(attrs)) for tag, attrs in page.tags]
    assert shape == [(tag, sorted(attrs)) for tag, attrs in plain.tags]
    for tag in ("title", "h1", "th", "td", "blockquote", "bdi", "p"):
        assert HOSTILE in page.text(tag), tag
    assert name in page.text("h2")
    assert page.all("video")[0]["aria-label"] == name
    assert page.all("img")[0]["alt"] == f"{name}, frame 1"
    assert page.all("audio", **{"aria-label": HOSTILE})


def test_folders_are_not_shown(tmp_path, video, music):
    page = write(tmp_path / "a.html", examples=[ReportExample(video, "x", [recommendation(music)], [])])
    assert str(tmp_path) not in page.source


def test_nothing_is_loaded_from_outside(tmp_path, video, music):
    page = write(tmp_path / "a.html", examples=[ReportExample(video, "x", [recommendation(music)], [])])
    for tag, attrs in page.tags:
        for name in ("src", "href", "poster", "srcset", "data", "action", "background"):
            assert attrs.get(name, "data:").startswith("data:"), (tag, name)
        assert not [name for name in attrs if name.startswith("on") or name == "style"], tag
    for word in ("url(", "@import", "http:", "https:", "fetch(", "import("):
        assert word not in page.source
    assert not page.all("iframe")
    assert all("src" not in attrs for attrs in page.all("script"))


def test_the_policy_allows_this_style_and_script_only(tmp_path):
    page = write(tmp_path / "a.html")
    directives = dict(
        part.split(maxsplit=1)
        for part in page.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"].split("; ")
    )
    assert directives.pop("default-src") == "'none'"
    for tag in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(page.text(tag).encode()).digest()).decode()
        assert directives.pop(f"{tag}-src") == f"'sha256-{digest}'"
    assert directives == {"base-uri": "'none'", "form-action": "'none'", "img-src": "data:", "media-src": "data:"}


def test_a_track_is_embedded_once_however_often_it_is_listed(tmp_path, video, music):
    other = write_music(tmp_path / "other.wav", [500, 500])
    examples = [
        ReportExample(
            video,
            "x",
            [recommendation(music, start=1.5, end=2.5), recommendation(other, rank=2)],
            [recommendation(str(music), start=2, end=3), recommendation(music, rank=2, start=1, end=2)],
        ),
        ReportExample(video, "y", [], [recommendation(other)]),
    ]
    page = write(tmp_path / "a.html", examples=examples)
    sources = {a["id"]: a["src"] for a in page.all("audio") if "src" in a}
    assert page.source.count("data:audio/mp4;base64,") == len(sources) == 2
    players = [a for a in page.all("audio") if "data-music" in a]
    assert all("controls" in a for a in players)
    by_name = [a["data-music"] for a in players]
    assert len(by_name) == 5
    assert by_name[0] == by_name[2] == by_name[3] != by_name[1] == by_name[4]
    assert set(by_name) == set(sources)
    assert [float(a["data-start"]) for a in players] == [0.5, 0.0, 1.0, 0.0, 0.0]
    samples = sound(sources[by_name[0]])  # 1 s to 3 s: the second and the third tone
    assert len(samples) / 44_100 == pytest.approx(2, abs=0.03)
    assert loudest_hertz(samples[5_000:40_000]) == pytest.approx(600, abs=5)
    assert loudest_hertz(samples[50_000:85_000]) == pytest.approx(900, abs=5)


def test_a_window_beyond_the_end_of_the_music_is_cut(tmp_path, video, music):
    page = write(tmp_path / "a.html", examples=[ReportExample(video, "", [recommendation(music, start=3, end=33)], [])])
    assert len(sound(page.all("audio", id="music-1")[0]["src"])) / 44_100 == pytest.approx(1, abs=0.03)


def test_three_frames_from_beginning_middle_and_end(tmp_path, video):
    page = write(tmp_path / "a.html", examples=[ReportExample(video, "", [], [])])
    for image, colour in zip(frames(page), (RED, GREEN, BLUE), strict=True):
        assert image.size == (240, 180)
        np.testing.assert_allclose(mean_colour(image), colour, atol=25)
    assert page.all("video")[0]["poster"] == page.all("img")[1]["src"]


def test_frames_of_a_long_video_are_thinned_evenly(tmp_path, video, monkeypatch):
    monkeypatch.setattr("viml_hf.demo.report._MAX_FRAMES", 8)  # of 18
    for image, colour in zip(
        frames(write(tmp_path / "a.html", examples=[ReportExample(video, "", [], [])])), (RED, GREEN, BLUE), strict=True
    ):
        np.testing.assert_allclose(mean_colour(image), colour, atol=25)


def test_a_kind_of_video_that_browsers_do_not_play_is_shown_by_its_frames(tmp_path):
    path = tmp_path / "clip.mkv"
    write_video(str(path), [picture(RED)], format="matroska")
    page = write(tmp_path / "a.html", examples=[ReportExample(path, "", [], [])])
    assert not page.all("video")
    assert len(frames(page)) == 3


def test_a_video_filmed_upright_is_shown_upright(tmp_path):
    path = tmp_path / "phone.mp4"
    write_video(str(path), [picture(RED, BLUE)])
    data = bytearray(path.read_bytes())
    # The display matrix of a quarter turn clockwise: what is left in the stored picture is shown at the top.
    matrix = data.index(b"tkhd") + 44
    assert data[matrix : matrix + 20] == struct.pack(">5i", 0x10000, 0, 0, 0, 0x10000)
    data[matrix : matrix + 20] = struct.pack(">5i", 0, 0x10000, 0, -0x10000, 0)
    path.write_bytes(data)
    for image in frames(write(tmp_path / "a.html", examples=[ReportExample(path, "", [], [])])):
        assert image.size == (180, 240)
        np.testing.assert_allclose(mean_colour(image, (10, 10, 170, 100)), RED, atol=25)
        np.testing.assert_allclose(mean_colour(image, (10, 140, 170, 230)), BLUE, atol=25)


def test_a_video_plays_up_to_the_size_limit(tmp_path, video):
    size = video.stat().st_size
    examples = [ReportExample(video, "", [], [])]
    page = write(tmp_path / "a.html", examples=examples, max_video_bytes=size)
    assert payload(page.all("video")[0]["src"], "video/mp4") == video.read_bytes()
    page = write(tmp_path / "b.html", examples=examples, max_video_bytes=size - 1)
    assert not page.all("video")
    assert len(frames(page)) == 3


def test_the_same_input_gives_the_same_bytes(tmp_path, video, music):
    examples = [ReportExample(video, "x", [recommendation(music)], [])]
    first = write(tmp_path / "a.html", examples=examples)
    assert first.source == write(tmp_path / "b.html", examples=examples).source
    assert sorted(file.name for file in tmp_path.glob("*.html*")) == ["a.html", "b.html"]


def test_an_undecodable_file_name_is_shown_as_far_as_possible(tmp_path):
    assert write(tmp_path / "a.html", title="caf\udce9").text("h1") == "caf?"


def test_unreadable_media_are_named_and_the_older_page_stays(tmp_path, video, music):
    silent = tmp_path / "silent.mp4"
    write_video(str(silent), [picture(RED)])
    text = tmp_path / "text.mp4"
    text.write_text("not media")
    page = tmp_path / "a.html"
    page.write_text("older")
    for bad_video, bad_music, message in [
        (tmp_path / "none.mp4", music, "none.mp4: cannot be read"),
        (text, music, "text.mp4: not a video or music file"),
        (music, music, "song.wav: no video stream"),
        (video, tmp_path / "none.wav", "none.wav: cannot be read"),
        (video, silent, "silent.mp4: no audio stream"),
    ]:
        with pytest.raises(MediaDecodeError, match=message):
            write(page, examples=[ReportExample(bad_video, "", [recommendation(bad_music)], [])])
    with pytest.raises(MediaDecodeError, match=r"song.wav: it has no sound from 9.0 to 10.0 s"):
        write(page, examples=[ReportExample(video, "", [recommendation(music, start=9.0, end=10.0)], [])])
    assert page.read_text() == "older"
    assert not list(tmp_path.glob("*.tmp"))
