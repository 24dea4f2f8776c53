"""Which decoded frames stand for a video sampled at a rate. Pure planning: times in, frames and their numbers out."""

from collections.abc import Iterable, Iterator
from typing import TypeVar

from viml_hf.errors import ViMLError

FRAMES_PER_SECOND = 6
TIMESTAMP_TOLERANCE = 0.001  # seconds; WebM and FLV round every timestamp to a millisecond

FrameT = TypeVar("FrameT")


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
