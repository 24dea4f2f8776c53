"""The width of the base features of any encoder: seen in one run of it, since configs call it by many names."""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from .encoder_families import tower_of
from .frozen_encoders import encode_images, encode_sound, encode_text_tokens, text_padding

PICTURE_SIZE = 224  # pixels, for networks that do not state one


def encoder_width(modality: str, encoder: PreTrainedModel) -> int:
    """Width of the base features of the encoder of a modality.

    It is what the config states in the field of the family's row, otherwise the width that comes out of one run on a
    made-up input, in evaluation mode. A network that this input does not suit is taken by its `hidden_size`.

    Raises:
        ValueError: The network does not run on it, and its config has no `hidden_size`.

    Example:
        >>> from transformers import ResNetConfig, ResNetModel
        >>> small = ResNetConfig(embedding_size=8, hidden_sizes=[8, 24], depths=[1, 1], layer_type="basic")
        >>> encoder_width("video", ResNetModel(small))
        24
    """
    config = encoder.config
    field = tower_of(config).width
    if field is not None:
        return getattr(config, field)
    training = encoder.training
    encoder.eval()
    try:
        with torch.no_grad():
            _, width = _features_of_nothing(modality, encoder).shape
            return width
    except Exception as error:  # networks fail in any way on what they do not expect
        stated = getattr(config, "hidden_size", None)
        if stated is None:
            reason = (str(error) or type(error).__name__).splitlines()[0][:200]
            raise ValueError(
                f"A {config.model_type!r} model does not run on {_WHAT[modality]} ({reason}), so that its features' "
                "width is unknown: give a model that does."
            ) from error
        return stated
    finally:
        encoder.train(training)


_WHAT = {"video": "pictures alone", "text": "tokens alone", "audio": "sound alone"}


def _features_of_nothing(modality: str, encoder: PreTrainedModel) -> Tensor:
    """Features `(1, width)` of a made-up input: a black picture, a short text, or half a second of silence."""
    config: Any = encoder.config
    place: Any = {"device": encoder.device}
    if modality == "video":
        size = getattr(config, "image_size", None) or PICTURE_SIZE
        height, width = size if isinstance(size, list | tuple) else (size, size)
        return encode_images(encoder, torch.zeros(1, getattr(config, "num_channels", 3), height, width, **place))
    if modality == "text":
        tokens = torch.zeros(1, text_padding(config).get("max_length", 4), dtype=torch.long, **place)
        return encode_text_tokens(encoder, tokens, torch.ones_like(tokens))
    return encode_sound(encoder, torch.zeros(1, *_sound_shape(encoder.main_input_name, config), **place))


def _sound_shape(main_input: str, config: PreTrainedConfig) -> tuple[int, ...]:
    """`(time,)` of samples or `(time, bands)` of a spectrogram that an audio network takes."""
    bands = getattr(config, "num_mel_bins", None) or getattr(config, "feature_projection_input_dim", None)
    if main_input == "input_features" or (bands and hasattr(config, "max_length")):
        return getattr(config, "max_length", None) or 64, bands or 80
    return (8000,)
