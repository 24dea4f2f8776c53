"""What one query may cost: a few kilobytes can stand for hours of pictures."""

import math
import os
from dataclasses import dataclass, fields
from typing import Any

from viml_hf.errors import MediaDecodeError, ViMLError
from viml_hf.processing.media import MAX_PIXELS, MAX_SECONDS, open_stream, source_name

_LEAST_PIXELS = 2**16  # of a picture: to read and to time a smaller one takes no less


@dataclass(frozen=True)
class QueryLimits:
    """The most that a query may ask for. A video file is measured by its packets, before anything of it is decoded.

    The defaults take any feature film. For a page that strangers use, give smaller ones.

    Args:
        seconds: Length of the video.
        picture_pixels: Width × height of its pictures.
        video_pixels: Number of its pictures × width × height, each picture being 256 × 256 at least: so much time
            takes the smallest.
        characters: Length of the text; by default any, of which the text encoder takes the beginning.

    Raises:
        ViMLError: A limit is not above 0.

    Example:
        >>> QueryLimits(characters=20).check(text="slow piano")
        >>> QueryLimits(characters=5).check(text="slow piano")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        viml_hf.errors.ViMLError: a text of more than 5 characters, the limit of a query here: give a ...
    """

    seconds: float = MAX_SECONDS
    picture_pixels: float = MAX_PIXELS
    video_pixels: float = 4e12
    characters: float = math.inf

    def __post_init__(self) -> None:
        for limit in fields(self):
            if not getattr(self, limit.name) > 0:
                raise ViMLError(f"{limit.name}={getattr(self, limit.name)}: give a number above 0")

    @property
    def decoded_pixels(self) -> int:
        """The largest picture that is decoded: codecs round sizes up to blocks, so more than the largest accepted."""
        return round(min(2 * self.picture_pixels, MAX_PIXELS))

    def check(self, video: Any = None, text: str | None = None) -> None:
        """Refuse a query that is beyond a limit. Frames at hand have no cost that is not known already.

        Raises:
            ViMLError: The text is too long.
            MediaDecodeError: The video is, or it cannot be opened.
        """
        if text is not None and len(text) > self.characters:
            raise ViMLError(_beyond("a text", "characters", self.characters))
        if isinstance(video, str | os.PathLike | bytes):
            self._check_video(video)

    def _check_video(self, video: str | os.PathLike | bytes) -> None:
        with open_stream(video, "video", max_pixels=self.decoded_pixels) as opened:
            stream, report, clock = opened.stream, opened.report, opened.clock
            size = stream.codec_context.width * stream.codec_context.height
            _refuse(video, "pictures", "picture_pixels", size, self.picture_pixels)
            cost = max(size, _LEAST_PIXELS)
            for _ in opened.packets():
                _refuse(video, "a video", "video_pixels", report.packets * cost, self.video_pixels)
                _refuse(video, "a video", "seconds", report.reached, self.seconds)
            # A last picture may be shown for as long as there is sound.
            _refuse(video, "a file", "seconds", float(clock.end_of_others(stream) - (clock.begin or 0)), self.seconds)


def _refuse(video: str | os.PathLike | bytes, what: str, name: str, value: float, limit: float) -> None:
    if value > limit:
        raise MediaDecodeError(source_name(video), "video", _beyond(what, name.rpartition("_")[2], limit))


def _beyond(what: str, unit: str, limit: float) -> str:
    return f"{what} of more than {limit:,.0f} {unit}, the limit of a query here: give a shorter or smaller one"
