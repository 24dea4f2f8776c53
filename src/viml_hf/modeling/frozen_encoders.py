"""The frozen base encoders inside a [`ViMLForMusicRetrieval`]: how they are loaded, built and read out."""

from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from .configuration_deepsim import DeepSimConfig
from .configuration_descriptors import (
    ViMLAudioDescriptorsConfig,
    ViMLTextDescriptorsConfig,
    ViMLVideoDescriptorsConfig,
)
from .encoder_names import FAMILIES, parse_encoder_name
from .modeling_deepsim import DeepSimModel
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
# This package's own encoders, by model type: known here, so that code in a Hub repo needs no registration.
OWN_MODELS: dict[str, Any] = {**DESCRIPTOR_MODELS, DeepSimConfig.model_type: DeepSimModel}

# A model of several modalities, by its model type, holds the tower of one as a class of its own.
TOWER_CLASSES = {
    ("clip", "video"): "CLIPVisionModelWithProjection",
    ("clip", "text"): "CLIPTextModelWithProjection",
    ("siglip", "video"): "SiglipVisionModel",
    ("siglip", "text"): "SiglipTextModel",
    ("clap", "audio"): "ClapAudioModelWithProjection",
    ("clap", "text"): "ClapTextModelWithProjection",
    ("pe_audio_video", "video"): "PeVideoEncoder",
    ("pe_audio_video", "audio"): "PeAudioEncoder",
    ("pe_video", "video"): "PeVideoEncoder",
    ("pe_audio", "audio"): "PeAudioEncoder",
}
# The config of that tower within the model's, where its class does not find it by itself.
TOWER_CONFIGS = {
    ("pe_audio_video", "video"): ("audio_video_config", "video_config"),
    ("pe_audio_video", "audio"): ("audio_video_config", "audio_config"),
    ("pe_video", "video"): ("video_config",),
    ("pe_audio", "audio"): ("audio_config",),
}
# Models of several modalities: their outputs cannot be read as those of one.
DUAL_MODELS = {model for model, _ in TOWER_CLASSES} | {"siglip2", "align", "altclip", "blip", "whisper"}
# The classes by the model type of the tower's own config, where `AutoModel` has none or would drop the projection.
TOWERS_ALONE = {
    "clip_vision_model": "CLIPVisionModelWithProjection",
    "clip_text_model": "CLIPTextModelWithProjection",
    "clap_audio_model": "ClapAudioModelWithProjection",
    "clap_text_model": "ClapTextModelWithProjection",
    "siglip_text_model": "SiglipTextModel",
}
# Where a config keeps the width of the embedding, if it is not the hidden size.
WIDTH_FIELDS = {
    **dict.fromkeys(DESCRIPTOR_MODELS, "projection_dim"),
    **{name: "projection_dim" for name in TOWERS_ALONE if name.startswith(("clip", "clap"))},
    "siglip_text_model": "projection_size",
}
# Model types with code of their own on the Hub whose network transformers has under another name, with the settings
# that must be off for that to hold.
SAME_NETWORK = {
    "mert_model": ("hubert", ("feature_extractor_cqt", "deepnorm", "conv_pos_batch_norm")),
}
# Where an encoder puts its embedding, best first; a model with none of them gives the mean of its valid states.
POOLED_FIELDS = {
    "video": ("image_embeds", "pooler_output"),
    "text": ("text_embeds",),
    "audio": ("audio_embeds", "pooler_output"),
}


