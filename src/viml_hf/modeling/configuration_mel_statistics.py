"""Configuration of the small tagger over mel statistics, for where training has to take seconds."""

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig


@strict
class MelStatisticsConfig(PreTrainedConfig):
    """Configuration of [`MelStatisticsForMusicTagging`].

    Tags are labels: `id2label` names them, in the order of the head's outputs.

    Example:
        >>> MelStatisticsConfig(num_labels=89).model_type
        'mel_statistics'
    """

    model_type = "mel_statistics"

    num_mel_bins: int = 64
    hidden_size: int = 128
    dropout: float | int = 0.2  # share of the statistics, and of the hidden layer, that training drops
    label_categories: list[str] | None = None  # "genre", "mood" or "instrument" for each label, in their order
