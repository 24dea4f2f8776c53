"""The table of encoders. To add a family, add its name and its towers here: no other file knows one from another.

A model type without a row is loaded with `AutoModel` and has the defaults of [`Tower`].
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from .configuration_pe_av import PE_AV_CONFIGS
from .modeling_deepsim import DeepSimModel
from .modeling_descriptors import ViMLAudioDescriptors, ViMLTextDescriptors, ViMLVideoDescriptors
from .modeling_pe_av import PeAvAudioTower, PeAvTextTower, PeAvVideoTower
from .modeling_sentence_transformer import (
    SentenceTransformerAudioTower,
    SentenceTransformerTextTower,
    SentenceTransformerVideoTower,
)

MODALITIES = ("video", "text", "audio")
DESCRIPTORS = "descriptors"  # the family without checkpoints
SENTENCE_TRANSFORMER = "st"  # any sentence-transformers model, which prepares its inputs itself
# The names of families, as in `NAME:HUB_ID`, and the checkpoint that a name alone stands for.
FAMILIES = {
    DESCRIPTORS: None,
    "clip": "openai/clip-vit-base-patch32",
    "siglip": "google/siglip-base-patch16-224",
    "clap": "laion/clap-htsat-unfused",
    "pe_av": "facebook/pe-av-large",
    "pe_av_class": "facebook/pe-av-large",  # its class tokens, without the contrastive heads
    "whisper": "openai/whisper-tiny",
    "deepsim": None,  # the published weights are not on the Hub, and not for commercial use
    SENTENCE_TRANSFORMER: None,
}
# Licences of checkpoints whose card states none, as their authors state them elsewhere.
KNOWN_LICENCES = {"openai/clip-vit-base-patch32": "mit", "openai/clip-vit-base-patch16": "mit"}


@dataclass(frozen=True)
class Tower:
    """One row: the encoder of one modality."""

    family: str | None = None  # `None` if it is known by its model type only
    modality: str = ""
    model_type: str = ""  # of the tower's own config
    model_class: str | type[PreTrainedModel] = "AutoModel"  # a class of transformers by its name, or one of ours
    # Model types of whole models that contain the tower, with the path of its config inside theirs.
    inside: Mapping[str, str] = field(default_factory=dict)
    # The config's field with the width of the embedding, where a made-up input would be much work; by default it is
    # seen in one run, see `encoder_width`.
    width: str | None = None
    # The output's field with the embedding, or "first_state"; by default what `pooled_embedding` finds.
    embedding: str | None = None
    # The argument for the mask of padding, if the network takes whole segments; others get frames one by one, and
    # sound without padding.
    segment_mask: str | None = None
    # Makes the arguments of an audio network from its config and the sound `(segments, …)`, if it takes more than that.
    sound_inputs: Callable[[PreTrainedConfig, Tensor], dict[str, Tensor]] | None = None
    # Whether an audio network needs sound that is padded to its window, and does not mask the padding: its embedding is
    # the mean of the states that the sound covers.
    padded_window: bool = False
    # Parts of the names of weights in a whole model's checkpoint, and what they are in the tower's own.
    key_mapping: Mapping[str, str] | None = None
    # Whether an audio network takes samples in float32, whatever the dtype of its weights.
    samples: bool = False
    # The config's field with the length that every text is padded to, if the network reads the padding without a mask.
    text_length: str | None = None
    # Whether bfloat16 halves the time and keeps the embedding (cosine .9998), as in transformers over patches and in
    # PE-AV's codec. It does not in other networks that begin with raw samples or batch norm over decibels; texts are
    # too short to gain by it.
    bfloat16: bool = False
    frame_settings: str | None = None  # the file with the settings for frames, if the checkpoint has a video processor
    # Whether its embeddings can be compared with those of the other such towers of the same checkpoint: a joint space.
    joint: bool = False


def _one_channel(config: PreTrainedConfig, sound: Tensor) -> dict[str, Tensor]:
    return {"input_values": sound[:, None]}


def _bands_first(config: PreTrainedConfig, sound: Tensor) -> dict[str, Tensor]:
    return {"input_features": sound.transpose(1, 2)}


def _clap_inputs(config: PreTrainedConfig, sound: Tensor) -> dict[str, Tensor]:
    inputs = {"input_features": sound}
    if getattr(config, "enable_fusion", False):
        # CLAP with fusion reads a whole window as it is; other crops are only for what is longer.
        inputs["is_longer"] = torch.zeros(len(sound), 1, dtype=torch.bool, device=sound.device)
    return inputs


def _part(family: str | None, name: str, prefix: str, part: str, **facts: Any) -> Tower:
    """The tower of a part (vision, text or audio) of a dual that transformers has, under its names there."""
    model_class = f"{prefix}{part.title()}Model" + ("WithProjection" if facts.get("width") == "projection_dim" else "")
    modality, inside = "video" if part == "vision" else part, {name: f"{part}_config"}
    return Tower(family, modality, f"{name}_{part}_model", model_class, inside, **facts)


# Duals of which transformers has no towers with the projection into the shared space: where the text's feature is, and
# what weights are called otherwise in a checkpoint.
_WITHOUT_PROJECTION: tuple[tuple[str, str, str, dict[str, str]], ...] = (
    ("align", "Align", "first_state", {}),
    ("altclip", "AltCLIP", "pooler_output", {r"encoder\.layer\.": "encoder.layers."}),
    ("chinese_clip", "ChineseCLIP", "first_state", {}),
)
_PE_AV_VIDEO = {"pe_audio_video": "audio_video_config.video_config", "pe_video": "video_config"}
_PE_AV_AUDIO = {"pe_audio_video": "audio_video_config.audio_config", "pe_audio": "audio_config"}
_PE_AV_FRAMES: Any = {"segment_mask": "padding_mask_videos", "frame_settings": "video_preprocessor_config.json"}
_PROJECTED: Any = {"width": "projection_dim", "joint": True}
# A row per tower, in few lines, so that rows can be compared.
# fmt: off
TOWERS = (
    Tower(
        DESCRIPTORS, "video", "viml_video_descriptors", ViMLVideoDescriptors,
        width="projection_dim", segment_mask="frame_attention_mask",
    ),
    Tower(DESCRIPTORS, "text", "viml_text_descriptors", ViMLTextDescriptors, width="projection_dim"),
    Tower(
        DESCRIPTORS, "audio", "viml_audio_descriptors", ViMLAudioDescriptors,
        width="projection_dim", segment_mask="attention_mask",
    ),
    _part("clip", "clip", "CLIP", "vision", bfloat16=True, **_PROJECTED),
    _part("clip", "clip", "CLIP", "text", **_PROJECTED),
    _part("siglip", "siglip", "Siglip", "vision", bfloat16=True, joint=True),
    _part(
        "siglip", "siglip", "Siglip", "text",
        width="projection_size", embedding="pooler_output", text_length="max_position_embeddings", joint=True,
    ),
    _part("clap", "clap", "Clap", "text", **_PROJECTED),
    _part("clap", "clap", "Clap", "audio", sound_inputs=_clap_inputs, **_PROJECTED),
    Tower(
        "pe_av", "video", "viml_pe_av_video", PeAvVideoTower, _PE_AV_VIDEO,
        key_mapping={r"^(video_model\.)?video_encoder\.": "encoder.", r"^(video_model\.)?video_head\.": "head."},
        bfloat16=True, **_PE_AV_FRAMES, **_PROJECTED,
    ),
    Tower(
        "pe_av", "text", "viml_pe_av_text", PeAvTextTower, {"pe_audio_video": "text_config", "pe_audio": "text_config"},
        embedding="pooler_output",
        key_mapping={r"^(audio_model\.)?text_model\.": "encoder.", r"^(audio_model\.)?text_audio_head\.": "head."},
        **_PROJECTED,
    ),
    Tower(
        "pe_av", "audio", "viml_pe_av_audio", PeAvAudioTower, _PE_AV_AUDIO,
        sound_inputs=_one_channel, bfloat16=True,
        key_mapping={r"^(audio_model\.)?audio_encoder\.": "encoder.", r"^(audio_model\.)?audio_head\.": "head."},
        **_PROJECTED,
    ),
    Tower(
        "pe_av_class", "video", "pe_video_encoder", "PeVideoEncoder", _PE_AV_VIDEO, width="hidden_size", **_PE_AV_FRAMES
    ),
    Tower(
        "pe_av_class", "audio", "pe_audio_encoder", "PeAudioEncoder", _PE_AV_AUDIO,
        width="hidden_size", sound_inputs=_one_channel,
    ),
    Tower(
        SENTENCE_TRANSFORMER, "video", "viml_sentence_transformer_video", SentenceTransformerVideoTower,
        segment_mask="frame_attention_mask", **_PROJECTED,
    ),
    Tower(
        SENTENCE_TRANSFORMER, "text", "viml_sentence_transformer_text", SentenceTransformerTextTower,
        embedding="pooler_output", **_PROJECTED,
    ),
    Tower(
        SENTENCE_TRANSFORMER, "audio", "viml_sentence_transformer_audio", SentenceTransformerAudioTower,
        samples=True, **_PROJECTED,
    ),
    Tower("deepsim", "audio", "deepsim", DeepSimModel, width="hidden_size"),
    Tower(
        "whisper", "audio", "whisper", "models.whisper.modeling_whisper.WhisperEncoder",
        width="hidden_size", sound_inputs=_bands_first, padded_window=True, key_mapping={r"^(model\.)?encoder\.": ""},
    ),
    _part(None, "metaclip_2", "MetaClip2", "vision", width="projection_dim", bfloat16=True),
    _part(None, "metaclip_2", "MetaClip2", "text", width="projection_dim"),
    *(
        _part(None, name, prefix, part, embedding=embedding, key_mapping={rf"^{part}_model\.": "", **renamed})
        for name, prefix, text_embedding, renamed in _WITHOUT_PROJECTION
        for part, embedding in (("vision", None), ("text", text_embedding))
    ),
    Tower(None, "audio", "audio-spectrogram-transformer", bfloat16=True),
    Tower(None, "video", "vit", bfloat16=True),
    Tower(None, "video", "dinov2", bfloat16=True),
    Tower(None, "text", "t5", "T5EncoderModel"),
    Tower(None, "text", "mt5", "MT5EncoderModel"),
    Tower(None, "text", "umt5", "UMT5EncoderModel"),
)
# fmt: on
# Models of several modalities whose towers have no row: their outputs cannot be read like those of a single tower.
UNKNOWN_TOWERS = ("blip",)
# Beginnings of model types that are refused, with the reason and the fix.
REFUSED = {
    "siglip2": "SigLIP 2 for pictures of any size (NaFlex), which is not supported: give a checkpoint of a fixed size, "
    "such as `siglip:google/siglip2-base-patch16-224`."
}
# Model types whose code lies on the Hub, with the model type under which transformers has the same network, and the
# settings that must be off for it to be the same.
SAME_NETWORK: dict[str | None, tuple[str, tuple[str, ...]]] = {
    "mert_model": ("hubert", ("feature_extractor_cqt", "deepnorm", "conv_pos_batch_norm")),
}
# The encoders of this package by model type, so that code in a Hub repo needs no registration.
OWN_MODELS: dict[str, Any] = {t.model_type: t.model_class for t in TOWERS if isinstance(t.model_class, type)}


def tower_of(config: PreTrainedConfig) -> Tower:
    """The row of an encoder, by its own config."""
    return next((tower for tower in TOWERS if tower.model_type == config.model_type), Tower())


def joint_modalities(family: str) -> list[str]:
    """The modalities that a family's checkpoints embed in one space, video first."""
    has = {tower.modality for tower in TOWERS if tower.joint and tower.family == family}
    return [modality for modality in MODALITIES if modality in has]


def tower_config(modality: str, config: PreTrainedConfig, family: str | None = None) -> PreTrainedConfig:
    """The config of one modality's tower within a whole model's config; a tower's own config comes back as it is.

    Where several families have towers of the same model, `family` says which is meant; by default the first.
    """
    for tower in TOWERS:
        is_meant = tower.family == family or family not in FAMILIES
        if is_meant and tower.modality == modality and config.model_type in tower.inside:
            part = attrgetter(tower.inside[config.model_type])(config)
            if tower.model_type in PE_AV_CONFIGS:  # ours, around the network of transformers
                width = config.text_config.hidden_size
                return PE_AV_CONFIGS[tower.model_type](encoder_config=part, projection_dim=width)
            if tower.width == "projection_dim":
                part.projection_dim = config.projection_dim  # the tower's own is a default that may differ
            return part
    return config
