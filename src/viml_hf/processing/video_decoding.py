"""Video files -> RGB frames at a fixed rate and size."""

from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation, VideoReformatter

from viml_hf.errors import ViMLError
from viml_hf.processing.media import MediaSegment, MediaSource, decode_stream, iter_segments, open_stream
from viml_hf.processing.segments import FRAMES_PER_SECOND, sample_frames

SHORT_SIDE = 224

# Bicubic, as CLIP's own preprocessing. Full chroma keeps white white: 0.1 to 0.2 grey levels from exact arithmetic
# instead of 1.7. The last two flags ask for the same result on every CPU.
_SCALING = Interpolation.BICUBIC | Interpolation.FULL_CHR_H_INT | Interpolation.ACCURATE_RND | Interpolation.BITEXACT
_LONGEST_FRAME = Fraction(600)  # seconds; a longer one is a damaged timestamp, which can promise years of frames
_USUAL_FRAME_RATE = Fraction(25)  # where neither the frames nor the stream state one


def iter_frames(
    source: MediaSource, *, fps: float = FRAMES_PER_SECOND, short_side: int = SHORT_SIDE, threads: int = 0
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

    Yields:
        RGB frames `(height, width, 3)`, uint8. A frame that stands for several samples is the same array again.

    Raises:
        MediaDecodeError: If the source cannot be opened, has no video stream (a cover picture is none), or no frame of
            it can be decoded.
        ViMLError: If `fps` or `short_side` is not above 0.

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
    with open_stream(source, "video", threads) as stream:
        reformatter = VideoReformatter()
        size: tuple[int, int] | None = None
        for frame, count in sample_frames(_timed_frames(stream, source), fps):
            if size is None:
                size = _scaled_size(frame.width, frame.height, stream.sample_aspect_ratio, short_side)
            picture = reformatter.reformat(frame, *size, format="rgb24", interpolation=_SCALING, threads=1).to_ndarray()
            # The matrix in the file turns the picture by multiples of 90 degrees, counter-clockwise like rot90.
            upright = np.ascontiguousarray(np.rot90(picture, round(frame.rotation / 90)))
            for _ in range(count):
                yield upright


def iter_video_segments(
    source: MediaSource, *, fps: float = FRAMES_PER_SECOND, short_side: int = SHORT_SIDE, threads: int = 0
) -> Iterator[MediaSegment]:
    """Decodes a video in 10 s segments; memory is bounded by a segment, not by the file.

    Args:
        source: A path, or the bytes of a whole file.
        fps: Samples per second.
        short_side: Pixels of the shorter side.
        threads: Decoding threads; 0 lets FFmpeg choose.

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
    frames = iter_frames(source, fps=fps, short_side=short_side, threads=threads)
    yield from iter_segments((frame[np.newaxis] for frame in frames), fps)


def _timed_frames(stream: Any, source: MediaSource) -> Iterator[tuple[av.VideoFrame, float, float]]:
    """Frames with start and end in seconds after the first one's start.

    A frame without a time is taken to start at its predecessor's end; so is one whose time is not after its
    predecessor's, or more than ten minutes after.
    """
    usual_duration = 1 / (stream.average_rate or _USUAL_FRAME_RATE)
    origin: Fraction | None = None
    start = end = Fraction(0)
    for frame in decode_stream(stream, source):
        time = None if frame.pts is None else frame.pts * stream.time_base
        if origin is None:
            origin = start = time or Fraction(0)
        elif time is not None and start < time <= start + _LONGEST_FRAME:
            start = time
        else:
            start = end
        duration = (frame.duration or 0) * stream.time_base or usual_duration
        end = start + min(duration, _LONGEST_FRAME)
        yield frame, float(start - origin), float(end - origin)


def _scaled_size(width: int, height: int, pixel_aspect: Fraction | None, short_side: int) -> tuple[int, int]:
    """Width and height with square pixels whose shorter one is `short_side`."""
    display_width = width * (pixel_aspect or 1)
    scale = Fraction(short_side) / min(display_width, height)
    return round(display_width * scale), round(height * scale)
