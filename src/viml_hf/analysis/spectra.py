"""The two pictures of a sound that tempo and key are read from."""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
from torch.nn import functional as F
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
SEMITONE_STEP = 4  # semitones are low: of the low-passed sound every fourth sample is enough
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
    samples = _checked(waveform)
    padded = F.pad(samples, (MEL_WINDOW // 2, MEL_WINDOW // 2))
    parts = _bands(padded, 1 + len(samples) // MEL_HOP, MEL_WINDOW, MEL_HOP, _mel_filters())
    return torch.cat([torch.log1p(100 * part) for part in parts]).numpy()


def semitone_frames(waveform: np.ndarray) -> np.ndarray:
    """Magnitudes `(frames, NOTES)` of semitones; frame n is centred at n / `SEMITONE_RATE` seconds.

    Raises:
        ViMLError: The waveform is not one row of samples.
    """
    samples = _checked(waveform)
    taps = _low_pass()
    padded = F.pad(samples, (SEMITONE_WINDOW // 2 + len(taps) // 2, SEMITONE_WINDOW // 2 + len(taps)))
    low = F.conv1d(padded[None, None], taps[None, None], stride=SEMITONE_STEP)[0, 0]
    count = 1 + len(samples) // SEMITONE_HOP
    window, hop = SEMITONE_WINDOW // SEMITONE_STEP, SEMITONE_HOP // SEMITONE_STEP
    return SEMITONE_STEP * torch.cat([*_bands(low, count, window, hop, _semitone_filters())]).numpy()


def _checked(waveform: np.ndarray) -> torch.Tensor:
    if waveform.ndim != 1 or not waveform.size:
        raise ViMLError(f"a waveform of shape {waveform.shape}: give one row of samples at 22,050 Hz, (samples,)")
    return torch.from_numpy(np.asarray(waveform, np.float32))


def _bands(samples: torch.Tensor, count: int, window: int, hop: int, filters: torch.Tensor) -> Iterator[torch.Tensor]:
    """Magnitudes `(frames, bands)` of so many frames, a part at a time; only of bins that filters hear."""
    shape, bins = torch.hann_window(window), int(filters.amax(0).nonzero().max()) + 1
    frames = samples.unfold(0, window, hop)[:count]
    for first in range(0, count, _FRAMES_AT_ONCE):
        spectra = torch.fft.rfft(frames[first : first + _FRAMES_AT_ONCE] * shape)[:, :bins]
        yield (spectra.real**2 + spectra.imag**2).sqrt_() @ filters[:, :bins].T


@lru_cache(maxsize=1)
def _mel_filters() -> torch.Tensor:
    bins = MEL_WINDOW // 2 + 1
    filters = mel_filter_bank(bins, MEL_BANDS, 30.0, 10_000.0, SAMPLING_RATE, norm=None, mel_scale="slaney")
    return torch.from_numpy(filters.T.astype(np.float32))


@lru_cache(maxsize=1)
def _semitone_filters() -> torch.Tensor:
    """`(NOTES, bins)` bells around each semitone, each of sum 1; of the bins of the low-passed sound."""
    bins = SEMITONE_WINDOW // SEMITONE_STEP // 2 + 1
    frequencies = torch.arange(bins) * SAMPLING_RATE / SEMITONE_WINDOW
    centres = 440 * 2 ** ((torch.arange(LOWEST_NOTE, LOWEST_NOTE + NOTES) - 69) / 12)
    distance = 12 * torch.log2(frequencies.clamp(min=1.0)[None] / centres[:, None])
    weights = torch.exp(-0.5 * (distance / 0.3) ** 2)
    return weights / weights.sum(1, keepdim=True)


@lru_cache(maxsize=1)
def _low_pass() -> torch.Tensor:
    """`(taps,)` that keep what is below 1.7 kHz, and nothing that every fourth sample would take for it."""
    places = torch.arange(-20, 21)
    taps = torch.sinc(places / SEMITONE_STEP) * torch.hann_window(43, periodic=False)[1:-1]
    return taps / taps.sum()
