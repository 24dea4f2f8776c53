"""The key of a piece of music, by how strong each of the twelve tones is."""

from dataclasses import dataclass

import numpy as np

from viml_hf.analysis.spectra import LOWEST_NOTE, semitone_frames

TONICS = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
# Share of each tone above the tonic in a corpus of major and of minor music (Albrecht and Shanahan, "The use of large
# corpora to train a new type of key-finding algorithm", 2013). Krumhansl's and Temperley's profiles were measured to be
# right less often, on generated and on real music.
PROFILES = {
    "major": (0.238, 0.006, 0.111, 0.006, 0.137, 0.094, 0.016, 0.214, 0.009, 0.080, 0.008, 0.081),
    "minor": (0.220, 0.006, 0.104, 0.123, 0.019, 0.103, 0.012, 0.214, 0.062, 0.022, 0.061, 0.052),
}


@dataclass(frozen=True)
class Key:
    """A key.

    Args:
        tonic: One of `TONICS`.
        mode: `"major"` or `"minor"`.
        strength: Correlation of the music's tones with those of the key, at most 1.
    """

    tonic: str
    mode: str
    strength: float

    def __str__(self) -> str:
        return f"{self.tonic} {self.mode}"


def find_key(waveform: np.ndarray, semitones: np.ndarray | None = None) -> Key | None:
    """The key of a waveform `(samples,)` at 22,050 Hz; `None` where no tone stands out.

    Its `semitone_frames` may be given where they are at hand.

    Raises:
        ViMLError: The waveform is not one row of samples.

    Example:
        >>> time = np.arange(3 * 22_050) / 22_050
        >>> chords = [sum(np.sin(2 * np.pi * f * time) for f in chord) for chord in ((220, 262, 330), (220, 294, 349))]
        >>> str(find_key(np.concatenate([*chords, chords[0]]) / 3))
        'A minor'
    """
    tones = tone_strengths(semitone_frames(waveform) if semitones is None else semitones)
    if tones.std() < 1e-6:
        return None
    found = [
        Key(tonic, mode, float(np.corrcoef(np.roll(profile, place), tones)[0, 1]))
        for mode, profile in PROFILES.items()
        for place, tonic in enumerate(TONICS)
    ]
    return max(found, key=lambda key: key.strength)


def tone_strengths(semitones: np.ndarray) -> np.ndarray:
    """`(12,)` share of each tone, from C, of frames of semitones: only those louder than their neighbours count."""
    peaks = np.zeros_like(semitones)
    inner = semitones[:, 1:-1]
    peaks[:, 1:-1] = np.sqrt(inner * ((inner > semitones[:, :-2]) & (inner > semitones[:, 2:])))
    folded = np.stack([peaks[:, (tone - LOWEST_NOTE) % 12 :: 12].sum(1) for tone in range(12)], axis=1)
    total = folded.sum(1, keepdims=True)
    heard = total[:, 0] > 1e-3  # the room's noise has a loudest tone too
    return (folded[heard] / total[heard]).mean(0) if heard.any() else np.zeros(12)
