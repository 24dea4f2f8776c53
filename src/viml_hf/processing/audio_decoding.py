"""Music and video files -> mono waveforms at a fixed sampling rate."""

from collections.abc import Iterable, Iterator
from typing import Any

import av
import numpy as np

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


def iter_audio(
    source: MediaSource,
    sampling_rate: int,
    *,
    chunk_seconds: float = 2.0,
    start: float = 0.0,
    end: float | None = None,
    report: DecodeReport | None = None,
) -> Iterator[np.ndarray]:
    """Decodes sound, mixed down to mono and resampled, a chunk at a time.

    Stereo becomes the mean of its channels; surround is mixed by FFmpeg's matrix, scaled to keep within [-1, 1].

    Args:
        source: A path, or the bytes of a whole file.
        sampling_rate: Samples per second to resample to, in Hz.
        chunk_seconds: Length of a chunk; it does not change the samples.
        start: Seconds to leave out at the beginning. They are decoded all the same: seeking in sound is not exact.
        end: Seconds from the beginning to the end of the excerpt; `None` for that of the sound.
        report: Filled while decoding: corrupt packets and coverage.

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
    if sampling_rate < 1:
        raise ViMLError(f"sampling_rate={sampling_rate}: give a rate in Hz, such as 22050")
    chunk_length = int(chunk_seconds * sampling_rate)
    if chunk_length < 1:
        raise ViMLError(f"chunk_seconds={chunk_seconds}: a chunk needs at least 1 sample; give seconds, such as 2.0")
    check_excerpt(start, end)
    report = DecodeReport() if report is None else report
    first, stop = round(start * sampling_rate), None if end is None else round(end * sampling_rate)
    position = 0
    with open_stream(source, "audio", threads=1) as stream:
        for chunk in _mono_chunks(decode_stream(stream, source, report), sampling_rate, chunk_length):
            kept = chunk[max(0, first - position) : None if stop is None else max(0, stop - position)]
            position += len(chunk)
            if len(kept):
                yield kept
            if stop is not None and position >= stop:
                break
            if stop is None and position - first > MAX_SECONDS * sampling_rate:
                raise too_long(source, "audio")
        if not position:  # the resampler makes nothing of a few samples
            cause = f"its sound is too short for a sample at {sampling_rate} Hz; get the file again, or another one"
            raise MediaDecodeError(source_name(source), "audio", cause)
        if first and position <= first:
            raise past_the_end(source, "audio", start, position / sampling_rate)
        if first or stop is not None:
            report.count_excerpt(start, end, declared_seconds(stream), position / sampling_rate)


def iter_audio_segments(source: MediaSource, sampling_rate: int, **options: Any) -> Iterator[MediaSegment]:
    """Decodes sound in 10 s segments; memory is bounded by a segment, not by the file.

    Args:
        source: A path, or the bytes of a whole file.
        sampling_rate: Samples per second to resample to, in Hz.
        options: As for `iter_audio`.

    Yields:
        Segments with `data` `(samples,)`, float32 mono in [-1, 1]. The last one may be longer or shorter, see
        `viml_hf.processing.segments.segment_bounds`.

    Raises:
        MediaDecodeError: As `iter_audio`.
        ViMLError: As `iter_audio`.

    Example:
        >>> import io, wave
        >>> file = io.BytesIO()
        >>> with wave.open(file, "wb") as writer:
        ...     writer.setparams((1, 2, 8000, 0, "NONE", ""))
        ...     writer.writeframes(bytes(2 * 8000 * 21))
        >>> [(segment.start, segment.end) for segment in iter_audio_segments(file.getvalue(), 8000)]
        [(0.0, 10.0), (10.0, 21.0)]
    """
    yield from iter_segments(iter_audio(source, sampling_rate, **options), sampling_rate)


def load_audio(source: MediaSource, sampling_rate: int) -> np.ndarray:
    """Decodes a whole file's sound at once.

    Args:
        source: A path, or the bytes of a whole file.
        sampling_rate: Samples per second to resample to, in Hz.

    Returns:
        `(samples,)`, float32 mono in [-1, 1].

    Raises:
        MediaDecodeError: As `iter_audio`.
        ViMLError: As `iter_audio`.

    Example:
        >>> import io, wave
        >>> file = io.BytesIO()
        >>> with wave.open(file, "wb") as writer:
        ...     writer.setparams((2, 2, 8000, 0, "NONE", ""))
        ...     writer.writeframes(bytes(2 * 2 * 8000))
        >>> load_audio(file.getvalue(), sampling_rate=16000).shape
        (16000,)
    """
    return np.concatenate(list(iter_audio(source, sampling_rate)))


def resample(waveform: np.ndarray, sampling_rate: int, target_rate: int) -> np.ndarray:
    """Resamples a waveform at hand, to the very samples that `load_audio` gives for a file of it.

    Args:
        waveform: `(samples,)`, float mono in [-1, 1].
        sampling_rate: Its rate in Hz.
        target_rate: The rate to resample to, in Hz.

    Returns:
        `(samples,)`, float32 in [-1, 1].

    Raises:
        ViMLError: If a rate is not above 0, or the waveform is not one row of samples.

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
    return np.concatenate(list(_mono_chunks(frames, target_rate, chunk_length=target_rate)))


def _to_frame(samples: np.ndarray, rate: int) -> av.AudioFrame:
    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples[np.newaxis], np.float32), "fltp", "mono")
    frame.sample_rate = rate
    return frame


def _mono_chunks(frames: Iterable[av.AudioFrame], sampling_rate: int, chunk_length: int) -> Iterator[np.ndarray]:
    """Resampled mono chunks `(samples,)` in [-1, 1] of frames of any format."""
    for frame in _resample_frames(frames, sampling_rate, chunk_length):
        samples = frame.to_ndarray()[0]
        # Lossy codecs overshoot, and float files can hold anything.
        np.nan_to_num(samples, copy=False, nan=0.0)
        yield np.clip(samples, -1.0, 1.0, out=samples)


def _resample_frames(frames: Iterable[av.AudioFrame], sampling_rate: int, chunk_length: int) -> Iterator[av.AudioFrame]:
    """Float mono frames of `chunk_length` samples; shorter ones before a change of the input format and at the end."""
    resampler: av.AudioResampler | None = None
    input_format = None
    for frame in frames:
        frame_format = (frame.format.name, frame.layout.name, frame.sample_rate)
        if resampler is None or frame_format != input_format:
            if resampler is not None:
                yield from resampler.resample(None)
            input_format = frame_format
            resampler = av.AudioResampler(
                format="fltp",
                layout="mono",
                rate=sampling_rate,
                frame_size=chunk_length,
                options={"rematrix_maxval": "1.0"},  # without it stereo comes out 3 dB louder than it went in
            )
        yield from resampler.resample(frame)
    if resampler is not None:
        yield from resampler.resample(None)