def load_encoder(modality: str, encoder: str | PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
    """Load the base encoder of one modality.

    Args:
        modality: `"video"`, `"text"` or `"audio"`.
        encoder: An encoder name, or the model itself.
        kwargs: Passed to `from_pretrained` (`local_files_only`, `cache_dir`, `token`, …).

    Raises:
        ValueError: The name is unknown, the checkpoint is of another family than its name says, or it needs code of
            its own, which is never run.
    """
    if isinstance(encoder, PreTrainedModel):
        return encoder
    parsed = parse_encoder_name(encoder)
    if parsed.hub_id is None:
        model_class, config_class = DESCRIPTORS[modality]
        return model_class(config_class())
    if parsed.revision:
        kwargs["revision"] = parsed.revision
    config = load_encoder_config(parsed.hub_id, **kwargs)
    model_type = config.model_type
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
    for name in TOWER_CONFIGS.get((model_type, modality), ()):
        config = getattr(config, name)
    class_name = TOWER_CLASSES.get((model_type, modality)) or TOWERS_ALONE.get(model_type)
    loader: Any = OWN_MODELS.get(model_type) or (getattr(transformers, class_name) if class_name else AutoModel)
    if (model_type, modality) in TOWER_CLASSES and (model_type, modality) not in TOWER_CONFIGS:
        return loader.from_pretrained(parsed.hub_id, **kwargs)  # the class takes its part of the config
    return loader.from_pretrained(parsed.hub_id, config=config, **kwargs)


def load_encoder_config(hub_id: str, **kwargs: Any) -> PreTrainedConfig:
    """The config of a checkpoint, without ever running code that comes with it.

    Raises:
        ValueError: The checkpoint needs such code.
    """
    settings, _ = PreTrainedConfig.get_config_dict(hub_id, **kwargs)
    model_type = settings.get("model_type")
    if model_type in OWN_MODELS:
        return OWN_MODELS[model_type].config_class.from_pretrained(hub_id, **kwargs)
    if model_type in SAME_NETWORK:
        known, must_be_off = SAME_NETWORK[model_type]
        on = [name for name in must_be_off if settings.get(name)]
        if not on:
            dropped = {"model_type", "auto_map", "architectures"}
            config = AutoConfig.for_model(known, **{k: v for k, v in settings.items() if k not in dropped})
            config._commit_hash = settings.get("_commit_hash")
            return config
    if settings.get("auto_map") and model_type not in transformers.CONFIG_MAPPING:
        raise ValueError(
            f"{hub_id}: a {model_type!r} model that brings code of its own, which is never run here: give a model "
            "that transformers has."
        )
    return AutoConfig.from_pretrained(hub_id, trust_remote_code=False, **kwargs)


def build_encoder(config: PreTrainedConfig) -> PreTrainedModel:
    """An encoder with fresh weights from its config, as a checkpoint of the whole model needs it."""
    if config.model_type in OWN_MODELS:
        return OWN_MODELS[config.model_type](config)
    class_name = TOWERS_ALONE.get(config.model_type)
    if class_name is not None:
        return getattr(transformers, class_name)._from_config(config)
    return AutoModel.from_config(config)


def encoder_width(config: PreTrainedConfig) -> int:
    """Width of the base features that an encoder with this config gives."""
    return getattr(config, WIDTH_FIELDS.get(config.model_type, "hidden_size"))


def text_padding(config: PreTrainedConfig) -> dict[str, Any]:
    """How texts are padded for a text encoder: SigLIP reads its summary off the last place, padding included."""
    if config.model_type in ("siglip", "siglip_text_model"):
        text_config = getattr(config, "text_config", config)
        return {"padding": "max_length", "max_length": text_config.max_position_embeddings}
    return {"padding": True}


def encode_text_tokens(encoder: PreTrainedModel, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """Embeddings `(texts, width)` of tokens `(texts, length)`: the encoder's own, or the mean over valid tokens."""
    if encoder.config.model_type == "siglip_text_model":
        return encoder(input_ids=input_ids).pooler_output
    output = encoder(input_ids=input_ids, attention_mask=attention_mask)
    features = pooled_embedding("text", output, attention_mask)
    if features.shape[1:] != (encoder_width(encoder.config),):
        features = output.pooler_output
    return features


def encode_sound(encoder: PreTrainedModel, sound: Tensor, mask: Tensor | None = None) -> Tensor:
    """Embeddings `(segments, width)` of an audio encoder's own input `(segments, …)`.

    Args:
        encoder: The audio encoder.
        sound: A spectrogram or samples.
        mask: `(segments, time)`, 1 where the input exists, for encoders that take one.
    """
    sound = sound.to(weights_dtype(encoder))
    inputs: dict[str, Any] = {encoder.main_input_name: sound}
    if encoder.config.model_type == "pe_audio_encoder":
        inputs = {"input_values": sound[:, None], "padding_mask": mask}
    elif mask is not None:
        inputs["attention_mask"] = mask
    output = encoder(**inputs)
    shorten = getattr(encoder, "_get_feature_vector_attention_mask", None)
    if mask is not None and shorten is not None:
        # Encoders of raw samples: their mask over states follows from the one over samples.
        mask = shorten(output.last_hidden_state.shape[1], mask)
    return pooled_embedding("audio", output, mask)


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
