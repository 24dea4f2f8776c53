import base64
import hashlib
import io
from html.parser import HTMLParser

import av
import numpy as np
import pytest
from PIL import Image

from tests.media import sine, write_audio
from tests.media import write_video as write_frames
from viml_hf.demo.report import ReportExample, ReportRecommendation, write_report
from viml_hf.errors import MediaDecodeError

RED, GREEN, BLUE = (220, 30, 30), (30, 200, 30), (30, 30, 220)


def picture(colour, other=None):
    """One colour, or the left half in one and the right half in another."""
    pixels = np.empty((48, 64, 3), np.uint8)
    pixels[:, :32], pixels[:, 32:] = colour, other or colour
    return pixels


def write_video(path, *pictures, **options):
    """A second of each picture."""
    return write_frames(path, np.repeat(pictures, 10, axis=0), fps=10, codec="mpeg4", **options)


def write_music(path, *tones):
    """A second of each tone (Hz)."""
    return write_audio(path, np.concatenate([sine(hertz, 1, 8000) for hertz in tones]), 8000)


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

    def lines(self, tag):
        return [data for t, data in self.texts if t == tag]

    def text(self, tag):
        return "".join(self.lines(tag))

    def frames(self):
        return [Image.open(io.BytesIO(payload(image["src"], "image/jpeg"))).convert("RGB") for image in self.all("img")]


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


def mean_colour(image, box=None):
    return np.asarray(image.crop(box) if box else image).reshape(-1, 3).mean(axis=0)


@pytest.fixture
def video(tmp_path):
    return write_video(tmp_path / "clip.mp4", *map(picture, (RED, GREEN, BLUE)))


@pytest.fixture
def music(tmp_path):
    return write_music(tmp_path / "song.wav", 300, 600, 900, 1200)


@pytest.fixture
def write(tmp_path):
    """Write a page of these examples and read it."""

    def write(*examples, name="page.html", title="t", table=(), notes=(), **options):
        path = tmp_path / name
        return Page(write_report(path, title=title, table=table, notes=notes, examples=examples, **options))

    return write


def recommendation(music, rank=1, name="song", start=0.0, end=2.0, **options):
    return ReportRecommendation(rank, name, music, 0.5, start, end, **options)


def test_a_ranking_shows_what_a_listener_needs(write, video, music):
    first = ReportRecommendation(1, "Slow song", music, 0.71256, 0.0, 2.0, "A slow song.", True)
    second = ReportRecommendation(12, "Fast song", str(music), -0.02, 61.0, 125.9)
    page = write(
        ReportExample(video, "calm piano", [first], [second]),
        name="new/report.html",
        title="Music",
        table=[{"system": "ViML", "R@1": 12.5, "MR": 3}, {"system": "chance", "R@1": None}],
        notes=["First note.", "Second note."],
    )
    assert page.text("title") == page.text("h1") == "Music"
    assert page.lines("th") == ["system", "R@1", "MR"]
    assert page.lines("td") == ["ViML", "12.50", "3", "chance", "–", "–"]
    assert page.text("blockquote") == "calm piano"
    assert page.lines("h3") == ["Video only", "Video + text"]
    assert page.lines("bdi") == ["Slow song", "Fast song"]
    assert [a["class"] for a in page.all("li")] == ["match", "other"]
    assert page.lines("span") == ["1", "true match", "12"]
    facts = ["score 0.713 · 0:00–0:02", "score -0.020 · 1:01–2:05"]
    assert [line for line in page.lines("p") if line.strip()][:5] == [
        *("First note.", "Second note.", "A slow song.", *facts)
    ]


def test_what_is_empty_is_not_shown(write, video, music):
    page = write()
    assert not page.all("table")
    assert not page.all("section")
    page = write(ReportExample(video, "", [recommendation(music)], []))
    assert page.text("h3") == "Video only"
    assert not page.all("blockquote")


HOSTILE = (
    """</p></title></style></script><script>alert(1)</script><img src='http://x/y' onerror="a()"> & $title ${x} &lt;"""
)


def test_every_text_is_escaped(write, tmp_path, music):
    def hostile(text, name):
        item = recommendation(music, name=text, description=text)
        example = ReportExample(write_video(tmp_path / name, picture(RED)), text, [item], [item])
        return write(example, title=text, table=[{"system": text, text: text}], notes=[text])

    plain = hostile("harmless", "clip.mp4")
    name = """a"><img src=x onerror='b()'>.mp4"""
    page = hostile(HOSTILE + "{{ 7 * 7 }}{% raise %}", name)
    assert [(tag, sorted(attrs)) for tag, attrs in page.tags] == [(tag, sorted(attrs)) for tag, attrs in plain.tags]
    for tag in ("title", "h1", "th", "td", "blockquote", "bdi", "p"):
        assert HOSTILE + "{{ 7 * 7 }}{% raise %}" in page.text(tag), tag
    assert name in page.text("h2")
    assert page.all("video")[0]["aria-label"] == name
    assert page.all("img")[0]["alt"] == f"{name}, frame 1"
    assert page.all("audio", **{"aria-label": HOSTILE + "{{ 7 * 7 }}{% raise %}"})


def test_nothing_is_loaded_from_outside_and_no_folder_is_shown(write, tmp_path, video, music):
    page = write(ReportExample(video, "x", [recommendation(music)], []))
    for tag, attrs in page.tags:
        for name in ("src", "href", "poster", "srcset", "data", "action", "background"):
            assert attrs.get(name, "data:").startswith("data:"), (tag, name)
        assert not [name for name in attrs if name.startswith("on") or name == "style"], tag
    for word in ("url(", "@import", "http:", "https:", "fetch(", "import(", str(tmp_path)):
        assert word not in page.source
    assert not page.all("iframe")
    assert all("src" not in attrs for attrs in page.all("script"))


