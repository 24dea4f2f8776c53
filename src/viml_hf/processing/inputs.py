"""What may be given as a video, as music, as a text and as a query: one rule for processor, adapters and pipeline."""

import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from numbers import Real
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
from torch import Tensor
from transformers.utils import logging

from viml_hf.errors import MediaDecodeError, ViMLError, in_one_line
from viml_hf.processing.audio_decoding import iter_audio_segments, resample
from viml_hf.processing.frame_sampling import FRAMES_PER_SECOND, sample_frames
from viml_hf.processing.media import MAX_SECONDS, MediaSegment, iter_segments, too_long
from viml_hf.processing.media_files import AUDIO_SUFFIXES, MEDIA_SUFFIXES, suffix_of
from viml_hf.processing.video_decoding import FrameScaler, iter_video_segments

logger = logging.get_logger(__name__)

Video = Any  # one of what `read_videos` takes
Audio = Any  # one of what `read_sounds` takes

MAX_CHANNELS = 8  # 7.1 sound
NOTHING = "Nothing to process: give videos=, text= or audio=, and at least one in a list"
PIECE = 16  # frames asked of a decoder at once

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_FILE = "(path, bytes, open file or {'bytes', 'path'})"
_VIDEOS = (
    f"a video file {_FILE}, a VideoDecoder, frames (frames, height, width, 3) uint8, a list of pictures, or "
    '{"array": frames, "video_metadata": {"fps": …}}'
)
_SOUNDS = (
    f"a music file {_FILE}, an AudioDecoder, a waveform (samples,) or (channels, samples), or "
    '{"array": waveform, "sampling_rate": Hz}'
)
_QUERIES = 'a video, a text or music: a string, the path of a file, or a dict, {"video": …, "text": …} or {"audio": …}'
_MODALITIES = {"video", "text", "audio"}


@dataclass(frozen=True, eq=False)
class Frames:
    """Frames in memory with their times."""

    data: np.ndarray  # (frames, height, width, 3) uint8 RGB
    fps: float | None = None  # frames per second of their video; `None` for 6
    places: Sequence[int] | None = None  # the frames' numbers in their video; `None` where it has no others

    def __iter__(self) -> Iterator[tuple[np.ndarray, float, float]]:
        """Each frame with its start and end in seconds; the last lasts as long as the one before it."""
        fps, places = self.fps or FRAMES_PER_SECOND, self.places or range(len(self.data))
        last = places[-1] + max(1, places[-1] - places[-2] if len(places) > 1 else 1)
        for frame, place, following in zip(self.data, places, [*places[1:], last], strict=True):
            yield frame, (place - places[0]) / fps, (following - places[0]) / fps


@dataclass(frozen=True, eq=False)
class DecodedVideo:
    """The frames of a torchcodec `VideoDecoder` with its times, read in pieces."""

    decoder: Any

    def __iter__(self) -> Iterator[tuple[np.ndarray, float, float]]:
        """Each frame with its start and end in seconds after the first frame's start."""
        count, origin = self.decoder.metadata.num_frames, None
        for first in range(0, count, PIECE):
            with _decoding("video"):
                piece = self.decoder.get_frames_in_range(first, min(first + PIECE, count))
            frames = _as_frames(piece.data)
            if (starts := getattr(piece, "pts_seconds", None)) is None:  # its average rate is all that it tells
                lengths = np.full(len(frames), 1 / self.decoder.metadata.average_fps)
                starts = (first + np.arange(len(frames))) * lengths
            else:
                lengths = piece.duration_seconds
            for frame, start, length in zip(frames, map(float, starts), map(float, lengths), strict=True):
                origin = start if origin is None else origin
                yield frame, start - origin, start + length - origin


