"""A video with a track under it: the pictures are copied packet by packet, the sound is mixed and encoded."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, get_args

import av
import numpy as np

from viml_hf.analysis.loudness import SoundLevels, measure_levels
from viml_hf.errors import MediaDecodeError, ViMLError
from viml_hf.features.atomic_files import replacing
from viml_hf.processing.audio_decoding import iter_channels
from viml_hf.processing.file_clock import TOLERANCE
from viml_hf.processing.media import open_stream
from viml_hf.soundtrack.mixing import CEILING, PROGRAMME_LOUDNESS, RATE, blocks, master, mix, music_of, sounding, speech
from viml_hf.soundtrack.moment import Moment

OriginalSound = Literal["sound", "speech", "keep", "replace"]
MAX_SECONDS = 1200.0  # of a video: its sound is in memory
TRUE_PEAK = -1.0  # dBTP, of the file
_TRIES = 3  # at encoding below that peak
_FRAME = 1024  # samples given to the encoder at a time
# Container formats that take the packets of a file as they are, with the suffix and the audio codec for each.
_CONTAINERS = {
    "mp4": (".mp4", "aac"),
    "mov": (".mov", "aac"),
    "webm": (".webm", "libopus"),
    "matroska": (".mkv", "aac"),
    "mpegts": (".ts", "aac"),
}
_WEBM_CODECS = {"vp8", "vp9", "av1"}


@dataclass(frozen=True)
class Preview:
    """A preview that was written.

    Args:
        path: The file.
        levels: What was measured of its sound.
        duration: Seconds of the video.
    """

    path: Path
    levels: SoundLevels
    duration: float


@dataclass(frozen=True)
class Pictures:
    """When the pictures of a file are shown, on the container's clock.

    Args:
        origin: Seconds at which the file begins.
        duration: Seconds from there to the end of the last picture.
        sound_delay: Seconds by which its sound begins later than its pictures, where both count as beginning together.
        container: The format to copy them to.
        decoding_times: Of the first packets, in units of the stream, where the file states none: Matroska does not of
            pictures that are stored out of order.
    """

    origin: Fraction
    duration: float
    sound_delay: float
    container: str
    decoding_times: tuple[int, ...] = ()


def write_preview(
    video: str | os.PathLike[str],
    track: str | os.PathLike[str],
    output: str | os.PathLike[str],
    moment: Moment,
    *,
    original_sound: OriginalSound = "sound",
    loudness: float = PROGRAMME_LOUDNESS,
) -> Preview:
    """Write a video with a moment of a track under it.

    The pictures are those of the file, packet for packet, with their times and the display matrix. The sound is stereo
    at 48 kHz, AAC or, in WebM, Opus. The file is whole or not there.

    Args:
        video: A video of at most 20 minutes.
        track: A music file.
        output: The file without its suffix, which follows from the video: a container that takes its packets.
        moment: Which part of the track, from [`find_moments`].
        original_sound: `"sound"` lowers the music where the video's own sound is heard, `"speech"` where somebody
            speaks (needs the extra `preview`), `"keep"` mixes both, `"replace"` leaves the own sound out.
        loudness: Of the programme, in LUFS.

    Raises:
        ViMLError: An argument is unknown or out of range.
        MediaDecodeError: A file cannot be decoded or copied.

    Example:
        >>> write_preview("clip.mp4", "song.mp3", "previews/1", Moment(((31.4, 51.4),))).path  # doctest: +SKIP
        PosixPath('previews/1.mp4')
    """
    if original_sound not in get_args(OriginalSound):
        raise ViMLError(f"original_sound={original_sound!r}: give one of {', '.join(get_args(OriginalSound))}")
    if not -40 <= loudness <= -5:
        raise ViMLError(f"loudness={loudness}: give LUFS from -40 to -5, such as {PROGRAMME_LOUDNESS:g}")
    pictures = look_at(video)
    samples = round(pictures.duration * RATE)
    own = None if original_sound == "replace" else own_sound(video, samples, pictures.sound_delay)
    intervals: list[tuple[float, float]] = []
    if own is not None and original_sound == "sound":
        intervals = sounding(blocks(own))
    elif own is not None and original_sound == "speech":
        intervals = [(a + pictures.sound_delay, b + pictures.sound_delay) for a, b in speech(video)]
    mixed = mix(music_of(track, moment, samples), own, intervals)
    suffix, _ = _CONTAINERS[pictures.container]
    path = Path(output).with_name(Path(output).name + suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        ceiling = CEILING
        for _ in range(_TRIES):
            _write(video, temporary, pictures, master(mixed, loudness, ceiling))
            levels = measure_levels(iter_channels(temporary, RATE), RATE)
            if levels.true_peak <= TRUE_PEAK:
                break
            ceiling -= levels.true_peak - TRUE_PEAK + 0.2
    return Preview(path, levels, pictures.duration)


def look_at(video: str | os.PathLike[str]) -> Pictures:
    """When a video's pictures are shown, read from its packets.

    Raises:
        MediaDecodeError: It cannot be opened, has no pictures or no times, or is longer than 20 minutes.
    """
    name = os.fspath(video)
    with open_stream(video, "video", threads=1) as opened:
        stream, clock = opened.stream, opened.clock
        usual = 1 / (stream.average_rate or 25)
        first = end = None
        untimed, next_time = 0, None
        for packet in opened.packets():
            if packet is None or not packet.size:
                continue
            if packet.dts is None and next_time is None:
                untimed += 1
            elif next_time is None:
                next_time = packet.dts
            if packet.pts is None or (packet.dts is None and next_time is not None):
                cause = "its pictures have no times, so they cannot be copied; convert it, for example to MP4"
                raise MediaDecodeError(name, "video", cause)
            time = packet.pts * stream.time_base
            first = time if first is None else min(first, time)
            end = max(end or time, time + (packet.duration * stream.time_base if packet.duration else usual))
        if first is None or end is None:
            raise MediaDecodeError(name, "video", "it has no pictures that can be read; get the file again")
        origin = clock.origin(first)
        if end - origin > MAX_SECONDS:
            cause = f"a video of {float(end - origin):.0f} s; previews are of at most {MAX_SECONDS:.0f} s: cut it"
            raise MediaDecodeError(name, "video", cause)
        sounds = [s for s in stream.container.streams.audio if s.start_time is not None]
        delay = sounds[0].start_time * sounds[0].time_base - first if sounds else Fraction(0)
        delay = delay if abs(delay) <= TOLERANCE else Fraction(0)
        step = max(1, round(usual / stream.time_base))
        known = round(first / stream.time_base) if next_time is None else next_time
        times = tuple(known - step * (untimed - number) for number in range(untimed))
        return Pictures(origin, float(end - origin), float(delay), _container_for(stream, name), times)


def _container_for(stream: Any, name: str) -> str:
    formats = stream.container.format.name.split(",")
    if "mp4" in formats:
        return "mov" if name.lower().endswith(".mov") else "mp4"
    if "webm" in formats:
        return "webm" if stream.codec_context.name in _WEBM_CODECS | {"libdav1d", "libvpx"} else "matroska"
    return "mpegts" if "mpegts" in formats else "matroska"


def own_sound(video: str | os.PathLike[str], samples: int, delay: float) -> np.ndarray | None:
    """`(2, samples)` of a video's own sound on the clock of its pictures; `None` where it has none."""
    made, place = np.zeros((2, samples), np.float32), round(delay * RATE)
    try:
        for chunk in iter_channels(video, RATE, layout="stereo"):
            kept = chunk[:, max(0, -place) : max(0, samples - place)]
            at = max(0, place)
            made[:, at : at + kept.shape[1]] = kept
            place += chunk.shape[1]
            if place >= samples:
                break
    except MediaDecodeError as error:
        if error.stage != "audio":
            raise
        return None  # no sound, or none that can be decoded: the music is alone
    return made if made.any() else None


