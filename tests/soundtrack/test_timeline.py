import sys

import numpy as np
import pytest

from tests.media import write_video
from viml_hf import Moment, ViMLError
from viml_hf.soundtrack.edit_timeline import write_timeline

otio = pytest.importorskip("opentimelineio", reason="needs the extra timeline")

MOMENT = Moment(((31.437, 36.937), (10.25, 13.0)), 0.5, (0.0, 0.52, 1.04, 5.6), (0.0, 5.6))
DURATION, FPS = 8.0, 24
CUTS = [1.5, 4.25]


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp("timeline") / "clip.mp4", 8 * FPS)


def seconds(time):
    return time.value / time.rate


def write(path, video):
    write_timeline(path, video, DURATION, "music/song.mp3", MOMENT, CUTS)
    return otio.adapters.read_from_file(str(path), **({"rate": FPS} if path.suffix == ".edl" else {}))


def test_otio_has_the_moment_to_the_sample_and_all_markers(tmp_path, video):
    pictures, music = write(tmp_path / "clip.otio", video).tracks
    assert [c.name for c in pictures] == ["clip.mp4"]
    assert seconds(pictures[0].source_range.duration) == DURATION
    assert [seconds(m.marked_range.start_time) for m in pictures[0].markers] == CUTS
    assert [seconds(c.source_range.start_time) for c in music] == pytest.approx([31.437, 10.25], abs=2e-5)
    assert [seconds(c.source_range.duration) for c in music] == pytest.approx([5.5, 2.5], abs=2e-5)  # as the video ends
    assert [m.name for m in music[0].markers] == ["bar", "beat", "beat"]
    beats = [seconds(m.marked_range.start_time) for m in music[0].markers]
    assert beats == pytest.approx([31.437, 31.957, 32.477], abs=2e-5)
    assert seconds(music[1].markers[0].marked_range.start_time) == pytest.approx(10.35, abs=2e-5)
    assert music[0].media_reference.target_url.startswith("file:///")


@pytest.mark.parametrize("suffix", [".edl", ".fcpxml"])
def test_formats_of_frames_come_back_as_they_were_to_the_frame(tmp_path, video, suffix):
    found = write(tmp_path / f"clip{suffix}", video)
    if not isinstance(found, otio.schema.Timeline):  # FCPXML may come as a collection
        found = next(iter(found.find_children(descended_from_type=otio.schema.Timeline)))
    clips = {kind: [c for t in found.tracks if t.kind == kind for c in t.find_clips()] for kind in ("Video", "Audio")}
    assert seconds(clips["Video"][0].source_range.duration) == pytest.approx(DURATION, abs=1 / FPS)
    music = sorted({(seconds(c.source_range.start_time), seconds(c.source_range.duration)) for c in clips["Audio"]})
    assert np.allclose(music, [(10.25, 2.5), (31.437, 5.5)], atol=0.5 / FPS + 1e-6)


def test_an_unknown_suffix_and_a_missing_package_are_one_line(tmp_path, video, monkeypatch):
    with pytest.raises(ViMLError, match=r"one of \.otio"):
        write_timeline(tmp_path / "clip.xml", video, DURATION, "song.mp3", MOMENT)
    monkeypatch.setitem(sys.modules, "opentimelineio", None)
    with pytest.raises(ViMLError, match=r"pip install 'viml-hf\[timeline\]'"):
        write_timeline(tmp_path / "clip.otio", video, DURATION, "song.mp3", MOMENT)
    assert list(tmp_path.iterdir()) == []
