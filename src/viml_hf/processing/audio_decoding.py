"""Music and video files -> waveforms at a fixed sampling rate: mono, or all channels."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import islice, tee
from typing import Any, Protocol

import av
import numpy as np

from viml_hf.errors import ViMLError
from viml_hf.processing.file_clock import JITTER, LEAP, TOLERANCE
from viml_hf.processing.media import (
    MAX_SECONDS,
    DecodeReport,
    MediaSegment,
    MediaSource,
    OpenStream,
    check_excerpt,
    iter_segments,
    open_stream,
    too_long,
)

LEAST_SECONDS = 0.025  # of a sound: what encoders need for one window of theirs
LEAST_DECODABLE = 0.5  # share of the packets of a sound; of less, what is decoded is noise


@dataclass(frozen=True)
class Silence:
    """Stands between decoded frames for sound that is not there, up to `end` seconds after the file begins."""

    end: Fraction


class Listener(Protocol):
    """Hears a file's sound while it is decoded for somebody else: so a file is decoded once."""

    def formats(self, sampling_rate: int, layout: str) -> list[tuple[int, str]]:
        """The rates in Hz and the layouts in which it hears a sound that has this rate and layout."""

    def hear(self, number: int, chunk: np.ndarray) -> None:
        """Take the next samples `(channels, samples)` of the format of this number; they are not to be changed."""


def iter_audio(
    source: MediaSource,
    sampling_rate: int,
    *,
    chunk_seconds: float = 2.0,
    start: float = 0.0,
    end: float | None = None,
    report: DecodeReport | None = None,
    listener: Listener | None = None,
) -> Iterator[np.ndarray]:
    """Decodes sound, mixed down to mono and resampled, a chunk at a time.

    Stereo becomes the mean of its channels; surround is mixed by FFmpeg's matrix, scaled to keep within [-1, 1], and by
    the mean where FFmpeg has no matrix. Where the sound begins after the pictures, and where packets are missing, there
    is silence of that length, as a player plays it.

    Args:
        sampling_rate: Samples per second to resample to, in Hz.
        chunk_seconds: Length of a chunk; it does not change the samples.
        start: Seconds of the file to leave out. They are decoded all the same: seeking in sound is not exact.
        end: Seconds from the beginning of the file to the end of the excerpt; `None` for that of the sound.
        report: Filled while decoding: corrupt packets and coverage.
        listener: Hears the same excerpt; it has heard all of it when the last chunk has been taken.

    Yields:
        Arrays `(samples,)`, float32 in [-1, 1], of at most `chunk_seconds` each.

    Raises:
        MediaDecodeError: If the source cannot be opened, has no audio stream, is longer than 12 hours, or no sample of
            it or of the excerpt can be decoded.
        ViMLError: If `sampling_rate` or `chunk_seconds` is not above 0, or the excerpt has no length.

    Example:
        >>> import io, wave
        >>> file = io.BytesIO()
        >>> with wave.open(file, "wb") as writer:
        ...     writer.setparams((1, 2, 8000, 0, "NONE", ""))
        ...     writer.writeframes(bytes(2 * 8000 * 3))
        >>> [chunk.shape for chunk in iter_audio(file.getvalue(), sampling_rate=4000)]
        [(8000,), (4000,)]
    """
    for chunk in _iter_sound(source, sampling_rate, "mono", chunk_seconds, start, end, report, listener):
        # Lossy codecs overshoot, and float files can hold anything.
        yield np.clip(chunk[0], -1.0, 1.0, out=chunk[0])


