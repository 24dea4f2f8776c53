"""Where a piece of music changes: the boundaries of its sections."""

import numpy as np

from viml_hf.analysis.beats import onset_curve
from viml_hf.analysis.spectra import MEL_RATE, SEMITONE_RATE, mel_frames, semitone_frames

STEP = 0.25  # seconds
NEAR = 0.75  # seconds from a boundary to where the change is sharpest
ATTACK = 8  # frames from there to the onset that begins the section
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
        places = np.arange(boundary - NEAR, boundary + NEAR, 1 / MEL_RATE)
        before, after = _means(mel, MEL_RATE, places, reach=2.0)
        change = np.linalg.norm(after - before, axis=1)
        sharpest = round(float(places[np.argmax(change)]) * MEL_RATE)
        first = max(0, sharpest - ATTACK)
        found.append(first + int(np.argmax(onsets[first : sharpest + ATTACK + 1])))
    return np.unique(found) / MEL_RATE


def _means(frames: np.ndarray, rate: float, places: np.ndarray, reach: float = REACH) -> tuple[np.ndarray, np.ndarray]:
    """The mean bands `(places, bands)` of the stretches before and after each place."""
    total = np.cumsum(np.pad(frames, ((1, 0), (0, 0))), axis=0, dtype=np.float64)
    at, size = np.round(places * rate).astype(int), round(reach * rate)
    first, last = np.maximum(at - size, 0), np.minimum(at + size, len(frames))
    before = (total[at] - total[first]) / np.maximum(at - first, 1)[:, None]
    after = (total[last] - total[at]) / np.maximum(last - at, 1)[:, None]
    return before, after
