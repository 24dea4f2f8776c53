"""The two pictures of a sound that tempo and key are read from."""

from functools import lru_cache

import numpy as np
import torch
from transformers.audio_utils import mel_filter_bank

from viml_hf.errors import ViMLError

SAMPLING_RATE = 22_050  # Hz, of the waveforms that this package hears
MEL_HOP = 256  # samples between two frames: 11.6 ms
MEL_WINDOW = 1024
MEL_BANDS = 64
MEL_RATE = SAMPLING_RATE / MEL_HOP  # frames per second
SEMITONE_HOP = 1024
SEMITONE_WINDOW = 8192  # tells semitones apart from E1 on
SEMITONE_RATE = SAMPLING_RATE / SEMITONE_HOP
LOWEST_NOTE, NOTES = 28, 60  # MIDI notes, E1 to D#6
_FRAMES_AT_ONCE = 2048  # a spectrum is large


def mel_frames(waveform: np.ndarray) -> np.ndarray:
    """Log energies `(frames, MEL_BANDS)` of a waveform `(samples,)`; frame n is centred at n / `MEL_RATE` seconds.

    Raises:
        ViMLError: The waveform is not one row of samples.

    Example:
        >>> mel_frames(np.zeros(SAMPLING_RATE, np.float32)).shape
        (87, 64)
    """
    return _frames(waveform, MEL_WINDOW, MEL_HOP, _mel_filters(), 100.0)


def semitone_frames(waveform: np.ndarray) -> np.ndarray:
    """Magnitudes `(frames, NOTES)` of semitones; frame n is centred at n / `SEMITONE_RATE` seconds.

    Raises:
        ViMLError: The waveform is not one row of samples.
    """
    return _frames(waveform, SEMITONE_WINDOW, SEMITONE_HOP, _semitone_filters(), None)


def _frames(waveform: np.ndarray, window: int, hop: int, filters: torch.Tensor, log_scale: float | None) -> np.ndarray:
    if waveform.ndim != 1 or not waveform.size:
        raise ViMLError(f"a waveform of shape {waveform.shape}: give one row of samples at 22,050 Hz, (samples,)")
    padded = torch.from_numpy(np.pad(np.asarray(waveform, np.float32), window // 2))
    parts = []
    for first in range(0, 1 + len(waveform) // hop, _FRAMES_AT_ONCE):
        part = padded[first * hop : (first + _FRAMES_AT_ONCE - 1) * hop + window]
        shape = torch.hann_window(window)
        bands = filters @ torch.stft(part, window, hop, window=shape, center=False, return_complex=True).abs()
        parts.append((bands if log_scale is None else torch.log1p(log_scale * bands)).T)
    return torch.cat(parts).numpy()


@lru_cache(maxsize=1)
def _mel_filters() -> torch.Tensor:
    bins = MEL_WINDOW // 2 + 1
    filters = mel_filter_bank(bins, MEL_BANDS, 30.0, 10_000.0, SAMPLING_RATE, norm=None, mel_scale="slaney")
    return torch.from_numpy(filters.T.astype(np.float32))


@lru_cache(maxsize=1)
def _semitone_filters() -> torch.Tensor:
    """`(NOTES, bins)` bells around each semitone, each of sum 1."""
    frequencies = torch.arange(SEMITONE_WINDOW // 2 + 1) * SAMPLING_RATE / SEMITONE_WINDOW
    centres = 440 * 2 ** ((torch.arange(LOWEST_NOTE, LOWEST_NOTE + NOTES) - 69) / 12)
    distance = 12 * torch.log2(frequencies.clamp(min=1.0)[None] / centres[:, None])
    weights = torch.exp(-0.5 * (distance / 0.3) ** 2)
    return weights / weights.sum(1, keepdim=True)
