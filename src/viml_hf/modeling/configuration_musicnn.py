"""Configuration of MusiCNN, a published network that tags music."""

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig


@strict
class MusicnnConfig(PreTrainedConfig):
    """Configuration of [`MusicnnForMusicTagging`]; the defaults are the published network (Pons & Serra, 2019)."""

    model_type = "musicnn"

    num_mel_bins: int = 96
    timbral_heights: list[int] | tuple[int, ...] = (38, 67)  # mel bands that a convolution over timbre sees
    timbral_channels: int = 204
    temporal_lengths: list[int] | tuple[int, ...] = (128, 64, 32)  # frames that a convolution over rhythm sees
    temporal_channels: int = 51
    mid_channels: int = 64
    hidden_size: int = 200  # of the layer before the tags
    batch_norm_eps: float = 1e-3

    def validate_sizes(self) -> None:
        """Refuse a convolution that is higher than the picture."""
        if not all(1 <= height <= self.num_mel_bins for height in self.timbral_heights):
            raise ValueError(f"timbral_heights={self.timbral_heights}: give 1 to num_mel_bins={self.num_mel_bins}.")
