"""Writes small media files for the tests: `from tests.media import write_video, write_audio`."""

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

TIME_BASE = Fraction(1, 90_000)
LAYOUTS = {1: "mono", 2: "stereo", 6: "5.1"}
CODE_BITS = 8  # of a frame number, drawn as two rows of four black or white blocks


def numbered_frame(number: int, size: tuple[int, int] = (64, 48)) -> np.ndarray:
    """An RGB picture `(height, width, 3)` that shows a number below 256; `frame_number` reads it back."""
    width, height = size
    bits = np.array([number >> bit & 1 for bit in range(CODE_BITS)], dtype=np.uint8).reshape(2, 4)
    rows = np.arange(height) * 2 // height
    columns = np.arange(width) * 4 // width
    return np.repeat(bits[rows][:, columns, np.newaxis] * 255, 3, axis=2)


def frame_number(picture: np.ndarray) -> int:
    """Reads the number off a decoded `numbered_frame` of any size."""
    height, width = picture.shape[:2]
    centres = picture[height // 4 :: height // 2][:2, width // 8 :: width // 4][:, :4]
    bits = (centres.mean(axis=2) > 127).reshape(CODE_BITS)
    return int(sum(1 << bit for bit in range(CODE_BITS) if bits[bit]))


def sine(frequency: float, seconds: float, sampling_rate: int, amplitude: float = 0.5) -> np.ndarray:
    """A mono sine wave `(samples,)`, float32."""
    time = np.arange(round(seconds * sampling_rate)) / sampling_rate
    return (amplitude * np.sin(2 * np.pi * frequency * time)).astype(np.float32)


def write_video(
    path: Path,
    frames: int | Iterable[np.ndarray],
    fps: float | Fraction = 24,
    size: tuple[int, int] = (64, 48),
    codec: str = "libx264",
    *,
    times: Sequence[float] | None = None,
    rotation: int = 0,
    pixel_aspect: Fraction | None = None,
    audio: np.ndarray | None = None,
    sampling_rate: int = 44_100,
    audio_codec: str = "aac",
) -> Path:
    """Writes a video; the container follows from the path's suffix.

    Args:
        path: The file to write.
        frames: How many `numbered_frame`s, or RGB pictures `(height, width, 3)` uint8 of one size.
        fps: Frames per second.
        size: Width and height of the numbered frames.
        codec: A video encoder of FFmpeg.
        times: Presentation times in seconds, for a variable frame rate.
        rotation: Degrees, counter-clockwise, that a player turns the picture by.
        pixel_aspect: Width of a pixel over its height.
        audio: Sound, `(samples,)` or `(channels, samples)` float.
        sampling_rate: Of the sound, in Hz.
        audio_codec: An audio encoder of FFmpeg.
    """
    pictures = (numbered_frame(number, size) for number in range(frames)) if isinstance(frames, int) else iter(frames)
    first = next(pictures)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=Fraction(fps).limit_denominator(30_000))
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.thread_count = 1
        if codec == "libx264":
            stream.options = {"preset": "ultrafast", "crf": "10", "bf": "2"}
        if times is not None:
            stream.codec_context.time_base = TIME_BASE
        if rotation:
            stream.set_display_rotation(rotation)
        if pixel_aspect is not None:
            stream.codec_context.sample_aspect_ratio = pixel_aspect
        sound = None if audio is None else _add_audio(container, audio, sampling_rate, audio_codec)
        for index, picture in enumerate([first, *pictures]):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            if times is not None:
                frame.pts, frame.time_base = round(times[index] / TIME_BASE), TIME_BASE
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if sound is not None and audio is not None:
            _encode_audio(container, sound, audio, sampling_rate)
    return path


def write_audio(path: Path, waveform: np.ndarray, sampling_rate: int, codec: str = "pcm_s16le") -> Path:
    """Writes sound; the container follows from the path's suffix.

    Args:
        path: The file to write.
        waveform: `(samples,)` or `(channels, samples)`, float in [-1, 1].
        sampling_rate: In Hz.
        codec: An audio encoder of FFmpeg that fits the container.
    """
    with av.open(str(path), "w") as container:
        stream = _add_audio(container, waveform, sampling_rate, codec)
        container.start_encoding()
        _encode_audio(container, stream, waveform, sampling_rate)
    return path


def _add_audio(container: Any, waveform: np.ndarray, sampling_rate: int, codec: str) -> Any:
    return container.add_stream(codec, rate=sampling_rate, layout=LAYOUTS[len(np.atleast_2d(waveform))])


def _encode_audio(container: Any, stream: Any, waveform: np.ndarray, sampling_rate: int) -> None:
    channels = np.atleast_2d(np.asarray(waveform, dtype=np.float32))
    for start in range(0, channels.shape[1], sampling_rate):
        block = np.ascontiguousarray(channels[:, start : start + sampling_rate])
        frame = av.AudioFrame.from_ndarray(block, format="fltp", layout=LAYOUTS[len(channels)])
        frame.sample_rate, frame.pts, frame.time_base = sampling_rate, start, Fraction(1, sampling_rate)
        container.mux(stream.encode(frame))
    container.mux(stream.encode())


def remux(
    source: Path | bytes,
    path: Path,
    *,
    shift: Mapping[str, float] | None = None,
    drop: Callable[[str, float], bool] = lambda kind, time: False,
    options: dict[str, str] | None = None,
) -> Path:
    """Copies the packets of a file into another one.

    Args:
        source: A path, or the bytes of a file.
        path: The file to write; the container follows from its suffix.
        shift: Seconds by which a kind of stream, `"video"` or `"audio"`, is presented later.
        drop: Whether to leave a packet out, by its kind and its time in seconds.
        options: Of the container.
    """
    opened = io.BytesIO(source) if isinstance(source, bytes) else str(source)
    with av.open(opened) as given, av.open(str(path), "w", options=options or {}) as made:
        copies = {stream.index: made.add_stream_from_template(stream) for stream in given.streams}
        for packet in given.demux():
            kind = packet.stream.type
            if not packet.size or drop(kind, float(packet.pts * packet.time_base)):
                continue
            later = round((shift or {}).get(kind, 0) / packet.time_base)
            packet.pts, packet.dts = packet.pts + later, packet.dts + later
            packet.stream = copies[packet.stream.index]
            made.mux(packet)
    return path


def write_tones_and_clip(folder: Path) -> tuple[Path, Path]:
    """A folder of five tracks of a tone and noise, and a video of coloured noise, of one segment each."""
    (folder / "music").mkdir()
    noise = np.random.default_rng(0)
    for number, pitch in enumerate((110, 220, 440, 880, 1760)):
        sound = sine(pitch, 4, 8000) + 0.1 * (number + 1) * noise.standard_normal(32000).astype(np.float32)
        write_audio(folder / "music" / f"{number}.wav", 0.4 * sound, 8000)
    colours = np.random.default_rng(1).integers(0, 256, (36, 24, 24, 3), dtype=np.uint8)
    return folder / "music", write_video(folder / "clip.mp4", list(colours), fps=6)
