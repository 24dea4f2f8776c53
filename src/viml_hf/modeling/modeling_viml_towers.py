"""The parts of ViML: Transformer layers, the towers of one modality each, and the fusion of video and text."""

import math
from collections.abc import Callable
from itertools import chain, pairwise
from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS, PreTrainedModel
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs
from transformers.utils.generic import merge_with_config_defaults
from transformers.utils.output_capturing import capture_outputs

from .checked_loading import CheckedLoadingMixin
from .configuration_viml import ViMLConfig
from .hub_upload import HubUploadMixin


def eager_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: Unpack[TransformersKwargs],
) -> tuple[Tensor, Tensor]:
    """Attention spelt out, for `attn_implementation="eager"`: it can return its weights."""
    scores = query @ key.transpose(2, 3) * scaling
    if attention_mask is not None:
        scores = scores + attention_mask
    weights = nn.functional.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return (weights @ value).transpose(1, 2).contiguous(), weights


class ViMLAttention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, config: ViMLConfig, hidden_size: int):
        super().__init__()
        self.config = config
        self.head_dim = hidden_size // config.num_attention_heads
        self.scaling = self.head_dim**-0.5
        self.is_causal = False
        self.q_proj = nn.Linear(hidden_size, hidden_size)
        self.k_proj = nn.Linear(hidden_size, hidden_size)
        self.v_proj = nn.Linear(hidden_size, hidden_size)
        self.o_proj = nn.Linear(hidden_size, hidden_size)

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple[Tensor, Tensor | None]:
        """Map `(batch, time, hidden_size)` to the same shape, and give the attention weights where they exist."""
        batch_and_time = hidden_states.shape[:-1]
        per_head = (*batch_and_time, -1, self.head_dim)
        query, key, value = (
            projection(hidden_states).view(per_head).transpose(1, 2)  # (batch, heads, time, head_dim)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(
            self.config._attn_implementation, eager_attention_forward
        )
        output, weights = attention(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.config.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        return self.o_proj(output.reshape(*batch_and_time, -1)), weights


class ViMLEncoderLayer(GradientCheckpointingLayer):
    """A post-norm Transformer encoder layer: the paper's parameter counts leave no room for a final norm."""

    def __init__(self, config: ViMLConfig, hidden_size: int):
        super().__init__()
        self.self_attn = ViMLAttention(config, hidden_size)
        self.self_attn_layer_norm = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, hidden_size)
        self.final_layer_norm = nn.LayerNorm(hidden_size, eps=config.layer_norm_eps)
        self.activation = ACT2FN[config.hidden_act]
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, **kwargs: Unpack[TransformersKwargs]
    ) -> Tensor:
        """Map `(batch, time, hidden_size)` to the same shape."""
        attended, _ = self.self_attn(hidden_states, attention_mask, **kwargs)
        hidden_states = self.self_attn_layer_norm(hidden_states + self.dropout(attended))
        transformed = self.fc2(self.dropout(self.activation(self.fc1(hidden_states))))
        return self.final_layer_norm(hidden_states + self.dropout(transformed))


class ViMLPreTrainedModel(CheckedLoadingMixin, HubUploadMixin, PreTrainedModel):  # type: ignore[misc]
    """Weight initialisation, loading and saving of all ViML models."""

    config: ViMLConfig
    base_model_prefix = "viml"
    main_input_name = "video_features"
    input_modalities = ["video", "text", "audio"]  # noqa: RUF012
    supports_gradient_checkpointing = True
    _no_split_modules: set[str] | list[str] | None = ["ViMLEncoderLayer", "ViMLMlpBlock", "ViMLLinearTower"]  # noqa: RUF012
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": ViMLEncoderLayer, "attentions": ViMLAttention}  # noqa: RUF012

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load a whole checkpoint (see `CheckedLoadingMixin`); it computes bit for bit as before it was saved."""
        loaded = super().from_pretrained(*args, **kwargs)
        align_weights(loaded[0] if isinstance(loaded, tuple) else loaded)
        return loaded

    @property
    def device(self) -> torch.device:
        """Where the weights are, or, in heads without any, the buffers."""
        return next(tensor.device for tensor in chain(self.parameters(), self.buffers()))

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, or, in heads without any, of the buffers."""
        return next(tensor.dtype for tensor in chain(self.parameters(), self.buffers()) if tensor.is_floating_point())

    def post_init(self) -> None:
        """Finish as transformers does, then forget layers that are not there: FSDP refuses to wrap them."""
        super().post_init()
        present = {type(module).__name__ for module in self.modules()}
        self._no_split_modules = present & set(self._no_split_modules or ())

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Linear):
            if self.config.encoder == "mlp":
                # As nn.Linear by itself. Larger weights cost this encoder 3 to 4 points of R@10 (RESULTS.md).
                init.kaiming_uniform_(module.weight, a=math.sqrt(5))
                if module.bias is not None:
                    init.uniform_(module.bias, -(module.in_features**-0.5), module.in_features**-0.5)
            else:
                init.xavier_uniform_(module.weight)  # as torch's own TransformerEncoder
        elif isinstance(module, ViMLTransformerTower):
            std = self.config.initializer_range
            if module.position_embedding is not None:
                init.normal_(module.position_embedding.weight, std=std)
            if module.cls_embedding is not None:
                init.normal_(module.cls_embedding, std=std)


