"""What the feature extractors of mono sound have in common."""

from typing import Any

import numpy as np
import torch
from transformers.feature_extraction_sequence_utils import SequenceFeatureExtractor
from transformers.feature_extraction_utils import BatchFeature


class MonoFeatureExtractor(SequenceFeatureExtractor):
    """Mono waveforms at the extractor's own rate → the features that a subclass makes in `_features`."""

    def __call__(
        self,
        raw_speech: np.ndarray | list[np.ndarray],
        sampling_rate: int | None = None,
        return_tensors: str | None = "pt",
        **kwargs: Any,
    ) -> BatchFeature:
        """Extract features.

        Args:
            raw_speech: A waveform `(samples,)` or a list of them, floats in [-1, 1].
            sampling_rate: Their rate in Hz; it must be the extractor's own.
            return_tensors: `"pt"` or `"np"`.
            kwargs: Padding options of other extractors; here the class says how it pads.

        Raises:
            ValueError: The sampling rate is another one, or a waveform is none that the class takes.
        """
        if sampling_rate is not None and sampling_rate != self.sampling_rate:
            raise ValueError(
                f"sampling_rate={sampling_rate}, but this extractor works at {self.sampling_rate} Hz: resample first."
            )
        waveforms = raw_speech if isinstance(raw_speech, list | tuple) else [raw_speech]
        features = self._features([np.asarray(waveform) for waveform in waveforms])
        np_wanted = return_tensors == "np"
        return BatchFeature({name: one.numpy() if np_wanted else one for name, one in features.items()})

    def _features(self, waveforms: list[np.ndarray]) -> dict[str, torch.Tensor]:
        raise NotImplementedError
