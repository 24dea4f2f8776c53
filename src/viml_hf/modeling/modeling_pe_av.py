"""PE-AV's towers with their contrastive heads: video, text and sound in one space.

transformers has the encoders; of a `PeAudioVideoModel`, each tower here is an encoder and the head that it is compared
through. Texts have two heads there. The one used here is that which is compared with sound.
"""

from typing import Any

from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .configuration_pe_av import PeAvAudioConfig, PeAvTextConfig, PeAvTowerConfig, PeAvVideoConfig


class PeAvHead(nn.Module):
    """Layer norm and a linear map into the shared space."""

    def __init__(self, width: int, projection_dim: int):
        super().__init__()
        self.layer_norm = nn.LayerNorm(width, eps=1e-6)
        self.proj = nn.Linear(width, projection_dim, bias=False)

    def forward(self, pooled: Tensor) -> Tensor:
        """Map `(items, width)` to `(items, projection_dim)`."""
        return self.proj(self.layer_norm(pooled))


class PeAvTower(PreTrainedModel):
    """An encoder and its head. The embedding `pooler_output` `(items, projection_dim)` is not normalised."""

    config: PeAvTowerConfig
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: PeAvTowerConfig):
        super().__init__(config)
        self.encoder = AutoModel.from_config(config.encoder_config)
        self.head = PeAvHead(self.encoder.config.hidden_size, config.projection_dim)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The encoder's."""
        return self.encoder.get_input_embeddings()

    def forward(self, **inputs: Any) -> BaseModelOutputWithPooling:
        """Embed the encoder's own inputs."""
        output = self.encoder(**inputs)
        states, pooled = output.last_hidden_state, getattr(output, "pooler_output", None)
        # A text model's first state is that of its class token.
        return BaseModelOutputWithPooling(states, self.head(states[:, 0] if pooled is None else pooled))


class PeAvVideoTower(PeAvTower):
    """Frames `(segments, frames, 3, height, width)` of whole segments."""

    config_class = PeAvVideoConfig
    main_input_name = "pixel_values_videos"


class PeAvTextTower(PeAvTower):
    """Tokens `(texts, length)`."""

    config_class = PeAvTextConfig
    main_input_name = "input_ids"


class PeAvAudioTower(PeAvTower):
    """Samples `(segments, 1, samples)`."""

    config_class = PeAvAudioConfig
    main_input_name = "input_values"