def test_the_policy_allows_this_style_and_script_only(write):
    page = write()
    policy = page.all("meta", **{"http-equiv": "Content-Security-Policy"})[0]["content"]
    directives = dict(part.split(maxsplit=1) for part in policy.split("; "))
    assert directives.pop("default-src") == "'none'"
    for tag in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(page.text(tag).encode()).digest()).decode()
        assert directives.pop(f"{tag}-src") == f"'sha256-{digest}'"
    assert directives == {"base-uri": "'none'", "form-action": "'none'", "img-src": "data:", "media-src": "data:"}


def test_a_track_is_embedded_once_however_often_it_is_listed(write, tmp_path, video, music):
    other = write_music(tmp_path / "other.wav", 500, 500)
    page = write(
        ReportExample(
            video,
            "x",
            [recommendation(music, start=1.5, end=2.5), recommendation(other, rank=2)],
            [recommendation(str(music), start=2, end=3), recommendation(music, rank=2, start=1, end=2)],
        ),
        ReportExample(video, "y", [], [recommendation(other)]),
    )
    sources = {a["id"]: a["src"] for a in page.all("audio") if "src" in a}
    assert page.source.count("data:audio/mp4;base64,") == len(sources) == 2
    players = [a for a in page.all("audio") if "data-music" in a]
    assert all("controls" in a for a in players)
    assert [a["data-music"] for a in players] == ["music-1", "music-2", "music-1", "music-1", "music-2"]
    assert [float(a["data-start"]) for a in players] == [0.5, 0.0, 1.0, 0.0, 0.0]
    samples = sound(sources["music-1"])  # 1 s to 3 s: the second and the third tone
    assert len(samples) / 44_100 == pytest.approx(2, abs=0.03)
    assert loudest_hertz(samples[5_000:40_000]) == pytest.approx(600, abs=5)
    assert loudest_hertz(samples[50_000:85_000]) == pytest.approx(900, abs=5)


def test_a_window_beyond_the_end_of_the_music_is_cut(write, video, music):
    page = write(ReportExample(video, "", [recommendation(music, start=3, end=33)], []))
    assert len(sound(page.all("audio", id="music-1")[0]["src"])) / 44_100 == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("held", [64, 8])  # of 18 frames
def test_three_frames_from_beginning_middle_and_end(write, video, held, monkeypatch):
    monkeypatch.setattr("viml_hf.demo.report._MAX_FRAMES", held)
    page = write(ReportExample(video, "", [], []))
    for image, colour in zip(page.frames(), (RED, GREEN, BLUE), strict=True):
        assert image.size == (240, 180)
        np.testing.assert_allclose(mean_colour(image), colour, atol=25)
    assert page.all("video")[0]["poster"] == page.all("img")[1]["src"]


def test_a_video_filmed_upright_is_shown_upright(write, tmp_path):
    path = write_video(tmp_path / "phone.mp4", picture(RED, BLUE), rotation=-90)
    for image in write(ReportExample(path, "", [], [])).frames():
        assert image.size == (180, 240)
        np.testing.assert_allclose(mean_colour(image, (10, 10, 170, 100)), RED, atol=25)
        np.testing.assert_allclose(mean_colour(image, (10, 140, 170, 230)), BLUE, atol=25)


def test_a_video_plays_up_to_the_size_limit_if_browsers_know_its_kind(write, tmp_path, video):
    example, size = ReportExample(video, "", [], []), video.stat().st_size
    assert payload(write(example, max_video_bytes=size).all("video")[0]["src"], "video/mp4") == video.read_bytes()
    other = ReportExample(write_video(tmp_path / "clip.mkv", picture(RED)), "", [], [])
    for page in (write(example, max_video_bytes=size - 1), write(other)):
        assert not page.all("video")
        assert len(page.frames()) == 3


def test_the_same_input_gives_the_same_bytes(write, tmp_path, video, music):
    example = ReportExample(video, "x", [recommendation(music)], [])
    assert write(example, name="a.html").source == write(example, name="b.html").source
    assert sorted(file.name for file in tmp_path.glob("*.html*")) == ["a.html", "b.html"]


def test_an_undecodable_file_name_is_shown_as_far_as_possible(write):
    assert write(title="caf\udce9").text("h1") == "caf?"


def test_unreadable_media_are_named_and_the_older_page_stays(write, tmp_path, video, music):
    silent, text, page = write_video(tmp_path / "silent.mp4", picture(RED)), tmp_path / "text.mp4", tmp_path / "a.html"
    text.write_text("not media")
    page.write_text("older")
    for bad_video, bad_music, start, message in [
        (tmp_path / "none.mp4", music, 0, "none.mp4: cannot be read"),
        (text, music, 0, "text.mp4: not a video or music file"),
        (music, music, 0, "song.wav: no video stream"),
        (video, tmp_path / "none.wav", 0, "none.wav: cannot be read"),
        (video, silent, 0, "silent.mp4: no audio stream"),
        (video, music, 9.0, r"song.wav: its audio ends at \d\.\d s, but start=9"),
    ]:
        item = recommendation(bad_music, start=start, end=start + 1)
        with pytest.raises(MediaDecodeError, match=message):
            write(ReportExample(bad_video, "", [item], []), name="a.html")
    assert page.read_text() == "older"
    assert not list(tmp_path.glob("*.tmp"))