@dataclass(frozen=True, eq=False)
class Waveform:
    """A waveform, or a decoder of one."""

    data: Any  # `(samples,)` or `(channels, samples)` in [-1, 1], or a torchcodec `AudioDecoder`
    sampling_rate: float | None = None  # in Hz; `None` where nobody says it, and of a decoder, which does

    def mono(self, sampling_rate: int) -> np.ndarray:
        """The mean of the channels, `(samples,)` float32, at another rate."""
        data, own_rate = self.data, self.sampling_rate
        if hasattr(data, "get_all_samples"):
            with _decoding("audio"):
                samples = data.get_all_samples()
            data, own_rate = samples.data, samples.sample_rate
        waveform = _as_array(data)
        shape = waveform.shape
        if waveform.dtype.kind != "f":
            raise ViMLError(
                f"A waveform of type {waveform.dtype}: give floats in [-1, 1]; for int16 that is waveform / 32768"
            )
        if waveform.ndim == 2 and shape[0] > MAX_CHANNELS:
            raise ViMLError(f"A waveform of shape {shape}: channels come first, (channels, samples); turn it")
        waveform = waveform.astype(np.float32)
        if waveform.ndim == 2:
            waveform = waveform.mean(0)
        if waveform.ndim != 1 or not waveform.size or not np.isfinite(waveform).all():
            raise ViMLError(
                f"A waveform of shape {shape}: give finite samples, (samples,) or (channels, samples), or a path"
            )
        if own_rate is None:
            logger.warning_once(f"No sampling_rate given: the waveforms are taken to be at {sampling_rate} Hz.")
        elif own_rate != sampling_rate:
            waveform = resample(waveform, round(own_rate), sampling_rate)
        return waveform


# What could be iterated over and is one all the same.
_SINGLE = (str, bytes, bytearray, memoryview, os.PathLike, Mapping, Frames, DecodedVideo)
_READERS = ("read", "get_frames_in_range", "get_all_samples")

VideoInput = str | bytes | Frames | DecodedVideo
AudioInput = str | bytes | Waveform


def iter_frame_segments(video: Video, fps: float | None, short_side: int, **options: Any) -> Iterator[MediaSegment]:
    """Segments of a video in any form; `options` are for files. Frames at hand are chosen by the rule for files."""
    (source,) = read_videos([video], fps)
    if isinstance(source, str | bytes):
        return iter_video_segments(source, short_side=short_side, **options)
    _refuse_excerpt(options)
    scale: Any = None
    if isinstance(source, DecodedVideo):
        aspect = getattr(source.decoder.metadata, "pixel_aspect_ratio", None)
        scale = FrameScaler("<video decoder>", SimpleNamespace(sample_aspect_ratio=aspect), short_side)

    def sampled() -> Iterator[np.ndarray]:
        for frame, count in sample_frames(_not_too_long(source), FRAMES_PER_SECOND):
            picture = frame if scale is None else scale(av.VideoFrame.from_ndarray(frame, format="rgb24"))
            for _ in range(count):
                yield picture[np.newaxis]

    return iter_segments(sampled(), FRAMES_PER_SECOND)


def iter_sound_segments(
    audio: Audio, rate: int, sampling_rate: float | None = None, **options: Any
) -> Iterator[MediaSegment]:
    """Segments of mono samples at `rate` of music in any form; `options` are for files."""
    (source,) = read_sounds([audio], sampling_rate)
    if isinstance(source, str | bytes):
        return iter_audio_segments(source, rate, **options)
    _refuse_excerpt(options)
    return iter_segments([source.mono(rate)], rate)


def _refuse_excerpt(options: dict[str, Any]) -> None:
    if options.get("start") or options.get("end") is not None:
        raise ViMLError("start= and end= have no effect: an excerpt is read of a file only; give the part itself")
    if options.get("listener") is not None:
        raise ViMLError("listener= has no effect: it hears a file only; give the path")


def _not_too_long(video: Frames | DecodedVideo) -> Iterator[tuple[np.ndarray, float, float]]:
    """The frames; a wrong rate or a damaged time would stand for years of them."""
    for frame, start, end in video:
        if not end <= MAX_SECONDS:
            raise too_long("<frames>", "video")
        yield frame, start, end


