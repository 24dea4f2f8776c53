"""The semitone spectrogram that the audio descriptors read."""

from typing import Any

import numpy as np
import torch

from viml_hf.processing.feature_extraction_mono import MonoFeatureExtractor


class ViMLDescriptorsFeatureExtractor(MonoFeatureExtractor):
    """Mono waveforms in [-1, 1] → log energies in semitone bands, with a mask of the frames that exist.

    `input_features` are `(waveforms, time, feature_size)`, padded to the longest, `attention_mask` `(waveforms, time)`.

    Args:
        feature_size: Number of semitone bands.
        sampling_rate: Rate of the waveforms in Hz.
        padding_value: Value of the frames past the end.
        lowest_frequency: Centre of the first band in Hz.
        n_fft: Samples in a window.
        hop_length: Samples between two frames.

    Example:
        >>> import numpy as np
        >>> from viml_hf import ViMLDescriptorsFeatureExtractor
        >>> extractor = ViMLDescriptorsFeatureExtractor()
        >>> tuple(extractor([np.zeros(22050, np.float32)], sampling_rate=22050)["input_features"].shape)
        (1, 44, 96)
    """

    model_input_names = ["input_features", "attention_mask"]  # noqa: RUF012 (transformers' own way)

    def __init__(
        self,
        feature_size: int = 96,
        sampling_rate: int = 22050,
        padding_value: float = 0.0,
        lowest_frequency: float = 32.703,
        n_fft: int = 2048,
        hop_length: int = 512,
        **kwargs: Any,
    ):
        super().__init__(feature_size=feature_size, sampling_rate=sampling_rate, padding_value=padding_value, **kwargs)
        self.lowest_frequency = lowest_frequency
        self.n_fft = n_fft
        self.hop_length = hop_length

    def _features(self, waveforms: list[np.ndarray]) -> dict[str, torch.Tensor]:
        spectrograms = [self.semitones(torch.as_tensor(waveform.astype(np.float32))) for waveform in waveforms]
        length = max(len(s) for s in spectrograms)
        features = torch.full((len(spectrograms), length, self.feature_size), float(self.padding_value))
        mask = torch.zeros(len(spectrograms), length, dtype=torch.long)
        for row, spectrogram in enumerate(spectrograms):
            features[row, : len(spectrogram)] = spectrogram
            mask[row, : len(spectrogram)] = 1
        return {"input_features": features, "attention_mask": mask}

    def semitones(self, waveform: torch.Tensor) -> torch.Tensor:
        """Log energies `(1 + samples // hop_length, feature_size)` of one waveform."""
        spectrum = torch.stft(
            waveform,
            self.n_fft,
            self.hop_length,
            window=torch.hann_window(self.n_fft),
            center=True,
            pad_mode="constant",
            return_complex=True,
        ).abs()
        return torch.log1p(self.filters() @ spectrum).T

    def filters(self) -> torch.Tensor:
        """Triangles around each semitone, `(feature_size, n_fft // 2 + 1)`, at least one bin to each side."""
        bins = torch.arange(self.n_fft // 2 + 1) * self.sampling_rate / self.n_fft  # Hz
        centres = self.lowest_frequency * 2 ** (torch.arange(self.feature_size) / 12)
        reach = torch.maximum(centres * (2 ** (1 / 12) - 1), torch.tensor(self.sampling_rate / self.n_fft))
        weights = (1 - (bins[None] - centres[:, None]).abs() / reach[:, None]).clamp(min=0)
        # A full-scale sine fills one band with about 1000, whatever the window length: -60 dB is where the log begins.
        return weights * 4000 / self.n_fft
