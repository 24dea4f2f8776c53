"""Where a piece of music changes: the boundaries of its sections."""

import numpy as np

from viml_hf.analysis.beats import onset_curve
from viml_hf.analysis.spectra import MEL_RATE, SEMITONE_RATE, mel_frames, semitone_frames

STEP = 0.25  # seconds
NEAR = 0.9  # seconds from a boundary to where the sections meet
ATTACK = 3  # frames from there to the onset that begins the section
FLOOR = 0.01  # variance of a band that is always the same
REACH = 8.0  # seconds before and after a boundary that are compared
CLEAR = 1.5  # deviations above the mean at which a change is one of section


def section_boundaries(waveform: np.ndarray) -> np.ndarray:
    """Seconds at which the sound of a waveform `(samples,)` at 22,050 Hz changes most, ascending; none of the ends.

    A boundary is where timbre and tones of the 8 s after it differ most from those of the 8 s before.

    Raises:
        ViMLError: The waveform is not one row of samples.

    Example:
        >>> time = np.arange(20 * 22_050) / 22_050
        >>> section_boundaries(np.concatenate([np.sin(2 * np.pi * f * time) for f in (220, 500)]))
        array([20.])
    """
    seconds = len(waveform) / 22_050
    places = np.arange(STEP, seconds, STEP)
    bands = [
        _means(mel_frames(waveform), MEL_RATE, places),
        _means(np.log1p(10 * semitone_frames(waveform)), SEMITONE_RATE, places),
    ]
    change = np.sum(
        [np.linalg.norm(after - before, axis=1) / max(after.std(), 1e-6) for before, after in bands], axis=0
    )
    size = round(REACH / STEP)
    if len(change) < 2 * size or change.std() < 1e-6:
        return np.array([])
    inside = (places >= REACH / 2) & (places <= seconds - REACH / 2)
    clear = inside & (change > change[inside].mean() + CLEAR * change[inside].std())
    change = np.where(inside, change, 0)
    highest = np.array([change[max(0, i - size) : i + size + 1].max() == value for i, value in enumerate(change)])
    return places[clear & highest]


def section_starts(waveform: np.ndarray) -> np.ndarray:
    """Seconds at which the music, and each of its sections, begins: with a sound, ascending.

    Raises:
        ViMLError: The waveform is not one row of samples.
    """
    mel = mel_frames(waveform)
    onsets, loudness = onset_curve(mel), mel.mean(1)
    found = [int(np.argmax(loudness > 0.1 * loudness.max()))]
    for boundary in section_boundaries(waveform):
        at = meeting_frame(mel, round(boundary * MEL_RATE), round(NEAR * MEL_RATE), round(REACH * MEL_RATE))
        first = max(0, at - ATTACK)
        found.append(first + int(np.argmax(onsets[first : at + ATTACK + 1])))
    return np.unique(found) / MEL_RATE


def meeting_frame(frames: np.ndarray, near: int, within: int, reach: int) -> int:
    """The frame at which one section ends and another begins, within so many frames of a guess.

    There the frames `(frames, bands)` of a reach are most likely: those before it as of one normal distribution, those
    after it as of another, with a variance for each band. It is a maximum-likelihood change point.

    Example:
        >>> frames = np.random.default_rng(0).standard_normal((200, 4))
        >>> frames[103:, 2] *= 3
        >>> meeting_frame(frames, near=100, within=20, reach=80)
        103
    """
    first, last = max(0, near - reach), min(len(frames), near + reach)
    heard = frames[first:last].astype(np.float64)
    places = np.arange(max(2, near - within - first), min(len(heard) - 2, near + within - first) + 1)
    sums = np.cumsum(np.pad(np.stack([heard, heard**2]), ((0, 0), (1, 0), (0, 0))), axis=1)

    def surprise(total: np.ndarray, count: np.ndarray) -> np.ndarray:
        mean, square = total / count[:, None]
        return count * np.log(np.maximum(square - mean**2, 0) + FLOOR).sum(1)

    before = surprise(sums[:, places], places)
    after = surprise(sums[:, -1:] - sums[:, places], len(heard) - places)
    return first + int(places[np.argmin(before + after)])


def _means(frames: np.ndarray, rate: float, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean bands `(places, bands)` of the stretches before and after each place."""
    total = np.cumsum(np.pad(frames, ((1, 0), (0, 0))), axis=0, dtype=np.float64)
    at, size = np.round(places * rate).astype(int), round(REACH * rate)
    first, last = np.maximum(at - size, 0), np.minimum(at + size, len(frames))
    before = (total[at] - total[first]) / np.maximum(at - first, 1)[:, None]
    after = (total[last] - total[at]) / np.maximum(last - at, 1)[:, None]
    return before, after
