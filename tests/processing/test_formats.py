"""Formats that readers are known to stumble over, each written here and read back."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.media import frame_number, numbered_frame, sine, write_audio
from viml_hf.processing.audio_decoding import iter_audio, load_audio
from viml_hf.processing.media import DecodeReport
from viml_hf.processing.video_decoding import iter_frames

SIZE = (128, 96)


def write_frames(path: Path, codec: str, pix_fmt: str, options: dict[str, str] | None = None) -> Path:
    """Two seconds of numbered frames at 12 per second, in a given pixel format."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=Fraction(12))
        stream.width, stream.height, stream.pix_fmt = *SIZE, pix_fmt
        stream.options = options or {}
        for number in range(24):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(numbered_frame(number, SIZE), format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "options"),
    [
        ("ten_bits.mp4", "libx265", "yuv420p10le", {"x265-params": "log-level=none"}),
        ("ten_bits.mov", "prores_ks", "yuv422p10le", {}),
        ("alpha.mov", "png", "rgba", {}),
        ("alpha.webm", "libvpx", "yuva420p", {"b": "1M", "auto-alt-ref": "0"}),
        ("interlaced.mpg", "mpeg2video", "yuv420p", {"flags": "+ildct+ilme", "b": "4M"}),
        ("vp9.webm", "libvpx-vp9", "yuv444p", {"b": "1M", "deadline": "realtime"}),
        ("grey.mkv", "ffv1", "gray", {}),
        ("odd.avi", "mjpeg", "yuvj420p", {}),
    ],
)
def test_pixel_formats(tmp_path: Path, name: str, codec: str, pix_fmt: str, options: dict[str, str]) -> None:
    path = write_frames(tmp_path / name, codec, pix_fmt, options)
    report = DecodeReport()
    pictures = list(iter_frames(path, short_side=48, report=report))
    assert [frame_number(picture) for picture in pictures] == list(range(0, 24, 2))
    assert report.coverage == pytest.approx(1, abs=0.05)


def test_an_interlaced_video_says_so(tmp_path: Path) -> None:
    """Otherwise the test above would show nothing about it."""
    path = write_frames(tmp_path / "video.mpg", "mpeg2video", "yuv420p", {"flags": "+ildct+ilme"})
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).interlaced_frame


@pytest.mark.parametrize("rate", [8000, 11_025, 44_100, 96_000, 192_000])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_rates_and_channels(tmp_path: Path, rate: int, channels: int) -> None:
    wave = np.repeat(sine(500, 2, rate)[None], channels, axis=0)
    path = write_audio(tmp_path / "music.wav", wave, rate)
    report = DecodeReport()
    list(iter_audio(path, 22_050, report=report))
    found = load_audio(path, 22_050)
    assert len(found) == pytest.approx(2 * 22_050, abs=30)
    spectrum = np.abs(np.fft.rfft(found[:22_050]))
    assert spectrum.argmax() == 500
    assert report.coverage == pytest.approx(1, abs=0.01)