def iter_channels(
    source: MediaSource,
    sampling_rate: int,
    *,
    layout: str | None = None,
    chunk_seconds: float = 2.0,
    start: float = 0.0,
    end: float | None = None,
    report: DecodeReport | None = None,
) -> Iterator[np.ndarray]:
    """Decodes sound with its channels, on the same clock as `iter_audio`. Samples are not clipped.

    Args:
        source: A path, or the bytes of a whole file.
        sampling_rate: Samples per second to resample to, in Hz.
        layout: FFmpeg's name of the layout to mix to, such as `"stereo"`; by default that of the file, or mono where
            FFmpeg cannot mix it.
        chunk_seconds: As for `iter_audio`, likewise `start`, `end`, `report` and the errors.

    Yields:
        Arrays `(channels, samples)`, float32.

    Example:
        >>> import io, wave
        >>> file = io.BytesIO()
        >>> with wave.open(file, "wb") as writer:
        ...     writer.setparams((2, 2, 8000, 0, "NONE", ""))
        ...     writer.writeframes(bytes(2 * 2 * 8000))
        >>> [chunk.shape for chunk in iter_channels(file.getvalue(), sampling_rate=8000)]
        [(2, 8000)]
    """
    yield from _iter_sound(source, sampling_rate, layout, chunk_seconds, start, end, report)


def sound_format(source: MediaSource) -> tuple[int, str]:
    """The sampling rate in Hz and FFmpeg's name of the layout of a file's sound."""
    with open_stream(source, "audio", threads=1) as opened:
        return opened.stream.codec_context.sample_rate, _native_layout(opened.stream)


def iter_audio_segments(source: MediaSource, sampling_rate: int, **options: Any) -> Iterator[MediaSegment]:
    """The sound of `iter_audio`, whose options it takes, in 10 s segments `(samples,)`; one is in memory at a time."""
    yield from iter_segments(iter_audio(source, sampling_rate, **options), sampling_rate)


def load_audio(source: MediaSource, sampling_rate: int) -> np.ndarray:
    """The sound of `iter_audio` at once, `(samples,)` float32 mono in [-1, 1]."""
    return np.concatenate(list(iter_audio(source, sampling_rate)))


def resample(waveform: np.ndarray, sampling_rate: int, target_rate: int) -> np.ndarray:
    """Resamples float mono `(samples,)` in [-1, 1] to the very samples, float32, of `load_audio` of a file of it.

    Example:
        >>> resample(np.zeros(8000), sampling_rate=8000, target_rate=4000).shape
        (4000,)
    """
    if sampling_rate < 1 or target_rate < 1:
        raise ViMLError(f"sampling_rate={sampling_rate}, target_rate={target_rate}: give rates in Hz, such as 22050")
    if waveform.ndim != 1 or not waveform.size:
        raise ViMLError(f"a waveform of shape {waveform.shape}: give one row of at least 1 sample, (samples,)")
    starts = range(0, len(waveform), sampling_rate)
    frames = (_to_frame(waveform[start : start + sampling_rate], sampling_rate) for start in starts)
    chunks = _chunks(frames, target_rate, target_rate, "mono")
    return np.clip(np.concatenate([chunk[0] for chunk in chunks]), -1.0, 1.0)


def _iter_sound(
    source: MediaSource,
    sampling_rate: int,
    layout: str | None,
    chunk_seconds: float,
    start: float,
    end: float | None,
    report: DecodeReport | None,
    listener: Listener | None = None,
) -> Iterator[np.ndarray]:
    """Chunks `(channels, samples)` of an excerpt, whatever is wrong with them told at the end."""
    if sampling_rate < 1:
        raise ViMLError(f"sampling_rate={sampling_rate}: give a rate in Hz, such as 22050")
    chunk_length = int(chunk_seconds * sampling_rate)
    if chunk_length < 1:
        raise ViMLError(f"chunk_seconds={chunk_seconds}: a chunk needs at least 1 sample; give seconds, such as 2.0")
    check_excerpt(start, end)
    cut, given = _Cut(sampling_rate, start, end), 0
    with open_stream(source, "audio", threads=1, report=report) as opened:
        report, form = opened.report, (sampling_rate, layout or _native_layout(opened.stream))
        ears = _Ears(listener, opened, form, chunk_seconds, start, end)
        for chunk in _chunks(ears.frames, sampling_rate, chunk_length, form[1]):
            kept = cut(chunk)
            ears.hear(kept)
            if kept.shape[1]:
                given += kept.shape[1]
                yield kept
            if cut.is_over:
                break
            if end is None and cut.position - cut.first > MAX_SECONDS * sampling_rate:
                raise too_long(source, "audio")
        ears.hear_the_rest()
        if report.corrupt > report.packets * (1 - LEAST_DECODABLE):
            raise opened.error(
                f"only {report.packets - report.corrupt} of {report.packets} packets of its sound can be decoded, and "
                f"at least {LEAST_DECODABLE:.0%} must be: it may be encrypted or damaged; get the file again"
            )
        if cut.first and cut.position <= cut.first:
            raise opened.past_the_end(start, cut.position / sampling_rate)
        if given < LEAST_SECONDS * sampling_rate:
            raise opened.error(
                f"its sound is too short, {round(1000 * given / sampling_rate, 2):g} ms, and at least "
                f"{1000 * LEAST_SECONDS:.0f} ms are needed; give another file, or a longer excerpt"
            )
        if cut.first or end is not None:
            report.count_excerpt(start, end, opened.declared_seconds, cut.position / sampling_rate)


