"""Several towers of one modality in the place of one (`ensemble_size`)."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from .configuration_viml import ViMLConfig
from .modeling_viml_towers import TOWERS


class ViMLTowerEnsemble(nn.Module):
    """Independent towers of one modality. What they give stands side by side, in the order of the towers."""

    def __init__(self, config: ViMLConfig, modality: str):
        super().__init__()
        tower = TOWERS[config.encoder]
        self.members = nn.ModuleList([tower(config, modality) for _ in range(config.ensemble_size)])
        self.input_dim = config.base_feature_dim(modality)

    @property
    def projection(self) -> nn.Module:
        """The first layer of the first tower."""
        return self.members[0].projection  # type: ignore[return-value]

    def forward(
        self, features: Tensor, attention_mask: Tensor | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        """Map `(batch, time, base_dim)` to pooled `(batch, ensemble_size * hidden_size)`."""
        found = [member(features, attention_mask, **kwargs) for member in self.members]
        states, attentions = ([getattr(one, name) for one in found] for name in ("hidden_states", "attentions"))
        return BaseModelOutputWithPooling(
            torch.cat([one.last_hidden_state for one in found], dim=-1),
            torch.cat([one.pooler_output for one in found], dim=-1),
            None if None in states else tuple(torch.cat(layer, dim=-1) for layer in zip(*states, strict=True)),
            None if None in attentions else tuple(torch.cat(layer, dim=1) for layer in zip(*attentions, strict=True)),
        )
