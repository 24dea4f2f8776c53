"""Where segments and windows lie. Pure planning: numbers and arrays in, numbers and arrays out."""

from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np

from viml_hf.errors import ViMLError

SEGMENT_SECONDS = 10.0
MIN_TAIL_SECONDS = 2.0  # a last segment shorter than this joins its predecessor


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
