"""The table of encoder families. To add an encoder, add a row here: no other file knows one family from another.

A model type without a row is loaded with `AutoModel` and has the defaults of [`Tower`].
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedModel

from .modeling_deepsim import DeepSimModel
from .modeling_descriptors import ViMLAudioDescriptors, ViMLTextDescriptors, ViMLVideoDescriptors

MODALITIES = ("video", "text", "audio")


@dataclass(frozen=True)
class Tower:
    """The encoder of one modality."""

    model_type: str = ""  # of the tower's own config
    model_class: str | type[PreTrainedModel] = "AutoModel"  # a class of transformers by its name, or one of ours
    # Model types of whole models that contain the tower, with the path of its config inside theirs.
    inside: Mapping[str, str] = field(default_factory=dict)
    width: str = "hidden_size"  # the config's field with the width of the embedding
    embedding: str | None = None  # the output's field with the embedding; by default what `pooled_embedding` finds
    # The argument for the mask of padding, if the network takes whole segments; others get frames one by one, and
    # sound without padding.
    segment_mask: str | None = None
    # Makes the arguments of an audio network from its config and the sound `(segments, …)`, if it takes more than that.
    sound_inputs: Callable[[PreTrainedConfig, Tensor], dict[str, Tensor]] | None = None
    # The config's field with the length that every text is padded to, if the network reads the padding without a mask.
    text_length: str | None = None
    # Whether bfloat16 halves the time and keeps the embedding (cosine .9999), as in transformers over patches. It does
    # not where a network begins with raw samples or batch norm over decibels; texts are too short to gain by it.
    bfloat16: bool = False
    frame_settings: str | None = None  # the file with the settings for frames, if the checkpoint has a video processor


@dataclass(frozen=True)
class EncoderFamily:
    """The encoders that go by one name, as in `NAME:HUB_ID`."""

    checkpoint: str | None = None  # what the name alone stands for
    video: Tower | None = None
    text: Tower | None = None
    audio: Tower | None = None
    licences: Mapping[str, str] = field(default_factory=dict)  # of checkpoints whose card states none

    @property
    def towers(self) -> dict[str, Tower]:
        """The towers by modality."""
        return {modality: tower for modality in MODALITIES if (tower := getattr(self, modality)) is not None}

    @property
    def model_types(self) -> set[str]:
        """Model types of the family's checkpoints: whole models, and towers that were saved alone."""
        return {name for tower in self.towers.values() for name in (tower.model_type, *tower.inside)}


def _samples_of_one_channel(config: PreTrainedConfig, sound: Tensor) -> dict[str, Tensor]:
    return {"input_values": sound[:, None]}


def _clap_inputs(config: PreTrainedConfig, sound: Tensor) -> dict[str, Tensor]:
    inputs = {"input_features": sound}
    if getattr(config, "enable_fusion", False):
        # CLAP with fusion reads a whole window as it is; other crops are only for what is longer.
        inputs["is_longer"] = torch.zeros(len(sound), 1, dtype=torch.bool, device=sound.device)
    return inputs


DESCRIPTORS = "descriptors"  # the one family without checkpoints
FAMILIES = {
    DESCRIPTORS: EncoderFamily(
        video=Tower(
            "viml_video_descriptors", ViMLVideoDescriptors, width="projection_dim", segment_mask="frame_attention_mask"
        ),
        text=Tower("viml_text_descriptors", ViMLTextDescriptors, width="projection_dim"),
        audio=Tower(
            "viml_audio_descriptors", ViMLAudioDescriptors, width="projection_dim", segment_mask="attention_mask"
        ),
    ),
    "clip": EncoderFamily(
        "openai/clip-vit-base-patch32",
        video=Tower(
            "clip_vision_model",
            "CLIPVisionModelWithProjection",
            {"clip": "vision_config"},
            width="projection_dim",
            bfloat16=True,
        ),
        text=Tower("clip_text_model", "CLIPTextModelWithProjection", {"clip": "text_config"}, width="projection_dim"),
        licences={"openai/clip-vit-base-patch32": "mit", "openai/clip-vit-base-patch16": "mit"},
    ),
    "siglip": EncoderFamily(
        "google/siglip-base-patch16-224",
        video=Tower("siglip_vision_model", "SiglipVisionModel", {"siglip": "vision_config"}, bfloat16=True),
        text=Tower(
            "siglip_text_model",
            "SiglipTextModel",
            {"siglip": "text_config"},
            width="projection_size",
            embedding="pooler_output",
            text_length="max_position_embeddings",
        ),
    ),
    "clap": EncoderFamily(
        "laion/clap-htsat-unfused",
        text=Tower("clap_text_model", "ClapTextModelWithProjection", {"clap": "text_config"}, width="projection_dim"),
        audio=Tower(
            "clap_audio_model",
            "ClapAudioModelWithProjection",
            {"clap": "audio_config"},
            width="projection_dim",
            sound_inputs=_clap_inputs,
        ),
    ),
    "pe_av": EncoderFamily(
        "facebook/pe-av-large",
        video=Tower(
            "pe_video_encoder",
            "PeVideoEncoder",
            {"pe_audio_video": "audio_video_config.video_config", "pe_video": "video_config"},
            segment_mask="padding_mask_videos",
            frame_settings="video_preprocessor_config.json",
        ),
        audio=Tower(
            "pe_audio_encoder",
            "PeAudioEncoder",
            {"pe_audio_video": "audio_video_config.audio_config", "pe_audio": "audio_config"},
            sound_inputs=_samples_of_one_channel,
        ),
    ),
    # No checkpoint by default: the published weights are not on the Hub, and not for commercial use.
    "deepsim": EncoderFamily(audio=Tower("deepsim", DeepSimModel)),
}
# Models of one modality that have no family name: they are recognised by their model type.
OTHER_TOWERS = (
    Tower("vit", bfloat16=True),
    Tower("dinov2", bfloat16=True),
    Tower("audio-spectrogram-transformer", bfloat16=True),
    Tower("t5", "T5EncoderModel"),
    Tower("mt5", "MT5EncoderModel"),
    Tower("umt5", "UMT5EncoderModel"),
)
# Models of several modalities whose towers have no row: their outputs cannot be read like those of a single tower.
UNKNOWN_TOWERS = ("align", "altclip", "blip", "whisper")
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


def all_towers() -> Iterator[Tower]:
    """All rows of the table."""
    for family in FAMILIES.values():
        yield from family.towers.values()
    yield from OTHER_TOWERS


def tower_of(config: PreTrainedConfig) -> Tower:
    """The row of an encoder, by its own config."""
    return next((tower for tower in all_towers() if tower.model_type == config.model_type), Tower())


def towers_inside(modality: str) -> dict[str, Tower]:
    """The towers of one modality, by the model types of the whole models that contain them."""
    towers = (family.towers[modality] for family in FAMILIES.values() if modality in family.towers)
    return {model_type: tower for tower in towers for model_type in tower.inside}


def tower_config(modality: str, config: PreTrainedConfig) -> PreTrainedConfig:
    """The config of one modality's tower within a whole model's config; a tower's own config comes back as it is."""
    tower = towers_inside(modality).get(config.model_type)
    if tower is None:
        return config
    part = attrgetter(tower.inside[config.model_type])(config)
    if tower.width == "projection_dim":
        part.projection_dim = config.projection_dim  # the tower's own is a default that may differ
    return part


# The encoders of this package by model type, so that code in a Hub repo needs no registration.
OWN_MODELS: dict[str, Any] = {t.model_type: t.model_class for t in all_towers() if isinstance(t.model_class, type)}