def read_videos(videos: Any, fps: float | None = None, metadata: Any = None) -> list[VideoInput]:
    """The videos of a batch, or the only one, in any form that [`ViMLProcessor`] takes, with its `video_metadata`."""
    found = [_read_video(one) for one in _in_a_list(videos, one_has=4)]
    if metadata is not None:
        each = list(metadata) if isinstance(metadata, list | tuple) else [metadata]
        if len(each) != len(found):
            raise ViMLError(f"video_metadata of {len(each)} for {len(found)} videos: give one for each, in a list")
        found = [_with_metadata(*pair) for pair in zip(found, each, strict=True)]
    return _with_rate(found, "fps", fps)


def read_sounds(audio: Any, sampling_rate: float | None = None) -> list[AudioInput]:
    """The pieces of music of a batch, or the only one, in any form that [`ViMLProcessor`] takes."""
    shape = tuple(audio.shape) if isinstance(audio, np.ndarray | Tensor) else ()
    if len(shape) == 2 and shape[0] > 2:  # the channels of one sound, or a batch?
        raise ViMLError(
            f"A waveform of shape {shape}: give list(array) for a batch of {shape[0]} sounds, or [array] for one, "
            f"whose channels come first, up to {MAX_CHANNELS}"
        )
    return _with_rate([_read_audio(one) for one in _in_a_list(audio, one_has=2)], "sampling_rate", sampling_rate)


def _read_video(value: Any) -> VideoInput:
    if isinstance(value, Frames | DecodedVideo):
        return value
    if hasattr(value, "get_frames_in_range"):
        return DecodedVideo(value)
    if isinstance(value, Mapping) and set(value) <= {"array", "frames", "video_metadata"} and value:
        return _with_metadata(_read_video(value.get("array", value.get("frames"))), value.get("video_metadata"))
    if isinstance(value, np.ndarray | Tensor) or _is_list_of_frames(value):
        return Frames(_as_frames(value))
    if (file := _read_file(value)) is None:
        raise ViMLError(f"A video of {_kind(value)}: give {_VIDEOS}")
    return file


def _read_audio(value: Any) -> AudioInput:
    if isinstance(value, Waveform):
        return value
    if hasattr(value, "get_all_samples"):
        return Waveform(value)
    if isinstance(value, Mapping) and "array" in value and set(value) <= {"array", "sampling_rate", "path"}:
        rate = value.get("sampling_rate")
        return Waveform(value["array"], None if rate is None else _checked("sampling_rate", rate))
    if isinstance(value, np.ndarray | Tensor):
        return Waveform(value)
    if (file := _read_file(value)) is None:
        raise ViMLError(f"Music of {_kind(value)}: give {_SOUNDS}")
    return file


@dataclass(frozen=True, eq=False)
class Sample:
    """One input told apart: a query of a video, a text or both, or a piece of music."""

    video: VideoInput | None = None
    text: str | None = None
    audio: AudioInput | None = None

    def prompted(self, prompt: str | None) -> "Sample":
        """With a prompt before the text, where there is a text."""
        return replace(self, text=prompt + self.text) if prompt and (self.text or "").strip() else self  # type: ignore[operator]


def read_sample(value: Any, *, document: bool = False) -> Sample:
    """Tell an input apart.

    A string is a path where it is absolute, names a file, is a URL or ends like a media file; any other is a text. A
    dict with `"text"` says that it is one; others hold `"video"`, both, or `"audio"`. A path that ends like music is
    music, any other a video. All else is what [`ViMLProcessor`] takes as one of them only; a waveform needs its rate.
    Of a `document`, which is to be found by others, the path of a video is ambiguous: its sound may be meant.

    Example:
        >>> read_sample("slow piano").text
        'slow piano'
        >>> read_sample({"audio": {"array": np.zeros(8000), "sampling_rate": 8000}}).audio.sampling_rate
        8000.0
    """
    if isinstance(value, str | os.PathLike):
        return _read_string(value, document)
    names = set(value) if isinstance(value, Mapping) else set()
    if isinstance(value, Mapping) and names <= _MODALITIES:
        return _read_modalities(value)
    if names >= {"array", "sampling_rate"} or hasattr(value, "get_all_samples"):
        return _read_modalities({"audio": value})
    if "video_metadata" in names or hasattr(value, "get_frames_in_range") or _is_list_of_frames(value):
        return _read_modalities({"video": value})
    if isinstance(value, np.ndarray | Tensor):
        return _read_modalities({"audio" if value.ndim < 3 else "video": value})
    if isinstance(value, bytes) or hasattr(value, "read"):
        raise ViMLError('The bytes of a file: say what it is, {"audio": bytes} or {"video": bytes}')
    raise ViMLError(f"An input of {_kind(value)}: give {_QUERIES}")


