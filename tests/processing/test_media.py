import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest

from tests.media import sine, write_audio, write_video
from viml_hf.errors import MediaDecodeError
from viml_hf.processing import media
from viml_hf.processing.media import OpenStream, iter_segments, open_stream, source_name
from viml_hf.processing.segments import segment_bounds


@pytest.mark.parametrize("rate", [1, 6, 8])
def test_iter_segments_gives_the_segments_of_segment_bounds(rate: int) -> None:
    for length in range(45 * rate):
        segments = list(iter_segments([np.arange(length)], rate))
        assert [(segment.start, segment.end) for segment in segments] == segment_bounds(length / rate)
        assert all(len(segment.data) == round((segment.end - segment.start) * rate) for segment in segments)


def test_source_name(tmp_path: Path) -> None:
    assert source_name(tmp_path) == str(tmp_path)
    assert source_name("clip.mp4") == "clip.mp4"
    assert source_name(b"...") == "<bytes>"


def test_the_file_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_audio(tmp_path / "sine.wav", sine(440, 1, 8000), 8000)
    file = open(path, "rb")  # noqa: SIM115
    monkeypatch.setattr(media, "open", lambda *_: file, raising=False)
    with open_stream(path, "audio") as opened:
        assert opened.stream.type == "audio"
        assert not file.closed
    assert file.closed


def test_a_playlist_opens_no_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "other.mp4", 1)
    playlist = b"ffconcat version 1.0\nfile other.mp4\n"
    with av.open(io.BytesIO(playlist)) as container:  # FFmpeg would open it
        assert container.streams.video
    with pytest.raises(MediaDecodeError, match="not a video or music file"), open_stream(playlist, "video"):
        pass


def test_a_failing_disk_is_an_error_and_not_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class FailingFile(io.FileIO):
        def read(self, size: int = -1) -> bytes:
            if self.tell() > 700_000:
                raise OSError(5, "Input/output error")
            return super().read(size)  # type: ignore[return-value]

    path = write_audio(tmp_path / "noise.wav", np.random.default_rng(0).uniform(-1, 1, 400_000), 48_000)
    monkeypatch.setattr(media, "open", FailingFile, raising=False)
    with (
        pytest.raises(MediaDecodeError, match=r"noise\.wav: cannot be read \(Input/output error\)"),
        open_stream(path, "audio") as opened,
    ):
        list(opened.decode())


class FakeStream:
    """Yields packets and then fails; the decoder holds back one frame until an empty packet drains it, once."""

    type = "video"
    index = 0
    duration = start_time = None
    disposition = 0
    time_base = Fraction(1, 24)

    def __init__(self, packets: list[str | None], error: Exception):
        self.packets = packets
        self.error = error
        streams = SimpleNamespace(video=(self,), audio=())
        mp4 = SimpleNamespace(name="mp4", flags=0)
        self.container = SimpleNamespace(demux=self.demux, duration=None, streams=streams, format=mp4)
        self.held: list[Any] = []
        self.drained = False

    def demux(self, stream: Any) -> Iterator[Any]:
        for name in self.packets:
            sidedata = SimpleNamespace(has_sidedata=lambda kind: False)
            yield SimpleNamespace(
                **vars(sidedata), name=name, size=len(name or ""), pts=None, dts=None, stream=self, stream_index=0
            )
        raise self.error

    def decode(self, packet: Any) -> list[Any]:
        if self.drained:
            raise av.EOFError(1, "drained")
        self.drained = packet is None or not packet.size
        frames = self.held
        self.held = [] if self.drained else [SimpleNamespace(name=packet.name, is_corrupt=False)]
        return frames


@pytest.mark.parametrize(
    ("packets", "error", "warnings"),
    [
        (["a", "b"], av.InvalidDataError(1, "bad chunk"), ["<bytes>: reading stopped early (bad chunk)"]),
        (["a", "b"], IndexError("list index out of range"), []),
        (["a", "b", None], IndexError("list index out of range"), []),
    ],
)
def test_a_container_that_breaks_off_still_drains_the_decoder(
    packets: list[str | None], error: Exception, warnings: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert [frame.name for frame in OpenStream(FakeStream(packets, error), b"").decode()] == ["a", "b"]
    assert caplog.messages == warnings


def test_a_length_that_is_not_above_0_is_none() -> None:
    def declared(stream: int | None, whole: int | None) -> float | None:
        faked = FakeStream([], IndexError())
        faked.duration, faked.container.duration, faked.time_base = stream, whole, Fraction(1, 10)
        return OpenStream(faked, b"").declared_seconds

    assert declared(30, -1) == 3.0
    assert [declared(number, 2_000_000) for number in (None, 0, -30)] == [2.0, 2.0, 2.0]
    assert [declared(-30, number) for number in (None, 0, -1)] == [None, None, None]
