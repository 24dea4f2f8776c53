"""Configurations of PE-AV's towers: the encoder of one modality, and the width of the space that all three share."""

from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec


@strict
class PeAvTowerConfig(PreTrainedConfig):
    """What the configs of the towers have in common."""

    encoder_config: dict[str, Any] | PreTrainedConfig | None = None
    projection_dim: int = 1024  # width of the shared space


@strict
class PeAvVideoConfig(PeAvTowerConfig):
    """The pictures of one 10 s segment ([`PeAvVideoTower`])."""

    model_type = "viml_pe_av_video"
    base_config_key = "video_encoder_config"
    sub_configs_defaults: ClassVar = {"encoder_config": SubConfigSpec(AutoConfig, model_type="pe_video_encoder")}


@strict
class PeAvTextConfig(PeAvTowerConfig):
    """A text, to be compared with sound ([`PeAvTextTower`])."""

    model_type = "viml_pe_av_text"
    base_config_key = "text_encoder_config"
    sub_configs_defaults: ClassVar = {"encoder_config": SubConfigSpec(AutoConfig, model_type="modernbert")}


@strict
class PeAvAudioConfig(PeAvTowerConfig):
    """The sound of one 10 s segment ([`PeAvAudioTower`])."""

    model_type = "viml_pe_av_audio"
    base_config_key = "audio_encoder_config"
    sub_configs_defaults: ClassVar = {"encoder_config": SubConfigSpec(AutoConfig, model_type="pe_audio_encoder")}


PE_AV_CONFIGS = {one.model_type: one for one in (PeAvVideoConfig, PeAvTextConfig, PeAvAudioConfig)}
