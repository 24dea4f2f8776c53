"""Video files -> RGB frames at a fixed rate and size."""

import struct
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from av.video.reformatter import Interpolation, VideoReformatter

from viml_hf.errors import MediaDecodeError, ViMLError
from viml_hf.processing.file_clock import PresentationTimes
from viml_hf.processing.frame_sampling import FRAMES_PER_SECOND, TIMESTAMP_TOLERANCE, sample_frames
from viml_hf.processing.media import (
    MAX_PIXELS,
    MAX_SECONDS,
    DecodeReport,
    MediaSegment,
    MediaSource,
    OpenStream,
    check_excerpt,
    iter_segments,
    open_stream,
    source_name,
    too_long,
)

SHORT_SIDE = 224
MAX_ASPECT = 16  # of the long side to the short one; beyond it a picture is damaged, or a scaled one would be huge

# Bicubic, as CLIP's own preprocessing. Full chroma keeps white white: 0.1 to 0.2 grey levels from exact arithmetic
# instead of 1.7. The last two flags ask for the same result on every CPU.
_SCALING = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
# The same numbers as "rgb24", but in planes: FFmpeg has a fast path for these, 2.5 times as fast.
_RGB = "gbrp"
# Seconds. A longer frame is a damaged timestamp, which can promise years of frames. After such a frame, and beyond the
# length that the file declares, times are believed even less.
_LONGEST_FRAME, _LONGEST_FRAME_IN_DOUBT = Fraction(600), Fraction(1)
# Seconds of sound after the last frame from which on it is a still picture, and not the usual end of a file.
_STANDS_STILL = Fraction(1, 2)
_USUAL_FRAME_RATE = Fraction(25)  # where neither the frames nor the stream state one

TimedFrame = tuple[av.VideoFrame, Fraction, Fraction]


def iter_frames(
    source: MediaSource,
    *,
    fps: float = FRAMES_PER_SECOND,
    short_side: int = SHORT_SIDE,
    threads: int = 0,
    start: float = 0.0,
    end: float | None = None,
    fast: bool = False,
    max_pixels: int = MAX_PIXELS,
    report: DecodeReport | None = None,
) -> Iterator[np.ndarray]:
    """Decodes a video at `fps` frames per second (paper section 1: 6), scaled and turned upright.

    Which frame stands for a sample is the rule of `viml_hf.processing.frame_sampling`. Frames are scaled with bicubic
    interpolation to square pixels. All frames get the first one's size, also where the video changes its own.

    Args:
        fps: Samples per second.
        short_side: Pixels of the shorter side, also of smaller videos; the other one follows the aspect ratio.
        threads: Decoding threads; 0 lets FFmpeg choose, 1 suits a pool of workers. The frames are the same, but of a
            damaged file only 1 thread gives the same frames every time.
        start: Seconds from the beginning of the file to the excerpt; a far one is sought, not decoded up to.
        end: Seconds from the beginning of the file to the end of the excerpt; `None` for that of the video.
        fast: Decode only the frames that others refer to, where the codec tells (H.264, HEVC). A sample is then the
            last of these, up to a few frames earlier. There are as many samples as otherwise.
        max_pixels: Larger pictures, also those that come later in a file, count as corrupt.
        report: Filled while decoding: corrupt packets and coverage.

    Yields:
        RGB frames `(height, width, 3)`, uint8. A frame that stands for several samples is the same array again.

    Raises:
        MediaDecodeError: If the source cannot be opened, has no video stream (a cover picture is none), is longer than
            12 hours, or no frame of it or of the excerpt can be decoded.
        ViMLError: If `fps` or `short_side` is not above 0, or the excerpt has no length.

    Example:
        >>> import io
        >>> from PIL import Image
        >>> file = io.BytesIO()
        >>> Image.new("RGB", (80, 60), "white").save(file, "GIF")
        >>> [frame.shape for frame in iter_frames(file.getvalue(), short_side=30)]
        [(30, 40, 3)]
    """
    if short_side < 1:
        raise ViMLError(f"short_side={short_side}: give a number of pixels above 0, such as {SHORT_SIDE}")
    check_excerpt(start, end)
    keyframe = _keyframe_before(source, start) if start else None
    with open_stream(source, "video", threads, max_pixels, report) as opened:
        if fast:
            opened.stream.codec_context.skip_frame = "NONREF"
        origin = None
        if keyframe is not None:
            origin, position = keyframe
            opened.stream.container.seek(position, stream=opened.stream)
        scale = FrameScaler(source, opened.stream, short_side)
        for frame, count in sample_frames(_excerpt(opened, origin, start, end), fps):
            picture = scale(frame)
            for _ in range(count):
                yield picture


