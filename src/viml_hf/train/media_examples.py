"""Examples of raw media: which segments of a file a clip is, read when it is known, and the model's inputs of them."""

import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
from torch import Tensor

from viml_hf.errors import ViMLError, unreadable
from viml_hf.processing.inputs import read_sounds, read_videos
from viml_hf.processing.media import MediaSegment, StreamKind, stream_seconds
from viml_hf.processing.processing_viml import ViMLProcessor
from viml_hf.processing.segments import SEGMENT_SECONDS, segment_bounds

Read = Callable[..., Iterable[MediaSegment]]


@dataclass(frozen=True, eq=False)
class MediaSegments:
    """Some 10 s segments of a video or of music, which `load` decodes. A slice is a shorter one.

    Args:
        read: Gives the segments of the source; of a file also those between `start` and `end`, in seconds.
        total: How many segments the source has.
        first: The first of these.
        stop: The one after the last of these.
        held: All segments of the source, where they are in memory anyway.
    """

    read: Read
    total: int
    first: int = 0
    stop: int = 0
    held: Sequence[np.ndarray] | None = None

    def __len__(self) -> int:
        return self.stop - self.first

    def __getitem__(self, part: slice) -> "MediaSegments":
        first, stop, _ = part.indices(len(self))
        return replace(self, first=self.first + first, stop=self.first + max(first, stop))

    def load(self) -> list[np.ndarray]:
        """Frames `(frames, height, width, 3)` uint8, or samples `(samples,)` float32, of each segment."""
        if self.held is not None or not len(self):
            return list((self.held or ())[self.first : self.stop])
        start = self.first * SEGMENT_SECONDS
        # A last segment can be longer than the others.
        end = None if self.stop == self.total else self.stop * SEGMENT_SECONDS
        excerpt = {} if len(self) == self.total else {"start": start, "end": end}
        return [segment.data for segment in self.read(**excerpt)]


NOTHING = MediaSegments(lambda: (), 0)


def media_rows(processor: ViMLProcessor, example: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """What names an example, and its segments of video and audio and its texts, each to be sliced."""
    if example.get("audio") is None:
        raise ViMLError(f"An example of {', '.join(example) or 'nothing'} without music: give it a column audio")
    (sound,) = read_sounds([example["audio"]])
    audio, video = _segments(sound, "audio", processor.audio_segments), NOTHING
    if example.get("video") is not None:
        (source,) = read_videos([example["video"]])
        video = _segments(source, "video", processor.video_segments)
    texts = example.get("text")
    texts = [texts] if isinstance(texts, str) else list(texts or ())
    named = example.get("id") or (sound if isinstance(sound, str) else _digest(sound, audio))
    return str(named), {"video": video, "audio": audio, "text": [text for text in texts if text]}


def media_inputs(processor: ViMLProcessor, chosen: Sequence[Mapping[str, Any]]) -> dict[str, Tensor]:
    """The inputs of [`ViMLForMusicRetrieval`] for the parts of `media_rows` that take part in a batch."""
    audio = processor.audio_inputs([one["audio"].load() for one in chosen])
    batch = dict(processor(text=[next(iter(one["text"]), None) for one in chosen]))
    if any(len(one["video"]) for one in chosen):
        batch |= processor.video_inputs([one["video"].load() for one in chosen])
    return batch | dict(audio)


def _segments(source: Any, kind: StreamKind, read: Read) -> MediaSegments:
    """All segments of a source: those of a file by its length, others as they come."""

    def read_source(**excerpt: float | None) -> Iterable[MediaSegment]:
        return read(source, **excerpt)

    seconds = _seconds(source, kind) if isinstance(source, str | bytes) else None
    if seconds is not None:
        total = len(segment_bounds(seconds))
        return MediaSegments(read_source, total, 0, total)
    held = [segment.data for segment in read_source()]
    return MediaSegments(read_source, len(held), 0, len(held), held)


def _seconds(source: str | bytes, kind: StreamKind) -> float | None:
    if isinstance(source, bytes):
        return stream_seconds(source, kind)
    try:
        file = os.stat(source)
    except OSError as error:
        raise unreadable(source, error) from error
    return _file_seconds(source, kind, file.st_size, file.st_mtime_ns)


@cache
def _file_seconds(path: str, kind: StreamKind, size: int, time_ns: int) -> float | None:
    """The length of a file, whose packets are read once and not in every epoch; size and time tell a changed one."""
    return stream_seconds(path, kind)


def _digest(sound: Any, audio: MediaSegments) -> str:
    content = sound if isinstance(sound, bytes) else np.concatenate(audio.load()).tobytes()
    return hashlib.blake2b(content, digest_size=16).hexdigest()
