"""Configurations of the descriptors: base encoders without trained weights, for work without a network.

`projection_dim` is the width of their base features, under the name that CLIP and CLAP towers use for theirs.
"""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig


@strict
class ViMLVideoDescriptorsConfig(PreTrainedConfig):
    """Colour, edges, motion and cut rate of one 10 s segment of frames ([`ViMLVideoDescriptors`])."""

    model_type = "viml_video_descriptors"
    base_config_key = "video_encoder_config"

    projection_dim: int = 160  # fixed by what is measured
    frames_per_second: float | int = 6  # rate of the frames in Hz; the cut rate is per second


@strict
class ViMLAudioDescriptorsConfig(PreTrainedConfig):
    """Timbre, harmony, tempo and onsets of one 10 s segment of music ([`ViMLAudioDescriptors`])."""

    model_type = "viml_audio_descriptors"
    base_config_key = "audio_encoder_config"

    projection_dim: int = 168  # fixed by what is measured
    num_bands: int = 96  # semitone bands of the input spectrogram, from `lowest_frequency` upwards
    lowest_frequency: float | int = 32.703  # centre of the first band in Hz: the note C1
    sampling_rate: int = 22050  # of the waveform in Hz
    hop_length: int = 512  # samples between two frames of the spectrogram


@strict
class ViMLTextDescriptorsConfig(PreTrainedConfig):
    """Hashed n-grams of the characters of a text ([`ViMLTextDescriptors`])."""

    model_type = "viml_text_descriptors"
    base_config_key = "text_encoder_config"

    projection_dim: int = 512  # number of hash buckets
    ngram_sizes: list[int] | None = None  # lengths of the n-grams in bytes of the UTF-8 text; by default 3, 4 and 5
    vocab_size: int = 384  # of bytes, as ByT5 counts them

    def __post_init__(self, **kwargs: Any) -> None:
        """Fill in the default n-gram sizes (lists, because tuples do not reload)."""
        if self.ngram_sizes is None:
            self.ngram_sizes = [3, 4, 5]
        super().__post_init__(**kwargs)


DESCRIPTOR_CONFIGS = {
    config.model_type: config
    for config in (ViMLVideoDescriptorsConfig, ViMLAudioDescriptorsConfig, ViMLTextDescriptorsConfig)
}
