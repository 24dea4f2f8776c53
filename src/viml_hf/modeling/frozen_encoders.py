"""The frozen base encoders inside a [`ViMLForMusicRetrieval`]: how they are named, loaded, built and read out.

An encoder is named `NAME[:HUB_ID[@REVISION]]`, or by a Hub id or folder alone (`NAME` is then `auto`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from .configuration_descriptors import (
    ViMLAudioDescriptorsConfig,
    ViMLTextDescriptorsConfig,
    ViMLVideoDescriptorsConfig,
)
from .modeling_descriptors import (
    DESCRIPTOR_MODELS,
    ViMLAudioDescriptors,
    ViMLTextDescriptors,
    ViMLVideoDescriptors,
)

MODALITIES = ("video", "text", "audio")
DESCRIPTORS: dict[str, tuple[type[PreTrainedModel], type[PreTrainedConfig]]] = {
    "video": (ViMLVideoDescriptors, ViMLVideoDescriptorsConfig),
    "text": (ViMLTextDescriptors, ViMLTextDescriptorsConfig),
    "audio": (ViMLAudioDescriptors, ViMLAudioDescriptorsConfig),
}

# What a name needs the checkpoint to be, and the checkpoint taken when none is named.
FAMILIES = {
    "clip": ("clip", "openai/clip-vit-base-patch32"),
    "clap": ("clap", "laion/clap-htsat-unfused"),
}
# A dual model, by its model type, holds the tower of a modality as a class of its own.
TOWER_CLASSES = {
    ("clip", "video"): "CLIPVisionModelWithProjection",
    ("clip", "text"): "CLIPTextModelWithProjection",
    ("clap", "audio"): "ClapAudioModelWithProjection",
    ("clap", "text"): "ClapTextModelWithProjection",
}
# Models of several modalities: their outputs cannot be read as those of one.
DUAL_MODELS = ("clip", "clap", "siglip", "siglip2", "align", "altclip", "blip", "whisper")
# The same classes by the model type of the tower's own config; `AutoModel` would drop the projection.
PROJECTED_TOWERS = {
    "clip_vision_model": "CLIPVisionModelWithProjection",
    "clip_text_model": "CLIPTextModelWithProjection",
    "clap_audio_model": "ClapAudioModelWithProjection",
    "clap_text_model": "ClapTextModelWithProjection",
}
# Where an encoder puts its embedding, best first; a model with none of them gives the mean of its valid states.
POOLED_FIELDS = {
    "video": ("image_embeds", "pooler_output"),
    "text": ("text_embeds",),
    "audio": ("audio_embeds", "pooler_output"),
}


@dataclass(frozen=True)
class EncoderName:
    """A parsed encoder name.

    Args:
        name: `descriptors`, `clip`, `clap` or `auto`.
        hub_id: Hub id or folder; `None` for the descriptors.
        revision: Branch, tag or commit on the Hub, where pinned.
    """

    name: str
    hub_id: str | None = None
    revision: str | None = None


def parse_encoder_name(text: str) -> EncoderName:
    """Parse `NAME[:HUB_ID[@REVISION]]`, a Hub id, or a folder.

    Raises:
        ValueError: The text is none of these.

    Example:
        >>> parse_encoder_name("clip:openai/clip-vit-base-patch16@main")
        EncoderName(name='clip', hub_id='openai/clip-vit-base-patch16', revision='main')
        >>> parse_encoder_name("clip").hub_id
        'openai/clip-vit-base-patch32'
    """
    if text == "descriptors":
        return EncoderName("descriptors")
    if Path(text).is_dir():
        return EncoderName("auto", text)
    name, colon, location = text.partition(":")
    if (name in FAMILIES or name == "auto") and Path(location).is_dir() and location:
        return EncoderName(name, location)
    if name in FAMILIES or (colon and name == "auto"):
        hub_id, _, revision = location.partition("@")
        hub_id = hub_id or (FAMILIES[name][1] if name in FAMILIES and not colon else "")
    else:
        name = "auto"
        hub_id, _, revision = text.partition("@")
    if not hub_id or (hub_id.count("/") > 1 and not Path(hub_id).is_dir()) or (name == "auto" and "/" not in hub_id):
        raise ValueError(
            f"{text!r} names no encoder: give `descriptors`, `clip`, `clap`, `clip:HUB_ID[@REVISION]`, a Hub "
            "id such as `MIT/ast-finetuned-audioset-10-10-0.4593`, or the folder of a saved model."
        )
    return EncoderName(name, hub_id, revision or None)


def load_encoder(modality: str, encoder: str | PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
    """Load the base encoder of one modality.

    Args:
        modality: `"video"`, `"text"` or `"audio"`.
        encoder: An encoder name, or the model itself.
        kwargs: Passed to `from_pretrained` (`local_files_only`, `cache_dir`, `token`, …).

    Raises:
        ValueError: The name is unknown, or the checkpoint is of another family than its name says.
    """
    if isinstance(encoder, PreTrainedModel):
        return encoder
    parsed = parse_encoder_name(encoder)
    if parsed.hub_id is None:
        model_class, config_class = DESCRIPTORS[modality]
        return model_class(config_class())
    if parsed.revision:
        kwargs["revision"] = parsed.revision
    model_type = AutoConfig.from_pretrained(parsed.hub_id, **kwargs).model_type
    expected = FAMILIES.get(parsed.name, (None,))[0]
    if expected is not None and model_type.split("_")[0] != expected:
        raise ValueError(
            f"{encoder!r} is a {model_type!r} checkpoint, not {expected!r}: name it `auto:{parsed.hub_id}` or give a "
            f"{expected} checkpoint."
        )
    if model_type in DUAL_MODELS and (model_type, modality) not in TOWER_CLASSES:
        known = ", ".join(sorted({family for family, own in TOWER_CLASSES if own == modality}))
        raise ValueError(
            f"{encoder!r} is a {model_type!r} checkpoint, of which no {modality} tower is known here: give {known}, a "
            f"model of {modality} alone, or the descriptors."
        )
    class_name = TOWER_CLASSES.get((model_type, modality)) or PROJECTED_TOWERS.get(model_type)
    loader: Any = getattr(transformers, class_name) if class_name else AutoModel
    return loader.from_pretrained(parsed.hub_id, **kwargs)


def build_encoder(config: PreTrainedConfig) -> PreTrainedModel:
    """An encoder with fresh weights from its config, as a checkpoint of the whole model needs it."""
    if config.model_type in DESCRIPTOR_MODELS:
        return DESCRIPTOR_MODELS[config.model_type](config)
    class_name = PROJECTED_TOWERS.get(config.model_type)
    if class_name is not None:
        return getattr(transformers, class_name)._from_config(config)
    return AutoModel.from_config(config)


def encoder_width(config: PreTrainedConfig) -> int:
    """Width of the base features that an encoder with this config gives."""
    projected = config.model_type in PROJECTED_TOWERS or config.model_type in DESCRIPTOR_MODELS
    return config.projection_dim if projected else config.hidden_size


def pooled_embedding(modality: str, output: Any, attention_mask: Tensor | None = None) -> Tensor:
    """The one vector per item, `(items, width)`, in an encoder's output, unnormalised.

    Args:
        modality: `"video"`, `"text"` or `"audio"`.
        output: What the encoder returned.
        attention_mask: `(items, length)` of the encoder's input; used for the mean where lengths agree.
    """
    for field in POOLED_FIELDS[modality]:
        embedding = getattr(output, field, None)
        if embedding is not None:
            return embedding
    embedding = getattr(output, "pooler_output", None)
    states = output.last_hidden_state
    if embedding is not None and states.shape[1] == 1:
        return embedding
    if attention_mask is None or attention_mask.shape[1] != states.shape[1]:
        return states.mean(1)
    weights = attention_mask.to(states.dtype)[..., None]
    return (states * weights).sum(1) / weights.sum(1).clamp(min=1)


def weights_dtype(encoder: PreTrainedModel) -> torch.dtype:
    """The dtype that an encoder computes in; the descriptors, which have no weights, compute in float32."""
    return next((p.dtype for p in encoder.parameters() if p.is_floating_point()), torch.float32)


def round_to_store(features: Tensor) -> Tensor:
    """Round base features to float16, as the store holds them, so that streamed and stored features are the same."""
    features = features.float()
    rounded = features.detach().to(torch.float16).float()
    # Where encoders are trained, their gradients are not rounded.
    return features + (rounded - features).detach() if features.requires_grad else rounded
