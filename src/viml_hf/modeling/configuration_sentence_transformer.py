"""Configurations of the towers of a sentence-transformers model, one per modality that it embeds."""

from huggingface_hub.dataclasses import strict
from transformers.configuration_utils import PreTrainedConfig


@strict
class SentenceTransformerTowerConfig(PreTrainedConfig):
    """What the configs of the towers have in common."""

    projection_dim: int = 768  # width of the space
    prompt: str = ""  # that the model puts before inputs of the tower's role
    weights_of: str = ""  # the modality whose tower has the same model: it is in memory and in a checkpoint once


@strict
class SentenceTransformerVideoConfig(SentenceTransformerTowerConfig):
    """The pictures of one 10 s segment, as a query ([`SentenceTransformerVideoTower`])."""

    model_type = "viml_sentence_transformer_video"
    base_config_key = "video_encoder_config"

    frames_per_second: float = 6.0


@strict
class SentenceTransformerTextConfig(SentenceTransformerTowerConfig):
    """A text, as a query ([`SentenceTransformerTextTower`])."""

    model_type = "viml_sentence_transformer_text"
    base_config_key = "text_encoder_config"


@strict
class SentenceTransformerAudioConfig(SentenceTransformerTowerConfig):
    """The sound of one 10 s segment, as a document ([`SentenceTransformerAudioTower`])."""

    model_type = "viml_sentence_transformer_audio"
    base_config_key = "audio_encoder_config"

    sampling_rate: int = 16_000


SENTENCE_TRANSFORMER_CONFIGS = {
    one.model_type: one
    for one in (SentenceTransformerVideoConfig, SentenceTransformerTextConfig, SentenceTransformerAudioConfig)
}
