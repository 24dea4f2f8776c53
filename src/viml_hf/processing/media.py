"""Opening media files and decoding one of their streams (PyAV). Pictures and sound are made in modules of their own."""

import errno
import io
import itertools
import logging
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from fractions import Fraction
from types import SimpleNamespace
from typing import Any, BinaryIO, Literal

import av
import numpy as np
from av.format import Flags
from av.stream import Disposition

from viml_hf.errors import MediaDecodeError, ViMLError, unreadable
from viml_hf.processing.file_clock import FileClock
from viml_hf.processing.segments import MIN_TAIL_SECONDS, SEGMENT_SECONDS, regroup

MediaSource = str | os.PathLike[str] | bytes  # a path, or the bytes of a whole file
StreamKind = Literal["video", "audio"]

# No honest file comes near these; a damaged or forged one is stopped before memory is taken for it.
MAX_PIXELS = 2**26  # of one decoded picture, 8192 × 8192
MIN_SAMPLING_RATE, MAX_SAMPLING_RATE = 1000, 2**20  # Hz
MAX_SECONDS = 12 * 3600.0  # decoded of one file

logger = logging.getLogger(__name__)

_NO_STREAM = {
    "video": "no video stream; give a video file, or ask by a text alone",
    "audio": "no audio stream; give a music file, or a video with sound",
}
_CONVERT = {
    "video": "convert the file, for example with `ffmpeg -i INPUT OUTPUT.mp4`",
    "audio": "convert the file, for example with `ffmpeg -i INPUT OUTPUT.flac`",
}


@dataclass
class DecodeReport:
    """How much of a stream could be decoded; it fills while the stream is read."""

    packets: int = 0  # that were read
    corrupt: int = 0  # packets that could not be decoded, and pictures that FFmpeg marks as damaged
    reached: float = 0.0  # seconds from the stream's start to the end of what was read
    expected: float | None = None  # seconds that the file says the stream has, or those asked for; `None`: it says none
    holes: list[tuple[float, float]] = field(default_factory=list)  # where packets are missing, in seconds

    @property
    def coverage(self) -> float:
        """Share in [0, 1] of the stream: of good packets among those read, times that of the length without holes.

        Example:
            >>> DecodeReport(packets=100, corrupt=10, reached=30, expected=60).coverage
            0.45
        """
        if not self.packets:
            return 0.0
        length = self.expected or self.reached
        covered = self.reached - sum(end - start for start, end in self.holes)
        reach = min(1.0, max(0.0, covered / length)) if length else 1.0
        return max(0.0, 1 - self.corrupt / self.packets) * reach

    def count_excerpt(self, start: float, end: float | None, declared: float | None, reached: float) -> None:
        """Counts only the excerpt, once it is read, of a stream that declares a length and is decoded up to `reached`.

        Example:
            >>> report = DecodeReport(packets=100)
            >>> report.count_excerpt(10, 30, declared=25, reached=22)
            >>> report.reached, report.expected, report.coverage
            (12, 15, 0.8)
        """
        latest = float("inf") if end is None else end
        self.holes = [(max(a, start), min(b, latest)) for a, b in self.holes if a < latest and b > start]
        # More may be decoded than the file declares.
        self.expected = min(max(declared or 0.0, reached), latest) - start
        self.reached = min(reached, latest) - start


@dataclass(frozen=True, eq=False)
class MediaSegment:
    """One segment of a file."""

    data: np.ndarray  # frames `(frames, height, width, 3)` uint8, or samples `(samples,)` float32
    start: float  # seconds from the stream's start
    end: float  # likewise


