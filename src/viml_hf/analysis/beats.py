"""Tempo, beats and downbeats of a waveform.

How much mel bands rise from one frame to the next is an onset curve. The lag at which it repeats is the tempo. Dynamic
programming places beats that lie on onsets and keep the tempo (Ellis, "Beat tracking by dynamic programming", 2007).
They are then moved, by a part of a beat, to where bars begin: there the harmony changes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from viml_hf.analysis.spectra import MEL_RATE, SAMPLING_RATE, SEMITONE_RATE, mel_frames, semitone_frames

SLOWEST, FASTEST = 40.0, 220.0  # beats per minute
USUAL_TEMPO, SPREAD = 110.0, 1.2  # centre, and width in octaves, of the tempi that are expected
# A beat is told from what is not one by its divisions and by the bars: multiples of a lag, and their weights.
COMB = {0.25: 0.5, 0.5: 0.5, 1.0: 1.0, 4.0: 1.0, 8.0: 1.0}
TIGHTNESS = 100.0  # how much a step that is not the tempo's costs
BEATS_PER_BAR = 4
SHIFTS = (0.0, 1 / 4, 1 / 3, 0.42, 1 / 2, 0.58, 2 / 3, 3 / 4)  # parts of a beat; swung eighths among them
NOVELTY_SECONDS = 0.2  # compared on each side of a frame
LOW_BANDS = 6  # mel bands of kick and bass
SHORTEST = 3.0  # seconds of music in which a tempo can be told
PHASES = 24  # parts of a beat that are told apart
FAINT = 0.1  # of the strongest onset of a beat; no beat is there
BEGINNING = 2.0  # how much it counts that a bar begins where the music is known to begin
BEGINNING_SECONDS = 0.05  # deviation of a bar from there
_NEAR = 2  # frames within which an onset belongs to a beat


@dataclass(frozen=True)
class Beats:
    """The beats of a piece of music.

    Args:
        tempo: Beats per minute.
        times: Seconds of each beat, ascending.
        downbeats: Those that begin a bar of four beats, as far as can be told.
    """

    tempo: float
    times: tuple[float, ...]
    downbeats: tuple[float, ...]


def find_beats(
    waveform: np.ndarray, semitones: np.ndarray | None = None, *, beginning: float | None = None
) -> Beats | None:
    """The beats of a waveform `(samples,)` at 22,050 Hz; `None` of one without onsets, or shorter than 3 s.

    Args:
        waveform: Of a piece of music.
        semitones: Its `semitone_frames`, where they are at hand.
        beginning: Seconds at which the piece, or a section of it, is known to begin: with a bar, most likely.

    Raises:
        ViMLError: The waveform is not one row of samples.

    Example:
        >>> clicks = np.zeros(10 * SAMPLING_RATE, np.float32)
        >>> clicks[:: SAMPLING_RATE // 2] = 1.0
        >>> beats = find_beats(clicks)
        >>> round(beats.tempo), round(beats.times[3] - beats.times[2], 1)
        (120, 0.5)
    """
    mel = mel_frames(waveform)
    onsets = onset_curve(mel)
    if len(waveform) < SHORTEST * SAMPLING_RATE or not onsets.any():
        return None
    beats = track_beats(onsets, beat_period(onsets))
    if len(beats) < BEATS_PER_BAR:
        return None
    novelty = harmonic_novelty(semitone_frames(waveform) if semitones is None else semitones, len(mel))
    start = None if beginning is None else beginning * MEL_RATE
    beats, first = align_to_bars(beats, onsets, onset_curve(mel[:, :LOW_BANDS]), novelty, start)
    times = tuple(float(frame / MEL_RATE) for frame in beats)
    return Beats(60 * (len(times) - 1) / (times[-1] - times[0]), times, times[first::BEATS_PER_BAR])


def onset_curve(mel: np.ndarray) -> np.ndarray:
    """`(frames,)` how much bands `(frames, bands)` rise, less its slow changes, with a deviation of 1; 0 of silence."""
    rise = np.zeros(len(mel))
    rise[2:] = np.maximum(mel[2:] - mel[:-2], 0).mean(1)
    rise = np.convolve(rise, np.hanning(5) / 2, "same")
    width = round(0.5 * MEL_RATE) | 1
    rise = np.maximum(rise - np.convolve(rise, np.ones(width) / width, "same")[: len(rise)], 0)
    return rise / rise.std() if rise.std() > 1e-4 else np.zeros(len(mel))


def beat_period(onsets: np.ndarray) -> float:
    """Frames from one beat to the next: the lag at which the curve repeats best, near what music usually has."""
    strength = _autocorrelation(onsets, round(max(COMB) * 60 / SLOWEST * MEL_RATE))
    lags = np.exp(np.arange(np.log(60 / FASTEST), np.log(60 / SLOWEST), 0.005)) * MEL_RATE
    places = np.arange(len(strength))
    comb = sum(weight * np.interp(multiple * lags, places, strength, right=0) for multiple, weight in COMB.items())
    expected = np.exp(-0.5 * (np.log2(60 * MEL_RATE / lags / USUAL_TEMPO) / SPREAD) ** 2)
    return float(lags[np.argmax(np.maximum(comb, 0) * expected)])


def _autocorrelation(curve: np.ndarray, longest: int) -> np.ndarray:
    """`(lags,)` how alike a curve is to itself so many frames later; 1 without delay."""
    size = 2 ** int(np.ceil(np.log2(len(curve) + longest)))
    power = np.abs(np.fft.rfft(curve - curve.mean(), size)) ** 2
    found = np.fft.irfft(power)[: min(longest, len(curve))]
    return found / max(found[0], 1e-9)


def track_beats(onsets: np.ndarray, period: float) -> np.ndarray:
    """The frames of beats: the path through the onset curve with the strongest onsets and the evenest steps."""
    reach = np.arange(-round(period), round(period) + 1)
    local = np.convolve(onsets, np.exp(-0.5 * (32 * reach / period) ** 2), "same")[: len(onsets)]
    steps = np.arange(-round(2 * period), -round(period / 2) + 1)
    cost = -TIGHTNESS * np.log(-steps / period) ** 2
    # Before the first frame there is nothing to come from.
    score, before = np.concatenate([np.full(-int(steps[0]), -np.inf), local]), np.full(len(local), -1)
    reached = sliding_window_view(score, len(steps))
    shortest = -int(steps[-1])
    for first in range(0, len(local), shortest):  # frames nearer to each other than a step do not depend on each other
        candidates = reached[first : min(first + shortest, len(local))] + cost
        best = candidates.argmax(1)
        highest = np.take_along_axis(candidates, best[:, None], 1)[:, 0]
        better = np.flatnonzero(highest > 0)
        score[first - int(steps[0]) + better] += highest[better]
        before[first + better] = first + better + steps[best[better]]
    score = score[-int(steps[0]) :]
    tail = max(0, len(score) - round(period))
    frame = tail + int(np.argmax(score[tail:]))
    beats = []
    while frame >= 0:
        beats.append(frame)
        frame = int(before[frame])
    return np.array(beats[::-1])


def harmonic_novelty(semitones: np.ndarray, frames: int) -> np.ndarray:
    """`(frames,)` of the mel frames: how much the tones after each differ from those before, 1 on average."""
    loudest = max(float(np.median(semitones.max(1))), 1e-6)
    total = np.cumsum(np.pad(np.log1p(10 * semitones / loudest), ((1, 0), (0, 0))), axis=0)
    count, reach = len(semitones), max(1, round(NOVELTY_SECONDS * SEMITONE_RATE))
    places = np.arange(1, count)
    after, before = np.minimum(places + reach, count), np.maximum(places - reach, 0)
    means = (total[after] - total[places]) / (after - places)[:, None] - (total[places] - total[before]) / (
        places - before
    )[:, None]
    found = np.concatenate([[0.0], np.abs(means).mean(1)])
    found = np.interp(np.arange(frames) / MEL_RATE, np.arange(count) / SEMITONE_RATE, found)
    return found / max(found.mean(), 1e-9)


def align_to_bars(
    beats: np.ndarray, onsets: np.ndarray, low: np.ndarray, novelty: np.ndarray, start: float | None = None
) -> tuple[np.ndarray, int]:
    """Beats moved by the part of a beat that fits best, and which of the first four begins a bar.

    Where drums accent what is off the beat, onsets alone cannot tell. Harmony changes where bars begin, and bass and
    kick are on the beat. A bar that begins at the frame `start` speaks for itself.
    """
    phases = _by_phase(beats, onsets)
    onsets, low = (np.max([np.roll(curve, by) for by in range(-_NEAR, _NEAR + 1)], axis=0) for curve in (onsets, low))
    lengths = np.diff(beats, append=2 * beats[-1] - beats[-2])
    best = (-np.inf, beats, 0)
    for shift in SHIFTS:
        place = round(shift * PHASES)
        if phases.take(range(place - 1, place + 2), mode="wrap").max() < FAINT:
            continue
        moved = np.round(beats + shift * lengths).astype(int)
        moved = moved[moved < len(onsets)]
        for first in range(BEATS_PER_BAR):
            bars = moved[first::BEATS_PER_BAR]
            if len(bars):
                accents = (low[moved].mean() + onsets[bars].mean() + low[bars].mean()) / 4
                score = 3 * novelty[bars].mean() + accents + 4 * _gap_after(phases, place)
                if start is not None:
                    away = float(np.abs(bars - start).min()) / MEL_RATE / BEGINNING_SECONDS
                    score += BEGINNING * np.exp(-0.5 * away**2)
                best = max(best, (score, moved, first), key=lambda found: found[0])
    return best[1], best[2]


def _by_phase(beats: np.ndarray, onsets: np.ndarray) -> np.ndarray:
    """`(PHASES,)` the mean onset at each part of a beat, of the greatest."""
    frames = np.arange(beats[0], beats[-1])
    beat = np.searchsorted(beats, frames, "right") - 1
    phase = np.round(PHASES * (frames - beats[beat]) / np.diff(beats)[beat]).astype(int) % PHASES
    means = np.bincount(phase, onsets[frames], PHASES) / np.maximum(np.bincount(phase, minlength=PHASES), 1)
    return means / max(means.max(), 1e-9)


def _gap_after(phases: np.ndarray, place: int) -> float:
    """How much longer it is from a part of a beat to the next onset than from the one before, in beats within ±0.5.

    In swung music the long eighth comes first.
    """
    peaks = (phases >= np.roll(phases, 1)) & (phases >= np.roll(phases, -1)) & (phases >= 1.5 * FAINT)
    away = (np.flatnonzero(peaks) - place) % PHASES
    away = away[(away > 2) & (away < PHASES - 2)] if len(away) else away
    after, before = (away.min(), PHASES - away.max()) if len(away) else (PHASES, PHASES)
    return float(np.clip((after - before) / PHASES, -0.5, 0.5))