def _read_string(value: str | os.PathLike, document: bool) -> Sample:
    path = os.fsdecode(value)
    suffix = suffix_of(path)
    is_path = suffix in MEDIA_SUFFIXES or _URL.match(path) or os.path.isabs(path) or os.path.isfile(path)
    if isinstance(value, str) and not is_path:
        return Sample(text=value)
    sample = _read_modalities({"audio" if suffix in AUDIO_SUFFIXES else "video": path})
    if document and sample.audio is None:
        raise ViMLError(f'{path}: its pictures or its sound? Give {{"video": path}} or {{"audio": path}}')
    return sample


def _read_modalities(value: Mapping[str, Any]) -> Sample:
    video, text, audio = (value.get(name) for name in ("video", "text", "audio"))
    if "audio" in value and len(value) > 1:
        raise ViMLError(f"Music with {' and '.join(sorted(set(value) - {'audio'}))}: give them as inputs of their own")
    if not (text is None or isinstance(text, str)):
        raise ViMLError(f"A text of {_kind(text)}: give {_QUERIES}")
    if "audio" not in value:
        return Sample(None if video is None else _existing(_read_video(video)), text)
    sound = _existing(_read_audio(audio))
    if _lacks(sound, "sampling_rate"):
        shape = tuple(np.shape(sound.data))
        raise ViMLError(f'A waveform of shape {shape} without its rate: give {{"array": …, "sampling_rate": Hz}}')
    return Sample(audio=sound)


def _existing(source: Any) -> Any:
    """The input; a path only if there is something."""
    if isinstance(source, str) and not os.path.exists(source):
        raise ViMLError(f'{source}: no such file; give the path of one, or {{"text": …}} if this is a text')
    return source


def _read_file(value: Any) -> str | bytes | None:
    """The path or the bytes of a file in any form; `None` if it is none."""
    if isinstance(value, Mapping) and value and set(value) <= {"bytes", "path"}:
        value = value.get("path") if value.get("bytes") is None else value["bytes"]
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value)
    if isinstance(value, str | os.PathLike):
        path = os.fsdecode(value)
        if _URL.match(path):
            raise ViMLError(f"{path}: nothing is downloaded here; download the file and give its path")
        return path
    if not hasattr(value, "read"):
        return None
    try:
        if value.seekable():
            value.seek(0)
        content = value.read()
    except (OSError, ValueError, AttributeError) as error:
        fix = "give a file open for reading bytes"
        raise ViMLError(f"{value!r} cannot be read ({in_one_line(error)}): {fix}") from error
    if not isinstance(content, bytes):
        raise ViMLError(f'{value!r} is open as text: open it with mode "rb"')
    return content


def _in_a_list(given: Any, one_has: int) -> list[Any]:
    """What an iterable holds, or an array of more dimensions than one can have; or the only one."""
    if isinstance(given, np.ndarray | Tensor):
        return list(given) if given.ndim > one_has else [given]
    is_one = isinstance(given, _SINGLE) or any(hasattr(given, name) for name in _READERS)
    if is_one or not isinstance(given, Iterable):
        return [given]
    if not (items := list(given)):
        raise ViMLError(NOTHING)
    return [items] if one_has == 4 and _is_list_of_frames(items) else items