def iter_segments(chunks: Iterable[np.ndarray], rate: float) -> Iterator[MediaSegment]:
    """Cuts chunks `(time, ...)` of any lengths, at `rate` frames or samples per second, by `segment_bounds`.

    The segments come in order and without gaps; one is held at a time.

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
    """The name of a source in messages: its path, or `<bytes>`."""
    return "<bytes>" if isinstance(source, bytes) else os.fspath(source)


def printable(text: str) -> str:
    """A text with what is not UTF-8, such as bytes of an odd file name, spelt out, so that it can be stored and shown.

    Example:
        >>> printable("caf\\udce9.wav")
        'caf\\\\udce9.wav'
    """
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def file_name(text: str) -> str:
    """The name of a file that `printable` spelled out, as the operating system knows it.

    Example:
        >>> os.fsencode(file_name("caf\\\\udce9.wav"))
        b'caf\\xe9.wav'
    """
    return re.sub(r"\\u(dc[89a-f][0-9a-f])", lambda found: chr(int(found[1], 16)), text)


def check_excerpt(start: float, end: float | None) -> None:
    """Refuses an excerpt that begins before 0, or without a length."""
    if not 0 <= start < float("inf") or (end is not None and not start < end):
        raise ViMLError(f"start={start}, end={end}: give seconds, 0 <= start < end")


def too_long(source: MediaSource, kind: StreamKind) -> MediaDecodeError:
    """The error of a stream beyond `MAX_SECONDS`."""
    cause = f"its {kind} is longer than {MAX_SECONDS / 3600:g} hours; split it, or take excerpts with start and end"
    return MediaDecodeError(source_name(source), kind, cause)


@contextmanager
def open_stream(
    source: MediaSource,
    kind: StreamKind,
    threads: int = 0,
    max_pixels: int = MAX_PIXELS,
    report: DecodeReport | None = None,
) -> Iterator["OpenStream"]:
    """Opens the stream of one kind that a player takes; 0 threads let FFmpeg choose.

    Pictures of more than `max_pixels` are not decoded, nor when the file is opened. `MediaDecodeError` is raised if the
    source cannot be opened, has no such stream or one beyond the caps of this module, or if FFmpeg or the disk fails
    inside the block.
    """
    name = source_name(source)
    try:
        with _open_file(source) as file, _open_container(file, name, max_pixels) as container:
            stream = _chosen_stream(container, kind, source, name, max_pixels)
            _check_size(stream, name)
            # Pictures may grow on the way: FFmpeg holds them to the cap.
            stream.codec_context.options = {"max_pixels": str(max_pixels)}
            stream.thread_type = "AUTO"
            stream.codec_context.thread_count = threads
            try:
                yield OpenStream(stream, source, report)
            except av.FFmpegError as error:
                cause = f"its {kind} cannot be processed ({error.strerror}); {_CONVERT[kind]}"
                raise MediaDecodeError(name, kind, cause) from error
    except OSError as error:
        raise unreadable(name, error) from error


def holds_media(path: str) -> bool:
    """Whether a file holds sound or moving pictures that can be decoded, by its content."""
    try:
        with _open_file(path) as file, _open_container(file, path) as container:
            formats = container.format.name
            streams = [*container.streams.audio, *_shown_streams(container, "video")]
            return not formats.endswith("_pipe") and any(stream.codec_context is not None for stream in streams)
    except (MediaDecodeError, OSError):
        return False


def _open_file(source: MediaSource) -> BinaryIO:
    """A path is opened here, not by FFmpeg: paths and bytes then behave alike, and no name is taken for a URL."""
    if isinstance(source, bytes):
        return io.BytesIO(source)
    mode = os.stat(source).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # opening a pipe would wait for a writer
        raise OSError(errno.EINVAL, "it is a pipe or a device, and no file")
    return open(source, "rb")


def _open_container(file: BinaryIO, name: str, max_pixels: int = MAX_PIXELS) -> Any:
    if not file.read(1):
        raise MediaDecodeError(name, "open", "the file is empty (0 bytes); download or copy it again")
    file.seek(0)
    # Without a name FFmpeg judges by the content alone; by its suffix it would play a text file as ANSI art.
    nameless = SimpleNamespace(read=file.read, seek=file.seek, tell=file.tell)
    try:
        # Tags are not always UTF-8. A playlist may name other files and URLs: none of them is opened.
        caps = {} if max_pixels >= MAX_PIXELS else {"max_pixels": str(max_pixels)}  # some are decoded here
        only = {"protocol_whitelist": "none"}
        return av.open(nameless, metadata_errors="replace", options=caps, container_options=only)
    except av.FFmpegError as error:
        cause = (
            f"not a video or music file, or an incomplete one ({error.strerror}); "
            f"get it again, or if it plays elsewhere, {_CONVERT['video']}"
        )
        raise MediaDecodeError(name, "open", cause) from error


# What a player does not choose by itself: pictures that are no video, and sound or pictures for somebody in particular.
_NO_VIDEO = Disposition.attached_pic | Disposition.timed_thumbnails
_FOR_FEW = Disposition.comment | Disposition.hearing_impaired | Disposition.visual_impaired | Disposition.karaoke
_PACKETS_TO_PROBE = 2000  # in which a stream must have one
_WITHOUT_LENGTH = {"aac", "ac3", "eac3", "dts", "loas", "truehd", "amr"}  # FFmpeg guesses it from the first frames


def _shown_streams(container: Any, kind: StreamKind) -> list[Any]:
    return [stream for stream in getattr(container.streams, kind) if not stream.disposition & _NO_VIDEO]


def _preference(stream: Any) -> tuple[bool, bool, bool, int]:
    """Orders streams by what a player takes; of pictures the largest, of sound the most channels, as FFmpeg does."""
    context = stream.codec_context
    if context is None:
        return False, False, False, 0
    size = context.width * context.height if stream.type == "video" else context.channels
    return True, not stream.disposition & _FOR_FEW, bool(stream.disposition & Disposition.default), size


def _without_packets(source: MediaSource, kind: StreamKind, name: str, max_pixels: int) -> set[int]:
    """The streams of one kind, by index, of which the beginning of a file holds no packet though it does of others."""
    with _open_file(source) as file, _open_container(file, name, max_pixels) as container:
        streams = _shown_streams(container, kind)
        missing = {stream.index for stream in streams}
        with suppress(av.FFmpegError, IndexError):
            for packet in itertools.islice(container.demux(streams), _PACKETS_TO_PROBE):
                if packet.size:
                    missing.discard(packet.stream_index)
                if not missing:
                    break
        return missing if len(missing) < len(streams) else set()


def _chosen_stream(container: Any, kind: StreamKind, source: MediaSource, name: str, max_pixels: int) -> Any:
    streams = _shown_streams(container, kind)
    if not streams:
        raise MediaDecodeError(name, kind, _NO_STREAM[kind])
    empty = _without_packets(source, kind, name, max_pixels) if len(streams) > 1 else set()
    stream = max((one for one in streams if one.index not in empty), key=_preference)
    if stream.codec_context is None:
        raise MediaDecodeError(name, kind, f"no decoder for the codec of its {kind} stream; {_CONVERT[kind]}")
    return stream


def _check_size(stream: Any, name: str) -> None:
    context = stream.codec_context
    if stream.type == "video" and context.width * context.height > MAX_PIXELS:
        cause = f"pictures of {context.width} × {context.height} pixels; at most {MAX_PIXELS} are read: scale it down"
        raise MediaDecodeError(name, "video", cause)
    rate = stream.type == "audio" and context.sample_rate
    if rate and not MIN_SAMPLING_RATE <= rate <= MAX_SAMPLING_RATE:
        accepted = f"{MIN_SAMPLING_RATE} to {MAX_SAMPLING_RATE} are read"
        cause = f"sound at {rate} Hz; {accepted}: {_CONVERT['audio']}"
        raise MediaDecodeError(name, "audio", cause)


class OpenStream:
    """A stream of a file that is open (`stream`, of PyAV), with the clock of the file and a report of what was read."""

    def __init__(self, stream: Any, source: MediaSource, report: DecodeReport | None = None):
        self.stream, self.source = stream, source
        self.report = DecodeReport() if report is None else report
        shown = [*_shown_streams(stream.container, "video"), *_shown_streams(stream.container, "audio")]
        self.clock = FileClock(shown, bool(stream.container.format.flags & Flags.ts_discont.value))

    def error(self, cause: str) -> MediaDecodeError:
        """What is wrong with the stream, as an error."""
        return MediaDecodeError(source_name(self.source), self.stream.type, cause)

    def past_the_end(self, start: float, length: float) -> MediaDecodeError:
        """The error of an excerpt that begins after the stream ends."""
        kind = self.stream.type
        return self.error(f"its {kind} ends at {length:.1f} s, but start={start:g}: give a start before that")

    @property
    def states_length(self) -> bool:
        """Whether the file says how long this one of its streams is, and not only how long it is itself."""
        return bool(self.stream.duration) and "matroska" not in self.stream.container.format.name

    @property
    def declared_seconds(self) -> float | None:
        """The length that the file says its stream has, or, as WebM and Matroska, the file has; `None`: none."""
        stream, container = self.stream, self.stream.container
        if container.format.name in _WITHOUT_LENGTH or _is_guessed(stream):
            return None
        # In damaged files a length can be negative.
        if stream.duration and stream.duration > 0:
            return float(stream.duration * stream.time_base)
        return container.duration / av.time_base if container.duration and container.duration > 0 else None

    def decode(self) -> Iterator[Any]:
        """Decodes the stream into PyAV frames in presentation order, with times on the file's clock.

        Corrupt packets are skipped and counted, with one logged warning at the end. `MediaDecodeError` is raised if no
        packet at all can be decoded, or the stream is encrypted.
        """
        report, decoded = self.report, 0
        report.expected = self.declared_seconds if report.expected is None else report.expected
        for packet in self.packets():
            try:
                frames = self.stream.decode(packet)
            except av.EOFError:  # drained before
                continue
            except av.FFmpegError:
                report.corrupt += 1
                continue
            usable = [frame for frame in frames if _has_a_usable_rate(frame)]
            decoded += len(usable)
            report.corrupt += len(frames) - len(usable) + sum(frame.is_corrupt for frame in usable)
            yield from usable
        if not self.states_length and report.expected is not None:
            # Where another stream lasts as long as the file claims to, nothing of this one is missing.
            end = (self.clock.begin or Fraction(0)) + Fraction(report.expected)
            if self.clock.end_of_others(self.stream) >= end - 1:
                report.expected = report.reached or None
        kind = self.stream.type
        if not decoded:
            packets = f" ({report.corrupt} corrupt packets)" if report.corrupt else ""
            cause = f"nothing in its {kind} stream can be decoded{packets}"
            raise self.error(f"{cause}; get the file again, or another one")
        if report.corrupt:
            name = source_name(self.source)
            logger.warning("%s: corrupt %s packets: %d of %d", name, kind, report.corrupt, report.packets)

    def packets(self) -> Iterator[Any]:
        """The packets, and last an empty one that drains the decoder. Damage to the container ends the stream."""
        begin: Fraction | None = None
        stream, report = self.stream, self.report
        try:
            for packet in self.demux():
                if packet.stream.index != stream.index:
                    continue
                if packet.size:
                    if not report.packets and packet.has_sidedata("encryption_info"):
                        raise self.error(f"its {stream.type} is encrypted; only a copy without encryption can be read")
                    report.packets += 1
                    time = packet.pts if packet.pts is not None else packet.dts
                    if time is not None:
                        begin = time * stream.time_base if begin is None else begin
                        end = float((time + (packet.duration or 0)) * stream.time_base - begin)
                        report.reached = max(report.reached, end)
                yield packet
        except IndexError:  # PyAV 18.1, at the end of a file in which a stream appeared late
            yield None
        except av.FFmpegError as error:
            logger.warning("%s: reading stopped early (%s)", source_name(self.source), error.strerror)
            yield None

    def demux(self) -> Iterator[Any]:
        """The packets of all pictures and sound in the order of the file: together they tell its time."""
        container = self.stream.container
        for packet in container.demux(*container.streams.video, *container.streams.audio):
            if packet.size:
                self.clock.read(packet)
            yield packet


def stream_seconds(source: MediaSource, kind: StreamKind) -> float | None:
    """The length of a stream by its packets, none of which is decoded; `None` where they have no times."""
    with open_stream(source, kind) as opened:
        for _ in opened.packets():
            pass
    return opened.report.reached or None


def _is_guessed(stream: Any) -> bool:
    """Whether the length of an MP3 is what its size and its first frame's bit rate give, and not stated in a header."""
    container = stream.container
    if container.format.name != "mp3" or not stream.duration or not stream.codec_context.bit_rate:
        return False
    by_size = container.size * 8 / stream.codec_context.bit_rate
    return abs(by_size - float(stream.duration * stream.time_base)) < 0.02 * by_size


def _has_a_usable_rate(frame: Any) -> bool:
    """Some codecs state the rate in every packet: at a damaged 1 Hz, one of them would become hours of sound."""
    rate = getattr(frame, "sample_rate", None)  # pictures have none
    return rate is None or MIN_SAMPLING_RATE <= rate <= MAX_SAMPLING_RATE