class _Cut:
    """Cuts an excerpt out of chunks `(channels, samples)` that come one after the other."""

    def __init__(self, rate: int, start: float, end: float | None):
        self.first, self.stop = round(start * rate), None if end is None else round(end * rate)
        self.position = 0

    def __call__(self, chunk: np.ndarray) -> np.ndarray:
        stop = None if self.stop is None else max(0, self.stop - self.position)
        kept = chunk[:, max(0, self.first - self.position) : stop]
        self.position += chunk.shape[1]
        return kept

    @property
    def is_over(self) -> bool:
        return self.stop is not None and self.position >= self.stop


class _Ears:
    """Lets a listener hear frames that are decoded for somebody else, about as far as that one has come."""

    def __init__(
        self,
        listener: Listener | None,
        opened: OpenStream,
        form: tuple[int, str],
        chunk_seconds: float,
        start: float,
        end: float | None,
    ):
        self.frames = _with_silences(opened)
        self.parts: list[tuple[Callable[[np.ndarray], None], Iterator[np.ndarray]]] = []
        self.same: list[Callable[[np.ndarray], None]] = []
        if listener is None:
            return
        native = opened.stream.codec_context.sample_rate, _native_layout(opened.stream)
        for number, (rate, layout) in enumerate(listener.formats(*native)):
            hear = partial(_hear, listener, number)
            if (rate, layout) == form:
                self.same.append(hear)  # it is resampled already
            else:
                self.frames, copy = tee(self.frames)
                chunks = _chunks(copy, rate, int(chunk_seconds * rate), layout)
                self.parts.append((hear, _excerpt(chunks, _Cut(rate, start, end))))

    def hear(self, kept: np.ndarray) -> None:
        """One more chunk in each format."""
        for hear in self.same:
            hear(kept)
        for hear, chunks in self.parts:
            for chunk in islice(chunks, 1):
                hear(chunk)

    def hear_the_rest(self) -> None:
        """What is left in each format."""
        for hear, chunks in self.parts:
            for chunk in chunks:
                hear(chunk)


def _hear(listener: Listener, number: int, chunk: np.ndarray) -> None:
    if chunk.shape[1]:  # nothing is left of what lies before the excerpt
        listener.hear(number, chunk)


def _excerpt(chunks: Iterable[np.ndarray], cut: _Cut) -> Iterator[np.ndarray]:
    """What is left of each chunk."""
    for chunk in chunks:
        yield cut(chunk)
        if cut.is_over:
            return


def _to_frame(samples: np.ndarray, rate: int) -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[np.newaxis], np.float32), "fltp", "mono")
    frame.sample_rate = rate
    return frame