def align_weights(model: nn.Module) -> None:
    """Copy weights that a file left at odd addresses: CPU kernels sum in another order there, with other last bits."""
    for tensor in (*model.parameters(), *model.buffers()):
        is_plain = type(tensor.data) is Tensor  # and not packed by a library that quantises
        if is_plain and tensor.device.type == "cpu" and tensor.data_ptr() % 64:
            tensor.data = tensor.data.clone()


def quantise_feed_forward_only(model: PreTrainedModel, prefix: str = "") -> None:
    """Of heads that are loaded quantised, leave all but the feed-forward layers, four fifths of the weights, as it is.

    The other layers would cost .04 of the cosine to the embeddings of unquantised heads in 4 bits, these cost .01.
    """
    if getattr(model.config, "quantization_config", None) is not None:
        kept = ("projection", "self_attn", "layer_norm")
        model._keep_in_fp32_modules = {*(model._keep_in_fp32_modules or ()), *(f"{prefix}.*{name}" for name in kept)}


def masked_mean(rows: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over the valid rows of `(batch, time, dim)`; zero where no row is valid."""
    if mask is None:
        return rows.mean(1)
    valid = mask.bool()[..., None]
    return rows.masked_fill(~valid, 0).sum(1) / valid.sum(1).clamp(min=1)


class ViMLTower(ViMLPreTrainedModel):
    """Base features of one modality → one pooled vector. Its subclasses are the kinds of `config.encoder`.

    They say how in `encode`: valid features `(batch, time, base_dim)` → `last_hidden_state` and `pooler_output`.
    """

    projection: nn.Linear

    def __init__(self, config: ViMLConfig, modality: str):
        super().__init__(config)
        self.modality = modality
        self.input_dim = config.base_feature_dim(modality)

    def get_input_embeddings(self) -> nn.Module:
        """The first layer: reentrant gradient checkpointing lets gradients begin at its output."""
        return self.projection

    encode: Callable[..., tuple[Tensor, Tensor]]

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self, features: Tensor, attention_mask: Tensor | None = None, **kwargs: Unpack[TransformersKwargs]
    ) -> BaseModelOutputWithPooling:
        """Map `(batch, time, base_dim)` to pooled `(batch, hidden_size)`."""
        features = self.valid_features(features, attention_mask)
        return BaseModelOutputWithPooling(*self.encode(features, attention_mask, **kwargs))

    def valid_features(self, features: Tensor, attention_mask: Tensor | None) -> Tensor:
        """The features in the tower's dtype, zero where the mask is: padding may hold anything, NaN included."""
        name, width = f"{self.modality}_features", self.input_dim
        if features.dim() != 3 or features.shape[-1] != width or features.shape[1] == 0:
            raise ValueError(
                f"{name} has shape {tuple(features.shape)}, but (batch, time, {width}) is needed with time of at least "
                f"1: give features of the encoder that the model was made for (config.{self.modality}_dim={width})."
            )
        if attention_mask is not None and attention_mask.shape != features.shape[:2]:
            raise ValueError(
                f"{self.modality}_attention_mask has shape {tuple(attention_mask.shape)}, but {name} needs "
                f"{tuple(features.shape[:2])}: one entry per row."
            )
        features = features.to(self.input_dtype())
        return features if attention_mask is None else features.masked_fill(~attention_mask.bool()[..., None], 0)

    def input_dtype(self) -> torch.dtype:
        """The dtype that the tower computes in."""
        weight_and_bias = (self.projection.weight, self.projection.bias)  # a quantised weight is of whole numbers
        return next(one.dtype for one in weight_and_bias if one.is_floating_point())


class ViMLTransformerTower(ViMLTower):
    """Linear projection, then Transformer layers over the segments, then pooling (paper section 3.1)."""

    def __init__(self, config: ViMLConfig, modality: str):
        super().__init__(config, modality)
        size = config.hidden_size
        self.projection = nn.Linear(self.input_dim, size)
        learned = config.position_embedding == "learned"
        self.position_embedding = nn.Embedding(config.max_position_embeddings, size) if learned else None
        self.cls_embedding = nn.Parameter(torch.zeros(size)) if config.pooling == "cls" else None
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList([ViMLEncoderLayer(config, size) for _ in range(config.num_tower_layers(modality))])
        self.post_init()

    def encode(
        self, features: Tensor, attention_mask: Tensor | None, **kwargs: Unpack[TransformersKwargs]
    ) -> tuple[Tensor, Tensor]:
        """All states, and their mean or the CLS vector's."""
        if features.shape[1] > self.config.max_position_embeddings:
            raise ValueError(
                f"{self.modality}_features has {features.shape[1]} rows, but max_position_embeddings="
                f"{self.config.max_position_embeddings}: give shorter windows or a config with more positions."
            )
        hidden_states = self.projection(features)
        hidden_states = hidden_states + self.positions(hidden_states)
        # transformers looks whether a mask is needed; on the meta device there is nothing to see, and no need.
        valid = None if attention_mask is None or attention_mask.is_meta else attention_mask.bool()
        if self.cls_embedding is not None:
            cls_rows = self.cls_embedding.expand(hidden_states.shape[0], 1, -1)
            hidden_states = torch.cat([cls_rows, hidden_states], dim=1)
            valid = None if valid is None else nn.functional.pad(valid, (1, 0), value=True)
        elif valid is not None:
            # A row without any valid segment attends to its first one, or its softmax would be NaN.
            first = torch.arange(valid.shape[1], device=valid.device) == 0
            valid = valid | (first & ~valid.any(1, keepdim=True))
        hidden_states = self.dropout(hidden_states)
        layer_mask = create_bidirectional_mask(self.config, hidden_states, valid)
        for layer in self.layers:
            hidden_states = layer(hidden_states, layer_mask, **kwargs)
        if self.cls_embedding is not None:
            return hidden_states, hidden_states[:, 0]
        return hidden_states, masked_mean(hidden_states, attention_mask)

    def positions(self, hidden_states: Tensor) -> Tensor | float:
        """Position embeddings `(time, hidden_size)` in the dtype of the hidden states."""
        length, size = hidden_states.shape[1:]
        if self.position_embedding is not None:
            return self.position_embedding.weight[:length]
        if self.config.position_embedding == "none":
            return 0.0
        steps = torch.arange(length, device=hidden_states.device, dtype=torch.float32)[:, None]
        half = torch.arange((size + 1) // 2, device=hidden_states.device, dtype=torch.float32)
        angles = steps * torch.exp(half * (-2 * math.log(10000.0) / size))
        return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[:, :size].to(hidden_states.dtype)


class ViMLMlpBlock(GradientCheckpointingLayer):
    """A pre-norm residual block of two linear layers."""

    def __init__(self, config: ViMLConfig):
        super().__init__()
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.activation = ACT2FN[config.hidden_act]
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Map `(..., hidden_size)` to the same shape."""
        transformed = self.fc2(self.dropout(self.activation(self.fc1(self.layer_norm(hidden_states)))))
        return hidden_states + self.dropout(transformed)


class ViMLMlpTower(ViMLTower):
    """Linear projection, then residual MLP blocks on every row by itself, then the mean of the valid rows."""

    _can_record_outputs = {"hidden_states": ViMLMlpBlock}  # noqa: RUF012

    def __init__(self, config: ViMLConfig, modality: str):
        super().__init__(config, modality)
        self.projection = nn.Linear(self.input_dim, config.hidden_size)
        self.layers = nn.ModuleList([ViMLMlpBlock(config) for _ in range(config.num_tower_layers(modality))])
        self.post_init()

    def encode(self, features: Tensor, attention_mask: Tensor | None, **kwargs: object) -> tuple[Tensor, Tensor]:
        """All states, and their mean."""
        hidden_states = self.projection(features)
        for layer in self.layers:
            hidden_states = layer(hidden_states)
        return hidden_states, masked_mean(hidden_states, attention_mask)


class ViMLBatchNorm(nn.BatchNorm1d):
    """Batch norm that uses its running statistics for a single row, such as the null text, in training too."""

    def forward(self, rows: Tensor) -> Tensor:
        """Normalise `(batch, dim)`."""
        if self.training and rows.shape[0] == 1:
            return nn.functional.batch_norm(
                rows, self.running_mean, self.running_var, self.weight, self.bias, training=False, eps=self.eps
            )
        return super().forward(rows)


class ViMLLinearTower(ViMLTower):
    """The tower of Prétet et al.: linear layers with dropout over the mean of the rows, then batch norm.

    The widths halve from `intermediate_size` and end in `hidden_size`: with 2048 and 512 that is 2048 → 1024 → 512
    for three layers and 2048 → 512 for two, as in VM-Net.
    """

    _can_record_outputs: dict = {}  # noqa: RUF012

    def __init__(self, config: ViMLConfig, modality: str):
        super().__init__(config, modality)
        hidden = [config.intermediate_size >> i for i in range(config.num_tower_layers(modality) - 1)]
        widths = [*hidden, config.hidden_size]
        self.projection = nn.Linear(self.input_dim, widths[0])
        self.layers = nn.ModuleList([nn.Linear(*pair) for pair in pairwise(widths)])
        self.dropout = nn.Dropout(config.dropout)
        self.batch_norm = ViMLBatchNorm(config.hidden_size)
        self.post_init()

    def encode(self, features: Tensor, attention_mask: Tensor | None, **kwargs: object) -> tuple[Tensor, Tensor]:
        """The one pooled vector, as the only state too."""
        pooled = masked_mean(features, attention_mask)
        for layer in (self.projection, *self.layers):
            pooled = self.dropout(layer(pooled))
        pooled = self.batch_norm(pooled)
        return pooled[:, None], pooled


TOWERS: dict[str, type[ViMLTower]] = {
    "transformer": ViMLTransformerTower,
    "mlp": ViMLMlpTower,
    "linear": ViMLLinearTower,
}


class ViMLTransformerFusion(ViMLPreTrainedModel):
    """Linear map of the concatenated video and text, then Transformer layers on that one vector (table 4)."""

    def __init__(self, config: ViMLConfig):
        super().__init__(config)
        self.projection = nn.Linear(2 * config.hidden_size, config.projection_dim)
        self.layers = nn.ModuleList(
            [ViMLEncoderLayer(config, config.projection_dim) for _ in range(config.num_fusion_layers)]
        )
        self.post_init()

    @merge_with_config_defaults
    @capture_outputs
    def forward(
        self, video_pooled: Tensor, text_pooled: Tensor, **kwargs: Unpack[TransformersKwargs]
    ) -> BaseModelOutputWithPooling:
        """Map two `(batch, hidden_size)` to `(batch, projection_dim)`."""
        hidden_states = self.projection(torch.cat([video_pooled, text_pooled], dim=-1))[:, None]
        for layer in self.layers:
            hidden_states = layer(hidden_states, None, **kwargs)
        return BaseModelOutputWithPooling(last_hidden_state=hidden_states, pooler_output=hidden_states[:, 0])


class ViMLFeedForwardFusion(nn.Module):
    """Fusion without attention: a linear map, or two with the activation between them (table 4)."""

    def __init__(self, config: ViMLConfig):
        super().__init__()
        size, middle, out = 2 * config.hidden_size, config.intermediate_size, config.projection_dim
        if config.fusion == "linear":
            self.layers = nn.Sequential(nn.Linear(size, out))
        else:
            self.layers = nn.Sequential(nn.Linear(size, middle), ACT2FN[config.hidden_act], nn.Linear(middle, out))

    def forward(self, video_pooled: Tensor, text_pooled: Tensor, **kwargs: object) -> BaseModelOutputWithPooling:
        """Map two `(batch, hidden_size)` to `(batch, projection_dim)`."""
        pooled = self.layers(torch.cat([video_pooled, text_pooled], dim=-1))
        return BaseModelOutputWithPooling(last_hidden_state=pooled[:, None], pooler_output=pooled)


class ViMLAdditionFusion(nn.Module):
    """Fusion by addition (table 4)."""

    def __init__(self, config: ViMLConfig):
        super().__init__()

    def forward(self, video_pooled: Tensor, text_pooled: Tensor, **kwargs: object) -> BaseModelOutputWithPooling:
        """Map two `(batch, hidden_size)` to the same shape."""
        pooled = video_pooled + text_pooled
        return BaseModelOutputWithPooling(last_hidden_state=pooled[:, None], pooler_output=pooled)


FUSIONS: dict[str, type[nn.Module]] = {
    "transformer": ViMLTransformerFusion,
    "mlp": ViMLFeedForwardFusion,
    "linear": ViMLFeedForwardFusion,
    "addition": ViMLAdditionFusion,
}