def iter_video_segments(
    source: MediaSource, *, fps: float = FRAMES_PER_SECOND, **options: Any
) -> Iterator[MediaSegment]:
    """The frames of `iter_frames`, whose options it takes, in 10 s segments; one is in memory at a time."""
    frames = iter_frames(source, fps=fps, **options)
    yield from iter_segments((frame[np.newaxis] for frame in frames), fps)


def iter_shown_pictures(source: MediaSource, *, short_side: int) -> Iterator[tuple[np.ndarray, float, float]]:
    """Decodes every picture of a video, `(height, width, 3)` uint8 RGB, with the seconds from when to when it is shown.

    These count from the beginning of the file; errors are those of `iter_frames`.
    """
    with open_stream(source, "video") as opened:
        scale = FrameScaler(source, opened.stream, short_side)
        for frame, start, end in _timed_frames(opened):
            yield scale(frame), float(start), float(end)
            if end > MAX_SECONDS:
                raise too_long(source, "video")


class FrameScaler:
    """Makes upright RGB pictures `(height, width, 3)` of one size out of decoded frames."""

    def __init__(self, source: MediaSource, stream: Any, short_side: int):
        self.source, self.stream, self.short_side = source, stream, short_side
        self.reformatter = VideoReformatter()
        self.size: tuple[int, int] | None = None

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """The picture of one frame."""
        if self.size is None:
            self.size = self._scaled_size(frame)
        scaled = self.reformatter.reformat(frame, *self.size, format=_RGB, interpolation=_SCALING, threads=1)
        return np.ascontiguousarray(upright(scaled.to_ndarray(), display_matrix(frame)))

    def _scaled_size(self, frame: av.VideoFrame) -> tuple[int, int]:
        """Width and height with square pixels whose shorter one is `short_side`."""
        width, height = frame.width * (self.stream.sample_aspect_ratio or 1), frame.height
        if max(width, height) > MAX_ASPECT * min(width, height):
            cause = (
                f"pictures of {frame.width} × {frame.height} pixels, shown as {float(width / height):.4g} to 1; "
                f"the long side may be {MAX_ASPECT} times the short one: crop them"
            )
            raise MediaDecodeError(source_name(self.source), "video", cause)
        scale = Fraction(self.short_side) / min(width, height)
        return round(width * scale), round(height * scale)


def display_matrix(frame: Any) -> tuple[int, int, int, int] | None:
    """The numbers (a, b, c, d) by which a player shows a point (x, y) at (a x + c y, b x + d y), if any are given."""
    # `frame.side_data` would be kept by the frame and refer to it: such a circle holds a picture until Python looks for
    # circles, hundreds of megabytes later.
    found = SideDataContainer(frame).get("DISPLAYMATRIX")  # type: ignore[call-arg]  # PyAV states no arguments
    if found is None:
        return None
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(found))
    return a, b, c, d


def upright(picture: np.ndarray, matrix: tuple[int, int, int, int] | None) -> np.ndarray:
    """A picture `(height, width, 3)` as it is to be shown: turned to the nearest quarter, and mirrored.

    Example:
        >>> upright(np.array([[1, 2]]), (-1, 0, 0, 1)).tolist(), upright(np.array([[1, 2]]), (0, 1, -1, 0)).tolist()
        ([[2, 1]], [[1], [2]])
    """
    if matrix is None:
        return picture
    a, b, c, d = matrix
    if abs(b) + abs(c) > abs(a) + abs(d):
        picture, (across, down) = picture.swapaxes(0, 1), (c, b)
    else:
        across, down = a, d
    return picture[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]


