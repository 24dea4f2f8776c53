"""Where segments, windows and sampled frames lie. Pure planning: numbers and arrays in, numbers and arrays out."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np

from viml_hf.errors import ViMLError

SEGMENT_SECONDS = 10.0
MIN_TAIL_SECONDS = 2.0  # a last segment shorter than this joins its predecessor
FRAMES_PER_SECOND = 6
TIMESTAMP_TOLERANCE = 0.001  # seconds; WebM and FLV round every timestamp to a millisecond

FrameT = TypeVar("FrameT")


def segment_bounds(duration: float) -> list[tuple[float, float]]:
    """`(start, end)` in seconds of a file's 10 s segments (paper section 1; the tail rule is this project's).

    A last segment shorter than 2 s joins its predecessor, a file shorter than 10 s is one segment, and a file without a
    duration has none.

    Example:
        >>> segment_bounds(21.5)
        [(0.0, 10.0), (10.0, 21.5)]
    """
    if duration <= 0:
        return []
    count = int(duration // SEGMENT_SECONDS)
    if count == 0 or duration - count * SEGMENT_SECONDS >= MIN_TAIL_SECONDS:
        count += 1
    starts = [index * SEGMENT_SECONDS for index in range(count)]
    return list(zip(starts, [*starts[1:], float(duration)], strict=True))


def regroup(chunks: Iterable[np.ndarray], segment_length: int, min_tail: int) -> Iterator[np.ndarray]:
    """Cuts a stream into segments by the rule of `segment_bounds`, without knowing its length beforehand.

    Chunks `(time, ...)` may have any lengths. A last segment of fewer than `min_tail` units (frames or samples) joins
    its predecessor. Fewer than `segment_length + min_tail` units and one chunk are held at a time.

    Example:
        >>> [segment.tolist() for segment in regroup([np.arange(4), np.arange(4, 9)], segment_length=4, min_tail=2)]
        [[0, 1, 2, 3], [4, 5, 6, 7, 8]]
    """
    if segment_length < 1:
        raise ViMLError(f"segment_length={segment_length}: a segment needs at least 1 frame or sample; raise the rate")
    held: deque[np.ndarray] = deque()
    held_length = 0
    for chunk in chunks:
        held.append(chunk)
        held_length += len(chunk)
        while held_length >= segment_length + max(min_tail, 1):
            yield _take(held, segment_length)
            held_length -= segment_length
    if held_length:
        yield _take(held, held_length)


def _take(held: deque[np.ndarray], length: int) -> np.ndarray:
    parts = []
    while length > 0:
        chunk = held.popleft()
        parts.append(chunk[:length])
        if len(chunk) > length:
            held.appendleft(chunk[length:])
        length -= len(parts[-1])
    return np.concatenate(parts)


def window_starts(length: int, window: int) -> list[int]:
    """Where the fewest windows begin that cover a segment, evenly spaced, for encoders that hear less than a segment.

    Example:
        >>> window_starts(10, window=4)
        [0, 3, 6]
    """
    if window < 1:
        raise ViMLError(f"window={window}: a window has at least 1 sample")
    count = max(1, -(-length // window))
    return [round(index * (length - window) / (count - 1)) if index else 0 for index in range(count)]


def sample_frames(frames: Iterable[tuple[FrameT, float, float]], fps: float) -> Iterator[tuple[FrameT, int]]:
    """Chooses the decoded frames that stand for a video sampled at `fps` frames per second.

    The one rule: sample k is the frame on screen k / fps seconds after the first frame, that is the last frame whose
    time is at most k / fps, plus 1 ms because containers round their timestamps. Where frames are sparse, one frame
    stands for several samples. There is a sample for every k / fps (plus 1 ms) before the end of the last frame, and
    at least one.

    Frames are `(frame, start, end)` in seconds after the first frame's start, `start` ascending. A frame stays on
    screen until the next one starts; `end` matters for the last frame only. Those that stand for samples are yielded
    with their number.

    Example:
        >>> list(sample_frames([("a", 0.0, 0.1), ("b", 0.1, 0.2), ("c", 0.2, 0.9)], fps=5))
        [('a', 1), ('c', 4)]
    """
    if not fps > 0:
        raise ViMLError(f"fps={fps}: give a number of frames per second above 0, such as {FRAMES_PER_SECOND}")
    sampled = 0
    shown: tuple[FrameT, float, float] | None = None

    def samples_before(time: float) -> int:
        count = 0
        while (sampled + count) / fps + TIMESTAMP_TOLERANCE < time:
            count += 1
        return count

    for following in frames:
        if shown is not None:
            count = samples_before(following[1])
            if count:
                yield shown[0], count
                sampled += count
        shown = following
    if shown is not None:
        count = samples_before(shown[2])
        if count or not sampled:
            yield shown[0], max(count, 1)