def _with_silences(opened: OpenStream) -> Iterator[av.AudioFrame | Silence]:
    """Decoded frames, with a silence before them where the sound begins late, and where packets are missing.

    A time is believed where the file's length or its other streams speak for it, or within `LEAP` seconds.
    """
    clock, declared = opened.clock, opened.declared_seconds
    origin: Fraction | None = None  # when the file begins, on the container's clock
    heard = Fraction(0)  # seconds from there to the end of the last frame
    last = declared_end = Fraction(0)  # that end, and the one that the file declares, on the container's clock
    for frame in opened.decode():
        time = None if frame.pts is None else frame.pts * opened.stream.time_base
        if time is not None and origin is None:
            origin = clock.origin(time)
            declared_end = time + Fraction(declared or 0)
            if time > origin:
                heard = time - origin
                yield Silence(heard)
        elif time is not None and origin is not None:
            late = time - origin - heard
            believed = late <= LEAP or clock.vouches_for(time, opened.stream, declared_end)
            if late > TOLERANCE and time - last > JITTER and believed:
                opened.report.holes.append((float(heard), float(heard + late)))
                heard += late
                yield Silence(heard)
            elif abs(late) > TOLERANCE and abs(time - last) > JITTER:
                origin += late  # a time that is not believed: the sound goes on
        yield frame
        length = Fraction(frame.samples, frame.sample_rate)
        heard += length
        if time is not None:
            last = time + length


def _native_layout(stream: Any) -> str:
    """The layout of a stream's channels, where FFmpeg can mix it; otherwise mono, their mean."""
    layout = stream.codec_context.layout.name
    try:
        _resampler(stream.codec_context.sample_rate, 1024, layout)
        av.AudioLayout(layout)
    except (av.FFmpegError, ValueError):
        return "mono"
    return layout


def _chunks(
    frames: Iterable[av.AudioFrame | Silence], sampling_rate: int, chunk_length: int, layout: str
) -> Iterator[np.ndarray]:
    """Resampled chunks `(channels, samples)` of frames of any format, with the silences between them."""
    position, channels = 0, av.AudioLayout(layout).nb_channels
    for part in _resample_frames(frames, sampling_rate, chunk_length, layout):
        if isinstance(part, Silence):
            missing = round(part.end * sampling_rate) - position
            for done in range(0, missing, chunk_length):
                yield np.zeros((channels, min(chunk_length, missing - done)), np.float32)
            position += max(0, missing)
        else:
            samples = part.to_ndarray()
            np.nan_to_num(samples, copy=False, nan=0.0)
            position += samples.shape[1]
            yield samples


def _resample_frames(
    frames: Iterable[av.AudioFrame | Silence], sampling_rate: int, chunk_length: int, layout: str
) -> Iterator[av.AudioFrame | Silence]:
    """Float frames of `chunk_length` samples; shorter ones before a silence or another format, and at the end."""
    resampler: av.AudioResampler | None = None
    input_format = None
    for frame in frames:
        if isinstance(frame, Silence):
            if resampler is not None:
                yield from resampler.resample(None)
            resampler = None
            yield frame
            continue
        frame_format = (frame.format.name, frame.layout.name, frame.sample_rate)
        if resampler is None or frame_format != input_format:
            if resampler is not None:
                yield from resampler.resample(None)
            input_format, mixes = frame_format, _can_mix(frame, layout)
            resampler = _resampler(sampling_rate, chunk_length, layout)
        yield from resampler.resample(frame if mixes else _mean_of_channels(frame))
    if resampler is not None:
        yield from resampler.resample(None)


def _resampler(sampling_rate: int, chunk_length: int, layout: str) -> av.AudioResampler:
    return av.AudioResampler(
        format="fltp",
        layout=layout,
        rate=sampling_rate,
        frame_size=chunk_length,
        options={"rematrix_maxval": "1.0"},  # without it stereo comes out 3 dB louder than it went in
    )


def _can_mix(frame: av.AudioFrame, layout: str) -> bool:
    """Whether FFmpeg knows how to mix the channels of frames like this to a layout."""
    try:
        _resampler(frame.sample_rate, frame.samples, layout).resample(frame)
    except (av.FFmpegError, ValueError):
        return False
    return True


def _mean_of_channels(frame: av.AudioFrame) -> av.AudioFrame:
    """The mean of the channels, for layouts that FFmpeg cannot mix; of ambisonics the channel of all directions."""
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, len(frame.layout.channels)).T
    if samples.dtype.kind == "u":  # 8 bits, around 128
        samples = samples / 128.0 - 1
    elif samples.dtype.kind == "i":
        samples = samples / 2.0 ** (8 * samples.dtype.itemsize - 1)
    mono = samples[0] if frame.layout.name.startswith("ambisonic") else samples.mean(0)
    return _to_frame(mono, frame.sample_rate)
