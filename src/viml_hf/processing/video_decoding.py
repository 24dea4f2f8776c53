"""Video files -> RGB frames at a fixed rate and size."""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from viml_hf.errors import MediaDecodeError, ViMLError
from viml_hf.processing.media import (
    MAX_SECONDS,
    DecodeReport,
    MediaSegment,
    MediaSource,
    check_excerpt,
    declared_seconds,
    decode_stream,
    iter_segments,
    open_stream,
    past_the_end,
    source_name,
    too_long,
)
from viml_hf.processing.segments import FRAMES_PER_SECOND, TIMESTAMP_TOLERANCE, sample_frames

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
    report: DecodeReport | None = None,
) -> Iterator[np.ndarray]:
    """Decodes a video at `fps` frames per second (paper section 1: 6), scaled and turned upright.

    Which frame stands for a sample is the rule of `viml_hf.processing.segments.sample_frames`. Frames are scaled with
    bicubic interpolation to square pixels. All frames get the first one's size, also where the video changes its own.

    Args:
        source: A path, or the bytes of a whole file.
        fps: Samples per second.
        short_side: Pixels of the shorter side, also of smaller videos; the other one follows the aspect ratio.
        threads: Decoding threads; 0 lets FFmpeg choose, 1 suits a pool of workers. The frames are the same, but of a
            damaged file only 1 thread gives the same frames every time.
        start: Seconds from the first frame to the excerpt; a far one is sought, not decoded up to.
        end: Seconds from the first frame to the end of the excerpt; `None` for that of the video.
        fast: Decode only the frames that others refer to, where the codec tells (H.264, HEVC). A sample is then the
            last of these, up to a few frames earlier. There are as many samples as otherwise.
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
    report = DecodeReport() if report is None else report
    keyframe = _keyframe_before(source, start) if start else None
    with open_stream(source, "video", threads) as stream:
        if fast:
            stream.codec_context.skip_frame = "NONREF"
        origin = None
        if keyframe is not None:
            origin, position = keyframe
            stream.container.seek(position, stream=stream)
        scale = _Scaler(source, stream, short_side)
        frames = _timed_frames(stream, source, report, origin)
        for frame, count in sample_frames(_excerpt(frames, source, start, end, stream, report), fps):
            picture = scale(frame)
            for _ in range(count):
                yield picture


def iter_video_segments(
    source: MediaSource, *, fps: float = FRAMES_PER_SECOND, **options: Any
) -> Iterator[MediaSegment]:
    """Decodes a video in 10 s segments; memory is bounded by a segment, not by the file.

    Args:
        source: A path, or the bytes of a whole file.
        fps: Samples per second.
        options: As for `iter_frames`.

    Yields:
        Segments with `data` `(frames, height, width, 3)`, RGB uint8. The last one may be longer or shorter, see
        `viml_hf.processing.segments.segment_bounds`.

    Raises:
        MediaDecodeError: As `iter_frames`.
        ViMLError: As `iter_frames`.

    Example:
        >>> import io
        >>> from PIL import Image
        >>> file = io.BytesIO()
        >>> blue, red = (Image.new("RGB", (80, 60), colour) for colour in ("blue", "red"))
        >>> blue.save(file, "GIF", save_all=True, append_images=[red], duration=10_500)
        >>> [segment.data.shape for segment in iter_video_segments(file.getvalue(), short_side=30)]
        [(60, 30, 40, 3), (66, 30, 40, 3)]
    """
    frames = iter_frames(source, fps=fps, **options)
    yield from iter_segments((frame[np.newaxis] for frame in frames), fps)


class _Scaler:
    """Makes upright RGB pictures `(height, width, 3)` of one size out of decoded frames."""

    def __init__(self, source: MediaSource, stream: Any, short_side: int):
        self.source, self.stream, self.short_side = source, stream, short_side
        self.reformatter = VideoReformatter()
        self.size: tuple[int, int] | None = None

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        if self.size is None:
            self.size = self._scaled_size(frame)
        scaled = self.reformatter.reformat(frame, *self.size, format=_RGB, interpolation=_SCALING, threads=1)
        # The matrix in the file turns the picture by multiples of 90 degrees, counter-clockwise like rot90.
        return np.ascontiguousarray(np.rot90(scaled.to_ndarray(), round(frame.rotation / 90)))

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


def _timed_frames(
    stream: Any, source: MediaSource, report: DecodeReport, origin: Fraction | None = None
) -> Iterator[TimedFrame]:
    """Frames with start and end in seconds after `origin`, by default the first one's start.

    A frame is on screen until the next one starts. A frame without a time is taken to start at its predecessor's end;
    so is one whose time is not after its predecessor's, or more than ten minutes after (one second, where the file says
    that the video is over, or once a frame claimed to be longer than that).
    """
    usual_duration = 1 / (stream.average_rate or _USUAL_FRAME_RATE)
    declared = declared_seconds(stream)
    shown: av.VideoFrame | None = None
    start = end = Fraction(0)
    longest = _LONGEST_FRAME
    for frame in decode_stream(stream, source, report):
        time = None if frame.pts is None else frame.pts * stream.time_base
        if origin is None:
            origin = time or Fraction(0)
        if shown is None:
            begin = origin if time is None else time
        elif time is not None and start < time <= start + longest:
            begin = time
        else:
            begin = end
        if shown is not None:
            yield shown, start - origin, begin - origin
        if declared is not None and begin - origin > declared:
            longest = _LONGEST_FRAME_IN_DOUBT
        duration = (frame.duration or 0) * stream.time_base or usual_duration
        shown, start, end = frame, begin, begin + min(duration, longest)
        if duration > longest:
            longest = _LONGEST_FRAME_IN_DOUBT
    if shown is not None and origin is not None:
        # Frames that were skipped after it are time all the same.
        reached = origin + Fraction(report.reached).limit_denominator(1_000_000)
        skipping = stream.codec_context.skip_frame == "NONREF" and reached <= start + longest
        yield shown, start - origin, max(end, reached if skipping else end) - origin


def _excerpt(
    frames: Iterator[TimedFrame],
    source: MediaSource,
    start: float,
    end: float | None,
    stream: Any,
    report: DecodeReport,
) -> Iterator[tuple[av.VideoFrame, float, float]]:
    """The frames on screen between `start` and `end`, with times in seconds after `start`."""
    last, latest = 0.0, float("inf") if end is None else end
    for frame, begin, stop in frames:
        last = float(stop)
        if start and last <= start + TIMESTAMP_TOLERANCE:
            continue
        if last - start > MAX_SECONDS and end is None:
            raise too_long(source, "video")
        yield frame, float(begin) - start, min(last, latest) - start
        if last >= latest:
            break
    if last <= start + TIMESTAMP_TOLERANCE and start:
        raise past_the_end(source, "video", start, last)
    if start or end is not None:
        report.count_excerpt(start, end, declared_seconds(stream), last)


def _keyframe_before(source: MediaSource, start: float) -> tuple[Fraction, int] | None:
    """The time of the first frame, and where to seek so that decoding begins before `start` (seconds after it).

    `None` where the file must be read from its beginning: frames without times, or no index that can be relied on.
    """
    with open_stream(source, "video", threads=1) as stream:
        try:
            first = next(stream.container.decode(stream))
            if first.pts is None:
                return None
            position = int(first.pts + Fraction(start) / stream.time_base)
            stream.container.seek(position, stream=stream)
            landed = next(stream.container.decode(stream))
        except (av.FFmpegError, StopIteration, IndexError):
            return None
        if landed.pts is None or not first.pts <= landed.pts <= position:
            return None
        return first.pts * stream.time_base, position