def _timed_frames(opened: OpenStream, origin: Fraction | None = None) -> Iterator[TimedFrame]:
    """Frames with start and end in seconds after `origin`, by default the beginning of the file.

    The first frame is shown from the beginning, also where the pictures begin later than the sound. A frame is on
    screen until the next one starts, and the last one to the end of the sound, if that is what a player would show. A
    frame without a time is taken to start at its predecessor's end. So is one whose time cannot be believed: before
    its predecessor's, or more than ten minutes after, unless the file's length or its sound speaks for it. Once a
    frame claimed to be longer than that, or the file's length is over, no more than a second is believed.
    """
    stream, clock, declared = opened.stream, opened.clock, opened.declared_seconds
    usual_duration = 1 / (stream.average_rate or _USUAL_FRAME_RATE)
    times = PresentationTimes()
    shown: av.VideoFrame | None = None
    start = end = Fraction(0)
    longest = _LONGEST_FRAME
    for frame in opened.decode():
        units = times.of(frame)
        time = None if units is None else units * stream.time_base
        if origin is None:
            time = origin = clock.origin(time or Fraction(0))
        declared_end = origin + Fraction(declared or 0)
        if shown is None:
            begin = time or Fraction(0)
        elif (
            time is not None
            and start < time
            and (time <= start + longest or clock.vouches_for(time, stream, declared_end))
        ):
            begin = time
        else:
            begin = end
        if shown is not None:
            yield shown, start - origin, begin - origin
        if declared is not None and begin - origin > declared:
            longest = _LONGEST_FRAME_IN_DOUBT
        duration = (frame.duration or 0) * stream.time_base or usual_duration
        believed = duration <= longest or clock.vouches_for(begin + duration, stream, declared_end)
        shown, start, end = frame, begin, begin + (duration if believed else longest)
        if not believed:
            longest = _LONGEST_FRAME_IN_DOUBT
    if shown is None or origin is None:
        return
    end_of_sound = clock.end_of_others(stream)
    reached = origin + Fraction(opened.report.reached).limit_denominator(1_000_000)
    if not opened.states_length and end_of_sound > end + _STANDS_STILL:
        # Matroska and WebM state no length of a video. There a last frame is shown up to the end of the sound.
        end, opened.report.reached = end_of_sound, float(end_of_sound - origin)
    elif stream.codec_context.skip_frame == "NONREF" and reached <= start + longest:
        end = max(end, reached)  # frames that were skipped after it are time all the same
    yield shown, start - origin, end - origin


def _excerpt(
    opened: OpenStream, origin: Fraction | None, start: float, end: float | None
) -> Iterator[tuple[av.VideoFrame, float, float]]:
    """The frames on screen between `start` and `end`, with times in seconds after `start`."""
    last, latest = 0.0, float("inf") if end is None else end
    for frame, begin, stop in _timed_frames(opened, origin):
        last = float(stop)
        if start and last <= start + TIMESTAMP_TOLERANCE:
            continue
        if last - start > MAX_SECONDS and end is None:
            raise too_long(opened.source, "video")
        yield frame, float(begin) - start, min(last, latest) - start
        if last >= latest:
            break
    if last <= start + TIMESTAMP_TOLERANCE and start:
        raise opened.past_the_end(start, last)
    if start or end is not None:
        opened.report.count_excerpt(start, end, opened.declared_seconds, last)


def _keyframe_before(source: MediaSource, start: float) -> tuple[Fraction, int] | None:
    """When the file begins, and where to seek so that decoding begins before `start` (seconds after it).

    `None` where the file must be read from its beginning: frames without times, a clock that was restarted on the way,
    or no index that can be relied on.
    """
    with open_stream(source, "video", threads=1) as opened:
        stream, clock = opened.stream, opened.clock
        try:
            first = next(stream.container.decode(stream))
            if first.pts is None:
                return None
            origin = clock.origin(first.pts * stream.time_base)
            if clock.may_restart and _restarts_before(source, float(origin) + start):
                return None
            position = int((origin + Fraction(start)) / stream.time_base)
            stream.container.seek(position, stream=stream)
            landed = next(stream.container.decode(stream))
        except (av.FFmpegError, StopIteration, IndexError):
            return None
        if landed.pts is None or not first.pts <= landed.pts <= position:
            return None
        return origin, position


def _restarts_before(source: MediaSource, time: float) -> bool:
    """Whether a file's clock is restarted before a time on it, in seconds: its packets are read, and not decoded."""
    with open_stream(source, "video", threads=1) as opened:
        for packet in opened.demux():
            if opened.clock.restarted:
                return True
            is_picture = packet.stream_index == opened.stream.index
            if is_picture and packet.dts is not None and packet.dts * packet.time_base > time:
                return False
    return False
