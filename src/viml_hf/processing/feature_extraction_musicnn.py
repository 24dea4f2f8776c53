"""The mel spectrogram that MusiCNN reads."""

import math
from typing import Any

import torch

from viml_hf.processing.feature_extraction_deepsim import DeepSimFeatureExtractor


class MusicnnFeatureExtractor(DeepSimFeatureExtractor):
    """Mono waveforms in [-1, 1] → log-mel power of one window of about 3 s: log10(1 + 10,000 · mel).

    Window, mel scale and padding are those of [`DeepSimFeatureExtractor`], with other numbers: 187 frames are
    186 · 256 + 512 = 48,128 samples. As published, the power is rounded to float16 first.

    Example:
        >>> import numpy as np
        >>> extractor = MusicnnFeatureExtractor()
        >>> tuple(extractor([np.zeros(16000, np.float32)], sampling_rate=16000)["input_features"].shape)
        (1, 187, 96)
    """

    def __init__(self, **settings: Any):
        ours = {"feature_size": 96, "sampling_rate": 16000, "n_fft": 512, "hop_length": 256, "window_frames": 187}
        super().__init__(**{**ours, "mean": 0.0, "std": 1.0, **settings})

    def log_mel(self, windows: torch.Tensor) -> torch.Tensor:
        """Log-mel power `(windows, window_frames, feature_size)` of `(windows, samples)`."""
        mel = (self._spectrum(windows) ** 2).transpose(1, 2) @ torch.from_numpy(self.mel_filters)
        rounded = mel.to(torch.float16).float()
        return ((1e4 * rounded).log1p() / math.log(10) - self.mean) / self.std
