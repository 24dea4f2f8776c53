"""Opening media files and decoding one of their streams (PyAV). Pictures and sound are made in modules of their own."""

import io
import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, BinaryIO, Literal

import av
import numpy as np
from av.stream import Disposition

from viml_hf.errors import MediaDecodeError
from viml_hf.processing.segments import MIN_TAIL_SECONDS, SEGMENT_SECONDS, regroup

MediaSource = str | os.PathLike[str] | bytes
StreamKind = Literal["video", "audio"]

logger = logging.getLogger(__name__)

_NO_STREAM = {
    "video": "no video stream; give a video file, or recommend with --text alone",
    "audio": "no audio stream; give a music file, or a video with sound",
}
_CONVERT = {
    "video": "convert the file, for example with `ffmpeg -i INPUT OUTPUT.mp4`",
    "audio": "convert the file, for example with `ffmpeg -i INPUT OUTPUT.flac`",
}


@dataclass(frozen=True, eq=False)
class MediaSegment:
    """One segment of a file.

    Args:
        data: Frames `(frames, height, width, 3)` uint8, or samples `(samples,)` float32.
        start: Seconds from the stream's start to the segment's.
        end: Seconds from the stream's start to the segment's end.
    """

    data: np.ndarray
    start: float
    end: float


def iter_segments(chunks: Iterable[np.ndarray], rate: float) -> Iterator[MediaSegment]:
    """Cuts a stream into the segments of `viml_hf.processing.segments.segment_bounds`.

    Args:
        chunks: Arrays `(time, ...)` of any lengths.
        rate: Frames or samples per second.

    Yields:
        The segments, in order and without gaps. One is held at a time.

    Example:
        >>> [(len(s.data), s.start, s.end) for s in iter_segments([np.zeros(13), np.zeros(8)], rate=1)]
        [(10, 0.0, 10.0), (11, 10.0, 21.0)]
    """
    start = 0
    for data in regroup(chunks, round(SEGMENT_SECONDS * rate), round(MIN_TAIL_SECONDS * rate)):
        end = start + len(data)
        yield MediaSegment(data, start / rate, end / rate)
        start = end


def source_name(source: MediaSource) -> str:
    """The name of a source in messages: its path, or `<bytes>`.

    Example:
        >>> source_name(b"RIFF")
        '<bytes>'
    """
    return "<bytes>" if isinstance(source, bytes) else os.fspath(source)


def printable(text: str) -> str:
    """A text with what is not UTF-8, such as bytes of an odd file name, spelt out, so that it can be stored and shown.

    Example:
        >>> printable("caf\\udce9.wav")
        'caf\\\\udce9.wav'
    """
    return text.encode("utf-8", "backslashreplace").decode()


@contextmanager
def open_stream(source: MediaSource, kind: StreamKind, threads: int = 0) -> Iterator[Any]:
    """Opens the first stream of one kind; cover pictures do not count as video.

    Args:
        source: A path, or the bytes of a whole file.
        kind: `"video"` or `"audio"`.
        threads: Decoding threads; 0 lets FFmpeg choose.

    Yields:
        The PyAV stream for `decode_stream`. Leaving the `with` block closes the file.

    Raises:
        MediaDecodeError: If the source cannot be opened or has no such stream, or if FFmpeg or the
            disk fails inside the block.
    """
    name = source_name(source)
    try:
        with _open_file(source) as file, _open_container(file, name) as container:
            stream = _first_stream(container, kind, name)
            stream.thread_type = "AUTO"
            stream.codec_context.thread_count = threads
            try:
                yield stream
            except av.FFmpegError as error:
                cause = f"its {kind} cannot be processed ({error.strerror}); {_CONVERT[kind]}"
                raise MediaDecodeError(name, kind, cause) from error
    except OSError as error:
        cause = f"cannot be read ({error.strerror}); give the path of a video or music file on this machine"
        raise MediaDecodeError(name, "open", cause) from error


def _open_file(source: MediaSource) -> BinaryIO:
    """A path is opened here, not by FFmpeg: paths and bytes then behave alike, and no name is taken for a URL."""
    return io.BytesIO(source) if isinstance(source, bytes) else open(source, "rb")


def _open_container(file: BinaryIO, name: str) -> Any:
    if not file.read(1):
        raise MediaDecodeError(name, "open", "the file is empty (0 bytes); download or copy it again")
    file.seek(0)
    # Without a name FFmpeg judges by the content alone; by its suffix it would play a text file as ANSI art.
    nameless = SimpleNamespace(read=file.read, seek=file.seek, tell=file.tell)
    try:
        # Tags are not always UTF-8. A playlist may name other files and URLs: none of them is opened.
        return av.open(nameless, metadata_errors="replace", container_options={"protocol_whitelist": "none"})
    except av.FFmpegError as error:
        cause = (
            f"not a video or music file, or an incomplete one ({error.strerror}); "
            f"get it again, or if it plays elsewhere, {_CONVERT['video']}"
        )
        raise MediaDecodeError(name, "open", cause) from error


def _first_stream(container: Any, kind: StreamKind, name: str) -> Any:
    pictures = Disposition.attached_pic | Disposition.timed_thumbnails
    streams = [stream for stream in getattr(container.streams, kind) if not stream.disposition & pictures]
    if not streams:
        raise MediaDecodeError(name, kind, _NO_STREAM[kind])
    for stream in streams:
        if stream.codec_context is not None:
            return stream
    raise MediaDecodeError(name, kind, f"no decoder for the codec of its {kind} stream; {_CONVERT[kind]}")


def decode_stream(stream: Any, source: MediaSource) -> Iterator[Any]:
    """Decodes a stream. Corrupt packets are skipped and counted, with one logged warning at the end.

    Args:
        stream: What `open_stream` yields.
        source: The stream's source, for messages.

    Yields:
        PyAV frames in presentation order.

    Raises:
        MediaDecodeError: If no packet at all can be decoded.
    """
    decoded = corrupt = 0
    for packet in _packets(stream, source):
        try:
            frames = stream.decode(packet)
        except av.EOFError:  # drained before
            continue
        except av.FFmpegError:
            corrupt += 1
            continue
        decoded += len(frames)
        yield from frames
    name = source_name(source)
    if not decoded:
        packets = f" ({corrupt} corrupt packets)" if corrupt else ""
        cause = f"nothing in its {stream.type} stream can be decoded{packets}; get the file again, or another one"
        raise MediaDecodeError(name, stream.type, cause)
    if corrupt:
        logger.warning("%s: corrupt %s packets skipped: %d", name, stream.type, corrupt)


def _packets(stream: Any, source: MediaSource) -> Iterator[Any]:
    """The stream's packets, and last an empty one that drains the decoder. Damage to the container ends the stream."""
    try:
        yield from stream.container.demux(stream)
    except IndexError:  # PyAV 18.1, at the end of a file in which a stream appeared late
        yield None
    except av.FFmpegError as error:
        logger.warning("%s: reading stopped early (%s)", source_name(source), error.strerror)
        yield None
