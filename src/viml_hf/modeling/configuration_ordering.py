"""Configuration of the sentence ordering model: BART's own, under a name of its own."""

from huggingface_hub.dataclasses import strict
from transformers import BartConfig


@strict
class SentenceOrderingConfig(BartConfig):
    """Configuration of [`SentenceOrderingModel`]: every field is `BartConfig`'s.

    Example:
        >>> SentenceOrderingConfig(d_model=64, encoder_layers=2).model_type
        'sentence_ordering'
    """

    model_type = "sentence_ordering"
