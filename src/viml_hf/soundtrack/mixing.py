"""Music under a video's own sound: ducking, loudness and a limiter. Sound here is `(2, samples)` at 48 kHz."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch.nn import functional as F

from viml_hf.analysis.loudness import SoundLevels, measure_levels, peaks_between
from viml_hf.errors import ViMLError
from viml_hf.processing.audio_decoding import iter_audio, iter_channels
from viml_hf.processing.media import MediaSource
from viml_hf.soundtrack.moment import Moment

RATE = 48_000  # Hz
BLOCK = 10 * RATE  # samples in memory at a time
PROGRAMME_LOUDNESS = -14.0  # LUFS
CEILING = -1.5  # dBTP before encoding, which may overshoot
DUCKING = -14.0  # dB by which music is lowered under speech or sound
BEFORE, AFTER = 0.25, 0.8  # seconds in which it goes down before, and comes back after
SOUNDING = -45.0  # dB of full scale of 50 ms above which the video's own sound is heard
MOST_GAIN = 12.0  # dB by which a quiet own sound is raised: more would raise its noise
LEVEL = -23.0  # LUFS to which music and own sound are brought before they are mixed
FADE_IN, FADE_OUT, JOINT = 0.02, 1.5, 0.02  # seconds
LOOKAHEAD = 0.01  # seconds in which the limiter comes down, and goes up
_ROUNDS = 4  # of gain and limiter, until the loudness is right

Interval = tuple[float, float]


def sounding(chunks: Iterable[np.ndarray], threshold: float = SOUNDING) -> list[Interval]:
    """Where a sound is heard, in seconds, by the level of stretches of 50 ms.

    Example:
        >>> silence, tone = np.zeros((2, RATE)), np.full((2, RATE), 0.5)
        >>> sounding([silence, tone, silence])
        [(1.0, 2.0)]
    """
    size, rest, loud = RATE // 20, np.zeros(0), []
    for chunk in chunks:
        power = np.concatenate([rest, np.square(chunk, dtype=np.float64).mean(0)])
        whole = len(power) // size
        rest = power[whole * size :]
        loud.append(power[: whole * size].reshape(whole, size).mean(1) > 10 ** (threshold / 10))
    edges = np.flatnonzero(np.diff(np.concatenate([[False], *loud, [False]]).astype(int)))
    return [(float(first / 20), float(last / 20)) for first, last in edges.reshape(-1, 2)]


def speech(source: MediaSource) -> list[Interval]:
    """Where somebody speaks in a file, in seconds, by Silero VAD.

    Raises:
        ViMLError: Its package is not installed.
        MediaDecodeError: The file has no sound that can be decoded.
    """
    threads = torch.get_num_threads()
    try:
        from silero_vad import get_speech_timestamps, load_silero_vad
    except ImportError as error:
        raise ViMLError(f"speech cannot be told ({error}): run `pip install 'viml-hf[preview]'`") from error
    finally:
        torch.set_num_threads(threads)  # importing the package sets it to 1
    model, rate, minute = load_silero_vad(), 16_000, 60
    found = []
    for number, chunk in enumerate(iter_audio(source, rate, chunk_seconds=minute)):
        parts = get_speech_timestamps(torch.from_numpy(chunk), model, sampling_rate=rate)
        found += [(minute * number + part["start"] / rate, minute * number + part["end"] / rate) for part in parts]
    return found


def ducking(intervals: Sequence[Interval], times: np.ndarray) -> np.ndarray:
    """The gain of music at some times in seconds: down before each interval, up after it, down between close ones.

    Example:
        >>> ducking([(2.0, 3.0)], np.array([0.0, 2.5, 5.0])).round(2).tolist()
        [1.0, 0.2, 1.0]
    """
    merged: list[Interval] = []
    for start, end in sorted(intervals):
        if merged and start - merged[-1][1] < BEFORE + AFTER:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    if not merged:
        return np.ones(len(times))
    places = np.array([(start - BEFORE, start, end, end + AFTER) for start, end in merged]).ravel()
    levels = np.tile([0.0, DUCKING, DUCKING, 0.0], len(merged))
    return 10 ** (np.interp(times, places, levels, left=0.0 if places[0] > times[0] else DUCKING) / 20)


def music_of(track: MediaSource, moment: Moment, samples: int) -> np.ndarray:
    """`(2, samples)` of a moment of a track: its pieces with crossfades of 20 ms between them, fades at both ends.

    Where the moment is shorter, silence follows.
    """
    made, place, joint = np.zeros((2, samples), np.float32), 0.0, round(JOINT * RATE)
    for number, (start, end) in enumerate(moment.pieces):
        at = round(place * RATE)
        if at >= samples:
            break
        end_of_piece = end + (JOINT if number < len(moment.pieces) - 1 else 0)
        piece = np.concatenate(list(iter_channels(track, RATE, layout="stereo", start=start, end=end_of_piece)), axis=1)
        piece = piece[:, : samples - at]
        if number:
            piece[:, :joint] *= np.linspace(0, 1, joint, dtype=np.float32)[: piece.shape[1]]
        if number < len(moment.pieces) - 1 and piece.shape[1] > joint:
            piece[:, -joint:] *= np.linspace(1, 0, joint, dtype=np.float32)
        made[:, at : at + piece.shape[1]] += piece
        place += end - start
    length = min(samples, round(moment.length * RATE))
    fade_in, fade_out = min(length, round(FADE_IN * RATE)), min(length // 4, round(FADE_OUT * RATE))
    made[:, :fade_in] *= np.linspace(0, 1, fade_in, dtype=np.float32)
    made[:, length - fade_out : length] *= np.linspace(1, 0, fade_out, dtype=np.float32) ** 2
    return made


def blocks(sound: np.ndarray) -> Iterator[np.ndarray]:
    """A sound `(2, samples)` in blocks of 10 s."""
    for start in range(0, sound.shape[1], BLOCK):
        yield sound[:, start : start + BLOCK]


def mix(music: np.ndarray, own: np.ndarray | None, intervals: Sequence[Interval]) -> np.ndarray:
    """Music and a video's own sound, each brought to the same loudness, the music lowered in some intervals.

    Args:
        music: `(2, samples)`.
        own: The same length; `None` where there is none.
        intervals: Seconds in which the music is lowered.
    """
    mixed = np.empty_like(music)
    music_gain = _gain_to(measure_levels(blocks(music), RATE), np.inf)
    own_gain = 0.0 if own is None else _gain_to(measure_levels(blocks(own), RATE), MOST_GAIN)
    for start in range(0, music.shape[1], BLOCK):
        stop = min(start + BLOCK, music.shape[1])
        times = np.arange(start, stop) / RATE
        mixed[:, start:stop] = music[:, start:stop] * (music_gain * ducking(intervals, times)).astype(np.float32)
        if own is not None:
            mixed[:, start:stop] += own[:, start:stop] * np.float32(own_gain)
    return mixed


def _gain_to(levels: SoundLevels, most: float) -> float:
    return float(10 ** (min(LEVEL - levels.loudness, most) / 20)) if np.isfinite(levels.loudness) else 1.0


def master(mixed: np.ndarray, loudness: float = PROGRAMME_LOUDNESS, ceiling: float = CEILING) -> np.ndarray:
    """Bring a mix to a loudness in LUFS without peaks above a ceiling in dBTP. Silence stays silent.

    Music of few loud moments may end below that loudness: a limiter lowers them, and no more is done.
    """
    gain, made = 0.0, mixed
    for _ in range(_ROUNDS):
        levels = measure_levels(blocks(made), RATE)
        if not np.isfinite(levels.loudness) or abs(levels.loudness - loudness) < 0.05:
            break
        gain += loudness - levels.loudness
        made = limited(mixed, gain, ceiling)
    return made


def limited(sound: np.ndarray, gain: float, ceiling: float) -> np.ndarray:
    """A sound `(2, samples)` raised by a gain in dB, whose peaks, between samples too, stay below a ceiling in dBTP."""
    made, reach = np.empty_like(sound), round(LOOKAHEAD * RATE)
    factor, most = np.float32(10 ** (gain / 20)), 10 ** (ceiling / 20)
    margin = 2 * reach
    for start in range(0, sound.shape[1], BLOCK):
        stop = min(start + BLOCK, sound.shape[1])
        first, last = max(0, start - margin), min(sound.shape[1], stop + margin)
        part = sound[:, first:last] * factor
        allowed = torch.from_numpy(np.minimum(1.0, most / np.maximum(peaks_between(part), 1e-9)))[None, None]
        lowest = -F.max_pool1d(F.pad(-allowed, (reach, reach), value=-1.0), 2 * reach + 1, 1)
        shape = torch.hann_window(2 * reach + 1, periodic=False, dtype=allowed.dtype)
        smooth = F.conv1d(F.pad(lowest, (reach, reach), mode="replicate"), (shape / shape.sum())[None, None])
        lowered = part * smooth[0, 0].clamp(max=1.0).float().numpy()
        made[:, start:stop] = lowered[:, start - first : stop - first]
    return made