def _is_list_of_frames(value: Any) -> bool:
    """Whether a list holds the pictures of one video: PIL images, or arrays of three dimensions."""
    first = value[0] if isinstance(value, list | tuple) and value else None
    return hasattr(first, "convert") or (isinstance(first, np.ndarray | Tensor) and first.ndim == 3)


def _as_frames(value: Any) -> np.ndarray:
    """Frames `(frames, height, width, 3)` uint8 of an array, channels last or first, or of a list of pictures."""
    if isinstance(value, list | tuple):
        pictures = [_as_array(one.convert("RGB") if hasattr(one, "convert") else one) for one in value]
        if len(shapes := {picture.shape for picture in pictures}) > 1:
            raise ViMLError(f"Frames of shapes {' and '.join(map(str, sorted(shapes)[:2]))}: give pictures of one size")
        value = np.stack(pictures)
    frames = _as_array(value)
    if frames.ndim == 4 and frames.shape[1] == 3 and frames.shape[-1] != 3:
        frames = frames.transpose(0, 2, 3, 1)
    if frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
        raise ViMLError(
            f"An array of shape {frames.shape}: give (frames, height, width, 3) with at least one frame, or a path"
        )
    if frames.dtype != np.uint8:
        raise ViMLError(
            f"Frames of type {frames.dtype}: give uint8 RGB values from 0 to 255; for floats in [0, 1] that is "
            "(frames * 255).round()"
        )
    return frames


def _as_array(value: Any) -> np.ndarray:
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else np.asarray(value)


def _with_metadata(video: VideoInput, metadata: Any) -> VideoInput:
    """Frames with the rate and the places that their metadata state, a dict or an object."""
    if metadata is None:
        return video
    stated = metadata if isinstance(metadata, Mapping) else vars(metadata)
    if not {"fps", "average_fps"} & set(stated):
        raise ViMLError(f"video_metadata of {_kind(metadata)}: give a dict or an object with fps")
    fps = stated["fps"] if stated.get("fps") is not None else stated.get("average_fps")
    if fps is None:
        return video
    if not isinstance(video, Frames) or video.fps is not None:
        raise ViMLError(f"video_metadata of fps={fps!r} has no effect: this video states its own times; leave it out")
    places = stated.get("frames_indices")
    places = range(len(video.data)) if places is None else [int(place) for place in places]
    if len(places) != len(video.data) or list(places) != sorted(places):
        raise ViMLError(f"frames_indices of {len(places)} for {len(video.data)} frames: give one for each, ascending")
    return replace(video, fps=_checked("fps", fps), places=places)


def _lacks(one: Any, name: str) -> bool:
    """Whether an input needs a rate, `fps` or `sampling_rate`, that it does not state."""
    return getattr(one, name, 0) is None and not hasattr(one.data, "get_all_samples")


def _with_rate(found: list[Any], name: str, rate: Any) -> list[Any]:
    """The inputs, with this rate where they lack one; `None` changes nothing."""
    if rate is None:
        return found
    if not any(_lacks(one, name) for one in found):
        raise ViMLError(f"{name}={rate!r} has no effect: what is given states its own; leave it out")
    return [replace(one, **{name: _checked(name, rate)}) if _lacks(one, name) else one for one in found]


@contextmanager
def _decoding(kind: str) -> Iterator[None]:
    """Errors of a torchcodec decoder as those of a file."""
    try:
        yield
    except RuntimeError as error:
        cause = f"torchcodec cannot decode it ({in_one_line(error)}); give the path or the bytes of the file"
        raise MediaDecodeError(f"<{kind} decoder>", kind, cause) from error


def _checked(name: str, rate: Any) -> float:
    least, example = (1e-9, "the frames per second, above 0") if name == "fps" else (1, "a rate in Hz, such as 22050")
    if not isinstance(rate, Real) or not least <= float(rate) < math.inf:
        raise ViMLError(f"{name}={rate!r}: give {example}")
    return float(rate)


def _kind(value: Any) -> str:
    names = f" with {', '.join(sorted(map(repr, value)))}" if isinstance(value, Mapping) and value else ""
    return f"type {type(value).__name__}{names}"
