"""Heads for base encoders of one joint space: models that rank without training, and heads that begin as these."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import initialization as init
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .configuration_viml import ViMLConfig
from .loss_viml import at_least_float32
from .modeling_viml_towers import ViMLMlpBlock, ViMLTower, masked_mean


class ViMLIdentityTower(ViMLTower):
    """The mean of the L2-normalised rows less a centre, of length 1 again: it has no weights.

    `centre` `(dim,)` is the mean of the modality, where a space has a gap between modalities; zeros by default.
    """

    _can_record_outputs: dict = {}  # noqa: RUF012

    def __init__(self, config: ViMLConfig, modality: str):
        super().__init__(config, modality)
        self.projection: Any = nn.Identity()
        self.centre: Tensor = nn.Buffer(torch.zeros(self.input_dim))
        self.layers = self.make_layers(config)
        self.post_init()

    def make_layers(self, config: ViMLConfig) -> nn.ModuleList:
        """What comes after the mean: nothing."""
        return nn.ModuleList()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self:
            init.zeros_(self.centre)
        elif isinstance(module, nn.Linear) and any(module is layer.fc2 for layer in self.layers):
            init.zeros_(module.weight)
            init.zeros_(module.bias)

    def input_dtype(self) -> torch.dtype:
        """That of the centre."""
        return self.centre.dtype

    def encode(self, features: Tensor, attention_mask: Tensor | None, **kwargs: object) -> tuple[Tensor, Tensor]:
        """The rows of length 1 without the centre, and their mean of length 1; zeros where no row is valid."""
        rows = F.normalize(at_least_float32(self.projection(features)), dim=-1) - self.centre
        pooled = F.normalize(masked_mean(rows, attention_mask), dim=-1).to(features.dtype)
        for layer in self.layers:
            pooled = layer(pooled)
        return rows.to(features.dtype), pooled


class ViMLResidualTower(ViMLIdentityTower):
    """The same, and residual blocks over the mean. Their last layers begin at zero, so that the tower begins as it is
    without them."""

    def make_layers(self, config: ViMLConfig) -> nn.ModuleList:
        """Residual blocks."""
        return nn.ModuleList([ViMLMlpBlock(config) for _ in range(config.num_tower_layers(self.modality))])


class ViMLLateFusion(nn.Module):
    """The sum of the video and the text, each of length 1, the text times `text_weight`.

    The similarity of music to the sum is its similarity to the video plus `text_weight` times that to the text, but for
    a factor per query, which changes no ranking. An absent part is zeros: the other one then ranks alone.
    """

    def __init__(self, config: ViMLConfig):
        super().__init__()
        self.text_weight = config.text_weight

    def forward(self, video_pooled: Tensor, text_pooled: Tensor, **kwargs: object) -> BaseModelOutputWithPooling:
        """Map two `(batch, hidden_size)` to the same shape."""
        pooled = F.normalize(video_pooled, dim=-1) + self.text_weight * F.normalize(text_pooled, dim=-1)
        return BaseModelOutputWithPooling(last_hidden_state=pooled[:, None], pooler_output=pooled)


JOINT_TOWERS: dict[str, type[ViMLTower]] = {"identity": ViMLIdentityTower, "residual": ViMLResidualTower}


def set_centres(heads: nn.Module, **centres: Tensor) -> None:
    """Set what the towers of a [`ViMLModel`] take from their rows, where a joint space has a gap between modalities.

    Args:
        heads: With `encoder="identity"` or `"residual"`.
        centres: Mean `(dim,)` of the normalised rows, by modality: `video=`, `text=`, `audio=`.

    Raises:
        ValueError: There is no such tower, or it has another width.
    """
    for modality, centre in centres.items():
        own = getattr(getattr(heads, f"{modality}_tower", None), "centre", None)
        if own is None or own.shape != centre.shape or not torch.isfinite(centre).all():
            takes = "none" if own is None else tuple(own.shape)
            raise ValueError(
                f"A centre of shape {tuple(centre.shape)} for {modality}, whose tower takes {takes}: give the mean of "
                'its normalised rows, to heads with encoder="identity" or "residual".'
            )
        with torch.no_grad():
            own.copy_(centre)
