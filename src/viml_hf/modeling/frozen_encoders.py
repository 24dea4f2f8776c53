"""The frozen base encoders inside a [`ViMLForMusicRetrieval`]: how they are loaded, built and read out."""

import os
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from .checked_loading import without_load_report
from .configuration_deepsim import DeepSimConfig
from .configuration_descriptors import (
    ViMLAudioDescriptorsConfig,
    ViMLTextDescriptorsConfig,
    ViMLVideoDescriptorsConfig,
)
from .encoder_names import FAMILIES, cached_revision, loading, locate_encoder, parse_encoder_name
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
# The config of that tower within the model's.
TOWER_CONFIGS = {
    ("clip", "video"): ("vision_config",),
    ("clip", "text"): ("text_config",),
    ("siglip", "video"): ("vision_config",),
    ("siglip", "text"): ("text_config",),
    ("clap", "audio"): ("audio_config",),
    ("clap", "text"): ("text_config",),
    ("pe_audio_video", "video"): ("audio_video_config", "video_config"),
    ("pe_audio_video", "audio"): ("audio_video_config", "audio_config"),
    ("pe_video", "video"): ("video_config",),
    ("pe_audio", "audio"): ("audio_config",),
}
# Models of several modalities: their outputs cannot be read as those of one.
DUAL_MODELS = {model for model, _ in TOWER_CLASSES} | {"align", "altclip", "blip", "whisper"}
# The classes by the model type of the tower's own config, where `AutoModel` has none or would drop the projection.
TOWERS_ALONE = {
    "clip_vision_model": "CLIPVisionModelWithProjection",
    "clip_text_model": "CLIPTextModelWithProjection",
    "clap_audio_model": "ClapAudioModelWithProjection",
    "clap_text_model": "ClapTextModelWithProjection",
    "siglip_text_model": "SiglipTextModel",
    "t5": "T5EncoderModel",
    "mt5": "MT5EncoderModel",
    "umt5": "UMT5EncoderModel",
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
        ValueError: The name is unknown, the checkpoint is of another family than its name says, it lacks weights, or
            it needs code of its own, which is never run.
        OSError: The checkpoint cannot be read.
    """
    if isinstance(encoder, PreTrainedModel):
        return encoder
    hub_id, kwargs = locate_encoder(encoder, kwargs)
    if hub_id is None:
        model_class, config_class = DESCRIPTORS[modality]
        return model_class(config_class())
    config = load_encoder_config(encoder, **kwargs)
    refuse_other_kinds(modality, encoder, config)
    model_type = config.model_type
    for name in TOWER_CONFIGS.get((model_type, modality), ()):
        parent, config = config, getattr(config, name)
        if model_type == "clip":
            config.projection_dim = parent.projection_dim  # the tower's own is a default that may be another
    class_name = TOWER_CLASSES.get((model_type, modality)) or TOWERS_ALONE.get(model_type)
    loader: Any = OWN_MODELS.get(model_type) or (getattr(transformers, class_name) if class_name else AutoModel)
    kwargs |= {"trust_remote_code": False} if loader is AutoModel else {}
    if kwargs.get("local_files_only"):
        # Else transformers asks the Hub, in a thread, to convert what lies there as `.bin`.
        os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")
    with loading(encoder, "weights"), without_load_report():
        model, report = loader.from_pretrained(
            hub_id, config=config, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs
        )
    _refuse_random_weights(modality, encoder, model, report)
    return model


def encoder_source(name: str, **kwargs: Any) -> dict[str, str]:
    """Where a loaded encoder came from: its name, and its commit on the Hub. Of a folder nothing but its own name.

    Example:
        >>> encoder_source("descriptors")
        {'name': 'descriptors'}
    """
    parsed = parse_encoder_name(name)
    if parsed.hub_id is None:
        return {"name": name}
    if Path(parsed.hub_id).is_dir():
        return {"name": Path(parsed.hub_id).resolve().name}  # a model that is given away tells no paths
    source = {"name": f"{parsed.name}:{parsed.hub_id}"}
    revision = cached_revision(parsed.hub_id, parsed.revision or kwargs.get("revision"), kwargs.get("cache_dir"))
    return source | ({"revision": revision} if revision else {})


def refuse_other_kinds(modality: str, encoder: str, config: PreTrainedConfig) -> None:
    """Refuse a checkpoint that is of another family than its name says, or that no vector per item is known of.

    Raises:
        ValueError: It is such a checkpoint.
    """
    model_type, parsed = config.model_type, parse_encoder_name(encoder)
    if model_type.startswith("siglip2"):
        raise ValueError(
            f"{encoder!r} is SigLIP 2 for pictures of any size (NaFlex), which is not known here: give a checkpoint of "
            "a fixed size, such as `siglip:google/siglip2-base-patch16-224`."
        )
    expected = FAMILIES.get(parsed.name, (None,))[0]
    if expected is not None and model_type.split("_")[0] != expected:
        raise ValueError(
            f"{encoder!r} is a {model_type!r} checkpoint, not {expected!r}: name it `auto:{parsed.hub_id}` or give a "
            f"{expected} checkpoint."
        )
    two_parts = getattr(config, "is_encoder_decoder", False) and model_type not in TOWERS_ALONE
    if (model_type in DUAL_MODELS or two_parts) and (model_type, modality) not in TOWER_CLASSES:
        known = ", ".join(sorted({family for family, own in TOWER_CLASSES if own == modality}))
        raise ValueError(
            f"{encoder!r} is a {model_type!r} checkpoint, of which no {modality} tower is known here: give {known}, a "
            f"model of {modality} alone, or the descriptors."
        )


def load_encoder_config(encoder: str, **kwargs: Any) -> PreTrainedConfig:
    """The config of a named encoder's checkpoint, without ever running code that comes with it.

    Raises:
        ValueError: The checkpoint needs such code.
        OSError: It cannot be read.
    """
    hub_id, kwargs = locate_encoder(encoder, kwargs)
    assert hub_id is not None, "the descriptors have no checkpoint"
    with loading(encoder, "config"):
        settings, _ = PreTrainedConfig.get_config_dict(hub_id, **kwargs)
    model_type = settings.get("model_type")
    if model_type in SAME_NETWORK:
        known, must_be_off = SAME_NETWORK[model_type]
        if not any(settings.get(name) for name in must_be_off):
            dropped = {"model_type", "auto_map", "architectures"}
            with loading(encoder, "config"):
                return AutoConfig.for_model(known, **{k: v for k, v in settings.items() if k not in dropped})
    if settings.get("auto_map") and model_type not in transformers.CONFIG_MAPPING and model_type not in OWN_MODELS:
        raise ValueError(
            f"{encoder}: a {model_type!r} model that brings code of its own, which is never run here: give a model "
            "that transformers has."
        )
    with loading(encoder, "config"):
        if model_type in OWN_MODELS:
            return OWN_MODELS[model_type].config_class.from_pretrained(hub_id, **kwargs)
        return AutoConfig.from_pretrained(hub_id, trust_remote_code=False, **kwargs)


def _refuse_random_weights(modality: str, encoder: str, model: PreTrainedModel, report: dict[str, Any]) -> None:
    """Refuse a model whose features would differ from load to load, since some of its weights are not in the file."""
    weights, lacking = model.state_dict(), [key for key, *_ in report["mismatched_keys"]]
    for name in sorted(report["missing_keys"]):
        # What no base feature depends on. Zeros, so that loading twice gives the same model.
        if name.endswith("masked_spec_embed") or (modality == "text" and name.startswith("pooler.")):
            weights[name].zero_()
        else:
            lacking.append(name)
    if lacking:
        more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
        raise ValueError(
            f"{encoder}: the checkpoint lacks weights that a {type(model).__name__} needs ({lacking[0]}{more}): give "
            "one that was saved with them."
        )


def build_encoder(config: PreTrainedConfig) -> PreTrainedModel:
    """An encoder with fresh weights from its config, as a checkpoint of the whole model needs it."""
    if config.model_type in OWN_MODELS:
        return OWN_MODELS[config.model_type](config)
    class_name = TOWERS_ALONE.get(config.model_type)
    if class_name is not None:
        return getattr(transformers, class_name)._from_config(config)
    return AutoModel.from_config(config, trust_remote_code=False)


def encoder_width(config: PreTrainedConfig) -> int:
    """Width of the base features that an encoder with this config gives.

    Raises:
        ValueError: The config does not say.
    """
    field = WIDTH_FIELDS.get(config.model_type, "hidden_size")
    width = getattr(config, field, None)
    if width is None:
        raise ValueError(
            f"The config of a {config.model_type!r} model has no {field}, so that its features' width is unknown: give "
            "a model that states it."
        )
    return width


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
    return pooled_embedding("text", encoder(input_ids=input_ids, attention_mask=attention_mask), attention_mask)


def encode_sound(encoder: PreTrainedModel, sound: Tensor, mask: Tensor | None = None) -> Tensor:
    """Embeddings `(segments, width)` of an audio encoder's own input `(segments, …)`.

    Segments of unequal lengths are encoded without their padding, those of one length together: masks do not keep
    padding out of every network, such as those that normalise over time.

    Args:
        encoder: The audio encoder.
        sound: A spectrogram or samples.
        mask: `(segments, time)`, 1 where the input exists, without gaps.
    """
    sound = sound.to(weights_dtype(encoder))
    if encoder.config.model_type in DESCRIPTOR_MODELS:
        return encoder(sound, mask).pooler_output
    if mask is None:
        return _encode_equal_sound(encoder, sound)
    lengths = mask.sum(-1)
    features = sound.new_zeros(len(sound), encoder_width(encoder.config))
    for length in lengths[lengths > 0].unique().tolist():
        features[lengths == length] = _encode_equal_sound(encoder, sound[lengths == length, :length])
    return features


def _encode_equal_sound(encoder: PreTrainedModel, sound: Tensor) -> Tensor:
    """Embeddings `(segments, width)` of input `(segments, …)` without padding."""
    inputs: dict[str, Any] = {encoder.main_input_name: sound}
    if encoder.config.model_type == "pe_audio_encoder":
        inputs = {"input_values": sound[:, None]}
    if getattr(encoder.config, "enable_fusion", False):
        # CLAP with fusion reads a whole window as it is; other crops are only for what is longer.
        inputs["is_longer"] = torch.zeros(len(sound), 1, dtype=torch.bool, device=sound.device)
    return pooled_embedding("audio", encoder(**inputs))


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
    states = output.last_hidden_state
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
