"""Loudness and true peak by ITU-R BS.1770-4, and silence at both ends."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import av
import numpy as np
import torch
from torch.nn import functional as F

ABSOLUTE_GATE = -70.0  # LUFS
RELATIVE_GATE = -10.0  # LU below the mean of what is above the absolute gate
STEP = 0.1  # seconds; a block is four of these
SILENT = -60.0  # dB of full scale, of 10 ms
OVERSAMPLING = 4
_TAPS = 24  # per phase of the oversampling filter
_RESPONSE_SECONDS = 0.1  # after which the K-weighting's response is below -190 dB
_BLOCK = 32  # samples of which the loudest tells whether a peak may lie between them
# Behind or beside the listener, by FFmpeg's names of channels.
_SURROUND = {"BL", "BR", "BC", "SL", "SR", "TBL", "TBC", "TBR"}


@dataclass(frozen=True)
class SoundLevels:
    """How loud a sound is.

    Args:
        loudness: Integrated loudness in LUFS; minus infinity of silence.
        true_peak: The highest level between samples too, in dBTP; minus infinity of silence.
        duration: In seconds.
        silence_at_start: Seconds before the first sound above -60 dB of full scale; all of them if there is none.
        silence_at_end: Seconds after the last.
    """

    loudness: float
    true_peak: float
    duration: float
    silence_at_start: float
    silence_at_end: float


def measure_levels(chunks: Iterable[np.ndarray], sampling_rate: int, layout: str = "stereo") -> SoundLevels:
    """Measure a sound that comes in chunks `(channels, samples)`, as `iter_channels` yields them.

    Args:
        chunks: Of any lengths.
        sampling_rate: In Hz.
        layout: FFmpeg's name of the channels' layout: surround counts 1.41 times, LFE not at all.

    Example:
        >>> time = np.arange(5 * 48_000) / 48_000
        >>> levels = measure_levels([np.sin(2 * np.pi * 997 * time)[None]], 48_000, "mono")
        >>> round(levels.loudness, 2), round(abs(levels.true_peak), 2)
        (-3.01, 0.0)
    """
    meter = LevelMeter(sampling_rate, layout)
    for chunk in chunks:
        meter.add(chunk)
    return meter.levels()


class LevelMeter:
    """Measures a sound as its chunks come; the arguments are those of [`measure_levels`]."""

    def __init__(self, sampling_rate: int, layout: str):
        names = [channel.name for channel in av.AudioLayout(layout).channels]
        self.weights = np.array(
            [0.0 if name.startswith("LFE") else 1.41 if name in _SURROUND else 1.0 for name in names], np.float32
        )
        self.rate, self.step = sampling_rate, round(STEP * sampling_rate)
        self.response = _k_weighting(sampling_rate)
        self.before = np.zeros((len(names), len(self.response) - 1), np.float32)
        self.rest, self.powers = np.zeros(0, np.float32), [np.zeros(0)]
        self.peak, self.samples = _TruePeak(len(names)), 0
        self.edges = _Silence(sampling_rate)

    def add(self, chunk: np.ndarray) -> None:
        """Take the next samples `(channels, samples)`."""
        chunk = np.asarray(chunk, np.float32)
        extended = np.concatenate([self.before, chunk], axis=1)
        power = np.concatenate([self.rest, self.weights @ np.square(_filtered(extended, self.response))])
        whole = len(power) // self.step * self.step
        self.powers.append(power[:whole].reshape(-1, self.step).mean(1, dtype=np.float64))
        self.rest = power[whole:]
        self.peak.add(chunk)
        self.edges.add(chunk)
        self.before, self.samples = extended[:, -len(self.response) + 1 :], self.samples + chunk.shape[1]

    def levels(self) -> SoundLevels:
        """The levels of all that was added."""
        seconds = self.samples / self.rate
        start, end = self.edges.seconds(seconds)
        return SoundLevels(_gated(np.concatenate(self.powers)), _decibels(self.peak.peak() ** 2), seconds, start, end)


def _decibels(power: float) -> float:
    return float(10 * np.log10(power)) if power > 0 else float("-inf")


def _gated(powers: np.ndarray) -> float:
    """The loudness in LUFS of the powers of steps of 100 ms: the mean of the blocks that both gates let through."""
    if not len(powers):
        return float("-inf")
    size = min(4, len(powers))  # a sound that is shorter than a block is one block
    blocks = np.convolve(powers, np.ones(size) / size, "valid")
    blocks = blocks[blocks > 10 ** ((ABSOLUTE_GATE + 0.691) / 10)]
    if not len(blocks):
        return float("-inf")
    return _decibels(blocks[blocks > blocks.mean() * 10 ** (RELATIVE_GATE / 10)].mean()) - 0.691


@lru_cache(maxsize=8)
def _k_weighting(rate: int) -> np.ndarray:
    """The impulse response `(samples,)` of the two filters of BS.1770, whose analogue forms are known for any rate."""
    response = np.zeros(round(_RESPONSE_SECONDS * rate))
    response[0] = 1.0
    # A shelf: the head lifts treble.
    k, q, gain = np.tan(np.pi * 1681.974450955533 / rate), 0.7071752369554196, 10 ** (3.999843853973347 / 20)
    half = gain**0.4996667741545416
    shelf = (gain + half * k / q + k * k, 2 * (k * k - gain), gain - half * k / q + k * k)
    response = _biquad(response, shelf, (1 + k / q + k * k, 2 * (k * k - 1), 1 - k / q + k * k))
    # A high-pass.
    k, q = np.tan(np.pi * 38.13547087602444 / rate), 0.5003270373238773
    poles = (1 + k / q + k * k, 2 * (k * k - 1), 1 - k / q + k * k)
    return _biquad(response, (poles[0], -2 * poles[0], poles[0]), poles)


def _biquad(samples: np.ndarray, zeros: tuple[float, ...], poles: tuple[float, ...]) -> np.ndarray:
    (b0, b1, b2), (a0, a1, a2) = zeros, poles
    made, x1, x2, y1, y2 = np.empty(len(samples)), 0.0, 0.0, 0.0, 0.0
    for place, x in enumerate(samples.tolist()):
        y = (b0 * x + b1 * x1 + b2 * x2 - a1 * y1 - a2 * y2) / a0
        made[place], x1, x2, y1, y2 = y, x, x1, y, y1
    return made


def _filtered(extended: np.ndarray, response: np.ndarray) -> np.ndarray:
    """`(channels, samples)` convolved with a response, of which the first len(response) - 1 were samples before."""
    before = len(response) - 1
    size = 2 ** int(np.ceil(np.log2(3 * len(response))))  # short enough to stay in the cache
    hop, samples = size - before, extended.shape[1] - before
    count = -(-samples // hop)
    waves = F.pad(torch.from_numpy(np.asarray(extended, np.float32)), (0, count * hop - samples)).unfold(1, size, hop)
    spectra = torch.fft.rfft(waves) * torch.fft.rfft(torch.from_numpy(np.asarray(response, np.float32)), size)
    return torch.fft.irfft(spectra, size)[:, :, before:].flatten(1)[:, :samples].numpy()


@lru_cache(maxsize=1)
def _between() -> torch.Tensor:
    """`(OVERSAMPLING, 1, taps)` windowed sines that give the values at and between samples."""
    places = np.arange(-_TAPS // 2 + 1, _TAPS // 2 + 1)
    shifted = places[None] - np.arange(OVERSAMPLING)[:, None] / OVERSAMPLING
    kernels = np.sinc(shifted) * np.cos(np.pi * shifted / (_TAPS + 2)) ** 2
    return torch.from_numpy(kernels / kernels.sum(1, keepdims=True)).float()[:, None]


def peaks_between(samples: np.ndarray) -> np.ndarray:
    """`(samples,)` the highest level of any channel of `(channels, samples)` at and just after each sample."""
    waves = torch.from_numpy(np.ascontiguousarray(samples, np.float32))[:, None]
    padded = F.pad(waves, (_TAPS // 2 - 1, _TAPS // 2))
    return F.conv1d(padded, _between()).abs().amax((0, 1)).maximum(waves.abs().amax((0, 1))).numpy()


class _TruePeak:
    """Finds the highest of `peaks_between`, block by block, and only where it can be higher than what was found."""

    def __init__(self, channels: int):
        self.rest = torch.zeros(channels, _TAPS // 2 - 1)
        self.highest = 0.0

    def add(self, chunk: np.ndarray) -> None:
        waves = torch.cat([self.rest, torch.from_numpy(chunk)], dim=1)
        count = waves.shape[1] // _BLOCK - 1  # blocks with all samples that the filter needs
        if count > 0:
            loudest = waves[:, : (count + 1) * _BLOCK].abs().unflatten(1, (-1, _BLOCK)).amax(2)
            self.highest = max(self.highest, float(loudest.max()))
            kernels, most = _block_between()
            near = torch.maximum(loudest[:, :-1], loudest[:, 1:]) * most > self.highest
            if near.any():
                found = waves.unfold(1, len(kernels), _BLOCK)[:, :count][near] @ kernels
                self.highest = max(self.highest, float(found.max()), -float(found.min()))
            waves = waves[:, count * _BLOCK :]
        self.rest = waves

    def peak(self) -> float:
        """The highest level so far, as if silence followed."""
        self.add(np.zeros((len(self.rest), 2 * _BLOCK), np.float32))
        return self.highest


@lru_cache(maxsize=1)
def _block_between() -> tuple[torch.Tensor, float]:
    """What gives the values between the samples of a block, and how much higher than these they can be."""
    kernels = F.conv1d(torch.eye(_BLOCK + _TAPS - 1)[:, None], _between()[1:]).flatten(1)
    return kernels, float(kernels.abs().sum(0).max()) * 1.0001


class _Silence:
    """Finds the first and the last 10 ms that are no silence."""

    def __init__(self, rate: int):
        self.size = max(1, rate // 100)
        self.step, self.place = self.size / rate, 0
        self.rest = np.zeros(0, np.float32)
        self.first: float | None = None
        self.last = 0.0

    def add(self, chunk: np.ndarray) -> None:
        power = np.concatenate([self.rest, np.square(chunk).max(0)])
        whole = len(power) // self.size
        self.rest = power[whole * self.size :]
        means = power[: whole * self.size].reshape(whole, -1).mean(1, dtype=np.float64)
        loud = np.flatnonzero(means > 10 ** (SILENT / 10))
        if len(loud):
            self.first = self.place + int(loud[0]) if self.first is None else self.first
            self.last = self.place + int(loud[-1]) + 1
        self.place += whole

    def seconds(self, duration: float) -> tuple[float, float]:
        if self.first is None:
            return duration, duration
        return self.first * self.step, max(0.0, duration - self.last * self.step)
