"""Media files → base features, a segment at a time, whatever the length of the file."""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from viml_hf.modeling.modeling_viml_retrieval import ViMLForMusicRetrieval
from viml_hf.processing.processing_viml import Audio, Video, ViMLProcessor


@dataclass(frozen=True, eq=False)
class BaseFeatures:
    """Base features of one file.

    Args:
        rows: `(segments, width)` float16, one row per 10 s segment.
        bounds: `(start, end)` of every segment, in seconds.
    """

    rows: np.ndarray
    bounds: tuple[tuple[float, float], ...]

    @property
    def duration(self) -> float:
        """Length of the file in seconds."""
        return self.bounds[-1][1]


class MediaEncoder:
    """The frozen encoders of a model, fed from files with one segment in memory.

    Every segment is encoded by itself, and the result rounded to float16: a file's features do not depend on the
    files before or beside it, and are those that a store holds.

    Args:
        model: Holds the encoders.
        processor: Prepares their inputs.
        threads: Threads of torch while encoding. Another number may change last bits; so it is not left to chance.

    Example:
        >>> from viml_hf import MediaEncoder, ViMLForMusicRetrieval, ViMLProcessor
        >>> encoder = MediaEncoder(ViMLForMusicRetrieval.from_encoders(), ViMLProcessor.from_encoders())
        >>> encoder.encode_text("slow piano").shape
        (1, 512)
    """

    def __init__(self, model: ViMLForMusicRetrieval, processor: ViMLProcessor, *, threads: int = 1):
        self.model = model.eval()
        self.processor = processor
        self.threads = threads

    @classmethod
    def from_names(cls, video: str, text: str, audio: str, **kwargs: Any) -> "MediaEncoder":
        """Load encoders by their names, as in [`ViMLForMusicRetrieval.from_encoders`]."""
        model = ViMLForMusicRetrieval.from_encoders(video=video, text=text, audio=audio, encoder_kwargs=kwargs)
        return cls(model, ViMLProcessor.from_encoders(video=video, text=text, audio=audio, **kwargs))

    @property
    def widths(self) -> dict[str, int]:
        """Width of the base features per modality."""
        return {name: self.model.config.viml_config.base_feature_dim(name) for name in ("video", "audio", "text")}

    def fingerprints(self) -> dict[str, str]:
        """Checksum per modality of what decides its base features: the encoder's weights and config, and its processor.

        Of every weight the beginning is read: encoders may be large, and one that was trained further differs there.
        """
        parts = {
            "video": self.processor.image_processor.to_dict(),
            "text": {"class": type(self.processor.tokenizer).__name__, "size": len(self.processor.tokenizer)},
            "audio": self.processor.feature_extractor.to_dict(),
        }
        return {name: _checksum(encoder, parts[name]) for name, encoder in self.model.encoders.items()}

    def encode_video(self, video: Video) -> BaseFeatures:
        """Encode the pictures of a video.

        Args:
            video: A path, the bytes of a file, or frames `(frames, height, width, 3)` uint8 at 6 per second.

        Raises:
            MediaDecodeError: It cannot be decoded, or has no pictures.
        """
        rows, bounds = [], []
        for segment in self.processor.video_segments(video):
            pixel_values = self.processor.prepare_frames(segment.data)[None, None]
            with self._computing():
                features, _ = self.model.get_video_base_features(pixel_values.to(self.model.device))
            rows.append(features[0])
            bounds.append((segment.start, segment.end))
        return BaseFeatures(_float16(torch.cat(rows)), tuple(bounds))

    def encode_audio(self, audio: Audio, sampling_rate: int | None = None) -> BaseFeatures:
        """Encode music.

        Args:
            audio: A path, the bytes of a file, or a waveform `(samples,)` in [-1, 1].
            sampling_rate: Rate of a waveform in Hz.

        Raises:
            MediaDecodeError: It cannot be decoded, or has no sound.
        """
        rows, bounds = [], []
        for segment in self.processor.audio_segments(audio, sampling_rate):
            with self._computing():
                prepared, mask = self.processor.prepare_waveform(segment.data)
                device = self.model.device
                features, _ = self.model.get_audio_base_features(
                    prepared[None, None].to(device),
                    audio_frame_mask=None if mask is None else mask[None, None].to(device),
                )
            rows.append(features[0])
            bounds.append((segment.start, segment.end))
        return BaseFeatures(_float16(torch.cat(rows)), tuple(bounds))

    def encode_text(self, text: str) -> np.ndarray:
        """Base feature `(1, width)` float16 of a text."""
        inputs = self.processor(text=[text]).to(self.model.device)
        with self._computing():
            features, _ = self.model.get_text_base_features(inputs["input_ids"], inputs["text_attention_mask"])
        return _float16(features[0])

    def null_text(self) -> np.ndarray:
        """Base feature `(width,)` float16 of the empty string."""
        with self._computing():
            return _float16(self.model.null_text_base_feature(self.processor.tokenizer))

    @contextmanager
    def _computing(self) -> Iterator[None]:
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            with torch.inference_mode():
                yield
        finally:
            torch.set_num_threads(before)


# What a config or processor says of its origin, and not of its numbers.
_ORIGIN = {
    *("_name_or_path", "name_or_path", "transformers_version", "architectures", "auto_map", "processor_class"),
    *("dtype", "torch_dtype", "return_dict", "_attn_implementation", "_attn_implementation_autoset"),
}


def _checksum(encoder: PreTrainedModel, preprocessing: dict[str, Any]) -> str:
    settings = [encoder.config.to_dict(), preprocessing]
    kept = [{name: value for name, value in part.items() if name not in _ORIGIN} for part in settings]
    digest = hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode())
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten()[:64].detach().cpu().float().numpy().tobytes())
    return digest.hexdigest()


def _float16(features: Tensor) -> np.ndarray:
    return features.cpu().to(torch.float16).numpy()
