"""Configuration of DeepSim, the network of music similarity that gives ViML its music features and its tags."""

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig

LABEL_CATEGORIES = ("genre", "mood", "instrument")


@strict
class DeepSimConfig(PreTrainedConfig):
    """Configuration of [`DeepSimModel`] and [`DeepSimForMusicTagging`]; the defaults are the published network.

    Lee et al., ICASSP 2020. Tags are labels: `id2label` names them, in the order of the head's outputs.

    Example:
        >>> from viml_hf.modeling.configuration_deepsim import DeepSimConfig
        >>> DeepSimConfig(hidden_size=32, num_blocks=2).model_type
        'deepsim'
    """

    model_type = "deepsim"
    base_config_key = "audio_encoder_config"

    hidden_size: int = 256  # of every block's output too; a multiple of 16, of which its branches take fixed shares
    num_mel_bins: int = 128
    stem_channels: int = 64  # of the first convolution
    num_blocks: int = 6  # each of which halves time and frequency
    batch_norm_eps: float = 1e-3
    batch_norm_momentum: float = 0.01  # in torch's sense (1 − Keras's)
    # "genre", "mood" or "instrument" for each label, in their order. The triplet loss needs it, and a tagger.
    label_categories: list[str] | None = None
    triplet_margin: float | int = 0.1
    track_weight: float | int = 0.5  # of the track regularisation within the loss of the embedding
    # Of the loss of the embedding beside that of the tags. Open in the paper; large, because the latter is a mean over
    # all tags, most of which are absent and soon cost nothing.
    triplet_weight: float | int = 10.0

    def validate_hidden_size(self) -> None:
        """Refuse a width that the branches cannot share."""
        if self.hidden_size < 16 or self.hidden_size % 16:
            raise ValueError(f"hidden_size={self.hidden_size}: give a positive multiple of 16, 256 as published.")

    def validate_label_categories(self) -> None:
        """Refuse categories that do not fit the labels."""
        if self.label_categories is None:
            return
        unknown = sorted(set(self.label_categories) - set(LABEL_CATEGORIES))
        if unknown:
            raise ValueError(f"label_categories: {unknown[0]!r}: one of {', '.join(LABEL_CATEGORIES)} is accepted.")
        if len(self.label_categories) != self.num_labels:
            raise ValueError(
                f"label_categories: {len(self.label_categories)} for {self.num_labels} labels: give one for each entry "
                "of id2label, in its order."
            )

    def validate_sizes(self) -> None:
        """Refuse sizes below one."""
        for name in ("num_mel_bins", "stem_channels", "num_blocks"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: give 1 or more.")
