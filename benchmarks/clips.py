"""The media of the benchmarks: textured, moving pictures with some grain, encoded as cameras and sites do."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

SIZES = {"720p": (1280, 720), "1080p": (1920, 1080)}
# Rates as of a good upload; HEVC and VP9 need fewer bits for the same picture.
CODECS: dict[str, dict[str, Any]] = {
    "h264": {"encoder": "libx264", "suffix": "mp4", "options": {"preset": "veryfast", "crf": "23", "bf": "3"}},
    "hevc": {
        "encoder": "libx265",
        "suffix": "mp4",
        "options": {"preset": "superfast", "crf": "26", "x265-params": "bframes=4:b-pyramid=1:log-level=error"},
    },
    "vp9": {
        "encoder": "libvpx-vp9",
        "suffix": "webm",
        "options": {"deadline": "realtime", "cpu-used": "7", "crf": "32", "b": "0"},
    },
}


def make_clip(folder: Path, codec: str, size: str, seconds: float = 20, fps: int = 30, seed: int = 0) -> Path:
    """A silent clip, made once per folder."""
    settings = CODECS[codec]
    path = folder / f"{codec}-{size}-{seconds:g}s-{seed}.{settings['suffix']}"
    if path.exists():
        return path
    width, height = SIZES[size]
    folder.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"part-{path.name}")
    with av.open(str(temporary), "w") as container:
        stream: Any = container.add_stream(settings["encoder"], rate=Fraction(fps))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.options = settings["options"]
        for picture in _pictures(width, height, round(seconds * fps), seed):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="gray").reformat(format="yuv420p")))
        container.mux(stream.encode())
    temporary.rename(path)
    return path


def make_music(folder: Path, seconds: float = 60, rate: int = 44_100) -> Path:
    """Stereo mp3 of chords over noise, made once per folder."""
    path = folder / f"music-{seconds:g}s.mp3"
    if path.exists():
        return path
    generator = np.random.default_rng(0)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libmp3lame", rate=rate, layout="stereo")
        for second in range(round(seconds)):
            time = np.arange(rate) / rate
            tones = sum(np.sin(2 * np.pi * 220 * 2 ** (step / 12) * time) for step in (second % 12, second % 12 + 4))
            samples = 0.2 * tones + generator.normal(0, 0.02, (2, rate))
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples, np.float32), "fltp", "stereo")
            frame.sample_rate, frame.pts, frame.time_base = rate, second * rate, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def repeat(clip: Path, times: int) -> Path:
    """The clip again and again in one file, its packets copied."""
    path = clip.with_name(f"{times}x-{clip.name}")
    if path.exists():
        return path
    temporary = path.with_name(f"part-{path.name}")
    with av.open(str(temporary), "w") as output:
        stream: Any = None
        shift = 0
        for _ in range(times):
            with av.open(str(clip)) as source:
                original = source.streams[0]
                stream = stream or output.add_stream_from_template(original)
                end = shift
                for packet in source.demux(original):
                    if packet.dts is None:
                        continue
                    packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                    end = max(end, packet.pts + packet.duration)
                    packet.stream = stream
                    output.mux(packet)
                shift = end
    temporary.rename(path)
    return path


def _pictures(width: int, height: int, frames: int, seed: int) -> Any:
    """Grey pictures: a camera pans over a 1/f texture, which is what natural scenes look like to an encoder."""
    generator = np.random.default_rng(seed)
    scene = _texture(generator, 2 * height, 2 * width)
    grain = generator.integers(-4, 5, (8, height, width), dtype=np.int16)
    position = np.array([0.0, 0.0])
    for index in range(frames):
        if index % 150 == 149:  # a cut
            scene = np.roll(scene, generator.integers(0, 1000, 2), axis=(0, 1))[:, ::-1]
        position = (position + np.array([1.3, 2.7])) % [height, width]
        top, left = position.astype(int)
        picture = scene[top : top + height, left : left + width] + grain[index % 8]
        yield np.clip(picture, 0, 255).astype(np.uint8)


def _texture(generator: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Noise whose spectrum falls as 1/f, `(height, width)` int16 around 128."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None] * height, np.fft.rfftfreq(width)[None] * width)
    spectrum = np.fft.rfft2(generator.standard_normal((height, width))) / np.maximum(frequency, 1)
    texture = np.fft.irfft2(spectrum, (height, width))
    return (128 + 45 * texture / texture.std()).astype(np.int16)
