"""The mel spectrogram that DeepSim reads."""

import math
from typing import Any

import numpy as np
import torch
from transformers.audio_utils import mel_filter_bank

from viml_hf.processing.feature_extraction_mono import MonoFeatureExtractor


class DeepSimFeatureExtractor(MonoFeatureExtractor):
    """Mono waveforms in [-1, 1] → standardised log-mel magnitudes of one window of about 3 s.

    Magnitudes of a short-time Fourier transform with a periodic Hann window → mel bands → log10(1 + 10·mel) →
    (x − mean) / std (Lee et al., ICASSP 2020). Frames, rate and scaling are published. Open, and chosen here: the mel
    scale and the area normalisation are Slaney's, librosa's defaults, from 0 Hz to half the rate; nothing is padded
    around the window, so that 129 frames are 128 · 512 + 1024 = 66,560 samples, 3.02 s. A shorter waveform is padded at
    its end; one that is longer, empty or no row of floats is a `ValueError`. `input_features` are `(waveforms,
    window_frames, feature_size)`.

    Args:
        feature_size: Mel bands.
        sampling_rate: Rate of the waveforms in Hz.
        padding_value: Value of the samples past the end of a shorter waveform.
        n_fft: Samples in a frame.
        hop_length: Samples between two frames.
        window_frames: Frames in a window.
        mean: Taken from the log-mel values.
        std: Divides what is left.

    Example:
        >>> import numpy as np
        >>> from viml_hf.processing.feature_extraction_deepsim import DeepSimFeatureExtractor
        >>> extractor = DeepSimFeatureExtractor()
        >>> tuple(extractor([np.zeros(22050, np.float32)], sampling_rate=22050)["input_features"].shape)
        (1, 129, 128)
    """

    model_input_names = ["input_features"]  # noqa: RUF012 (transformers' own way)

    def __init__(
        self,
        feature_size: int = 128,
        sampling_rate: int = 22050,
        padding_value: float = 0.0,
        n_fft: int = 1024,
        hop_length: int = 512,
        window_frames: int = 129,
        mean: float = 0.20,
        std: float = 0.25,
        **kwargs: Any,
    ):
        super().__init__(feature_size=feature_size, sampling_rate=sampling_rate, padding_value=padding_value, **kwargs)
        self.n_fft = n_fft
        self.hop_length = hop_length
        self.window_frames = window_frames
        self.mean = mean
        self.std = std
        # transformers leaves an attribute of this name out of the saved settings.
        self.mel_filters = mel_filter_bank(
            num_frequency_bins=n_fft // 2 + 1,
            num_mel_filters=feature_size,
            min_frequency=0.0,
            max_frequency=sampling_rate / 2,
            sampling_rate=sampling_rate,
            norm="slaney",
            mel_scale="slaney",
        ).astype(np.float32)

    @property
    def nb_max_samples(self) -> int:
        """The longest waveform of one window, in samples.

        Example:
            >>> DeepSimFeatureExtractor().nb_max_samples
            66560
        """
        return (self.window_frames - 1) * self.hop_length + self.n_fft

    def _features(self, waveforms: list[np.ndarray]) -> dict[str, torch.Tensor]:
        windows = torch.full((len(waveforms), self.nb_max_samples), float(self.padding_value))
        for row, waveform in enumerate(waveforms):
            samples = self._checked(waveform)
            windows[row, : len(samples)] = torch.as_tensor(samples.astype(np.float32))
        return {"input_features": self.log_mel(windows)}

    def _checked(self, samples: np.ndarray) -> np.ndarray:
        if samples.ndim != 1 or samples.dtype.kind != "f" or not samples.size:
            raise ValueError(
                f"A waveform of shape {samples.shape} and type {samples.dtype}: give mono floats in [-1, 1], (samples,)"
                ", at least one; several waveforms go in a list."
            )
        if len(samples) > self.nb_max_samples:
            raise ValueError(
                f"A waveform of {len(samples)} samples, but a window holds {self.nb_max_samples} "
                f"({self.nb_max_samples / self.sampling_rate:.2f} s): cut it into windows first."
            )
        return samples

    def log_mel(self, windows: torch.Tensor) -> torch.Tensor:
        """Standardised log-mel magnitudes `(windows, window_frames, feature_size)` of `(windows, samples)`."""
        mel = self._spectrum(windows).transpose(1, 2) @ torch.from_numpy(self.mel_filters)
        return ((10 * mel).log1p() / math.log(10) - self.mean) / self.std

    def _spectrum(self, windows: torch.Tensor) -> torch.Tensor:
        """Magnitudes `(windows, n_fft / 2 + 1, frames)` of `(windows, samples)`."""
        hann = torch.hann_window(self.n_fft)
        return torch.stft(windows, self.n_fft, self.hop_length, window=hann, center=False, return_complex=True).abs()