def _write(video: str | os.PathLike[str], path: Path, pictures: Pictures, sound: np.ndarray) -> None:
    """Copy the pictures and encode the sound, in the order of their times."""
    _, codec = _CONTAINERS[pictures.container]
    try:
        with (
            open_stream(video, "video", threads=1) as opened,
            av.open(str(path), "w", format=pictures.container) as container,
        ):
            source = opened.stream
            copied = container.add_stream_from_template(source, opaque=True)
            copied.time_base = source.time_base
            encoder = container.add_stream(codec, rate=RATE, layout="stereo", bit_rate=256_000)
            packets = _encoded(encoder, sound)
            waiting = next(packets, None)
            shift, untimed = round(pictures.origin / source.time_base), iter(pictures.decoding_times)
            for packet in opened.packets():
                if packet is None or not packet.size:
                    continue
                packet.dts = next(untimed) if packet.dts is None else packet.dts
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, copied
                while waiting is not None and waiting.pts * waiting.time_base <= packet.dts * packet.time_base:
                    container.mux(waiting)
                    waiting = next(packets, None)
                container.mux(packet)
            while waiting is not None:
                container.mux(waiting)
                waiting = next(packets, None)
    except (av.FFmpegError, ValueError) as error:
        if isinstance(error, ViMLError):
            raise
        cause = f"its pictures cannot be copied ({error}); convert it, for example with `ffmpeg -i INPUT OUTPUT.mp4`"
        raise MediaDecodeError(os.fspath(video), "video", cause) from error


def _encoded(encoder: Any, sound: np.ndarray) -> Iterator[Any]:
    for start in range(0, sound.shape[1], _FRAME):
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound[:, start : start + _FRAME]), "fltp", "stereo")
        frame.sample_rate, frame.pts, frame.time_base = RATE, start, Fraction(1, RATE)
        yield from encoder.encode(frame)
    yield from encoder.encode(None)
