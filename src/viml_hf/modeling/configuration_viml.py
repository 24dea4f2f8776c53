"""Configuration of ViML: the tri-modal model, and the same with its frozen base encoders.

Annotations stay real classes here (no `from __future__ import annotations`): transformers reads them.
"""

from dataclasses import field
from typing import Any, ClassVar, Literal

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig
from transformers.configuration_utils import PreTrainedConfig, SubConfigSpec

from .configuration_deepsim import DeepSimConfig
from .configuration_descriptors import (
    DESCRIPTOR_CONFIGS,
    ViMLAudioDescriptorsConfig,
    ViMLTextDescriptorsConfig,
    ViMLVideoDescriptorsConfig,
)
from .configuration_pe_av import PE_AV_CONFIGS
from .configuration_sentence_transformer import SENTENCE_TRANSFORMER_CONFIGS

JOINT_ENCODERS = ("identity", "residual")
# No network comes near it: a damaged number of layers is told before layers are made for ever.
MAX_LAYERS = 1000
# Trainer would otherwise hand `compute_metrics` the logits of each batch, and with them a recall among the batch only.
NOT_FOR_METRICS = [
    "logits_per_query",
    "logits_per_audio",
    "hidden_states",
    "attentions",
    "video_model_output",
    "text_model_output",
    "audio_model_output",
]


@strict
class ViMLConfig(PreTrainedConfig):
    r"""Configuration of [`ViMLModel`]: one family of retrieval models, chosen by its fields (paper section 3).

    The baselines are the same class: MVPt+ is `query_modalities=["video"]`, MT is `["text"]`, and Prétet et al. is
    `encoder="linear"` with `loss="triplet"`.

    Args:
        video_dim: Width of the video base features (512 for CLIP ViT-B/32).
        audio_dim: Width of the music base features (256 for DeepSim).
        text_dim: Width of the text base features (512 for CLIP ViT-B/32).
        hidden_size: Width inside the towers.
        projection_dim: Width of the embeddings. `fusion="addition"` and `"late"` need it equal to `hidden_size`;
            with `"concatenation"` each part has half of it.
        encoder: What a tower is: `"transformer"`, `"mlp"` (residual blocks, row by row) or `"linear"` (the linear
            stack of Prétet et al. over the mean of the rows). The paper uses Transformers. Two are for encoders of one
            joint space, whose widths are all equal: `"identity"` (the mean of the rows: a model without training) and
            `"residual"` (the same and residual blocks, which begin as nothing).
        num_hidden_layers: Layers per tower. The paper states 2 for the text tower and leaves the others open.
        audio_num_hidden_layers: Layers of the audio tower; `None` means `num_hidden_layers`.
        num_attention_heads: Attention heads (open in the paper; 8 as in the nearest published recipe).
        intermediate_size: Width of the feed-forward part (2048: pinned by the paper's parameter counts).
        hidden_act: Activation of the feed-forward part.
        dropout: Dropout of the residual branches.
        attention_dropout: Dropout of the attention weights.
        layer_norm_eps: Epsilon of the layer norms.
        position_embedding: `"learned"`, `"sinusoidal"` or `"none"` (open in the paper).
        max_position_embeddings: Longest sequence of 10 s segments.
        pooling: `"mean"` over the valid rows, or `"cls"` (open in the paper).
        query_modalities: What a query is made of: `["video", "text"]`, `["video"]` or `["text"]`.
        fusion: How the pooled video and text become one query: `"transformer"`, `"mlp"`, `"linear"`, `"addition"`
            (paper table 4); `"concatenation"`: query and music have a part for the video and one for the text, each
            with towers and a loss of its own, and without text the ranking is that of the model without a text part;
            or `"late"`: the sum of the two, each of length 1, which no training made.
        num_fusion_layers: Layers of the `"transformer"` fusion: 1 or 2 in table 4.
        ensemble_size: Independent towers of each kind. Each has a part of the embeddings and a loss of its own, so that
            a cosine is the mean of theirs; `projection_dim` is `hidden_size` times their number, and with
            `"concatenation"` twice that.
        text_weight: Weight of the text's cosine beside that of the video, with `"concatenation"` and `"late"`.
        loss: `"info_nce"` (paper equation 2, a sum over both directions) or `"triplet"` (Prétet et al.).
        temperature: Temperature of InfoNCE, 0.03 in the paper.
        learned_temperature: Learn the temperature, kept in [0.005, 1].
        triplet_margin: Margin on the cosine.
        triplet_num_hardest: Hinges averaged per anchor: those of its hardest negatives.
        triplet_audio_to_query_weight: Weight of the direction music → query.
        triplet_query_to_audio_weight: Weight of the direction query → music.
        triplet_structure_weight: Weight of the intra-modal structure term, once per modality.
        textless_loss_weight: Weight of the loss of the same queries without their text, beside that of the queries with
            it: each step then trains both, where text dropout draws one of them. 0 in the paper.
        null_text: What an absent text is: `"stored"` (the base feature of the empty string, a buffer of the model) or
            `"zero"`. The paper finds both about as good.
        initializer_range: Standard deviation of the CLS vectors and learned positions at the start.
        query_bank_size: Training queries that the model keeps, of each kind, to correct similarities for hubs; 0 for
            none. `ViMLModel.set_query_bank` sets it.

    Example:
        >>> from viml_hf import ViMLConfig, ViMLModel
        >>> model = ViMLModel(ViMLConfig(fusion="linear"))
        >>> sum(p.numel() for p in model.fusion.parameters())
        131328
    """

    model_type = "viml"
    base_config_key = "viml_config"
    keys_to_ignore_at_inference: ClassVar[list[str]] = NOT_FOR_METRICS

    video_dim: int = 512
    audio_dim: int = 256
    text_dim: int = 512
    hidden_size: int = 256
    projection_dim: int = 256
    encoder: Literal["transformer", "mlp", "linear", "identity", "residual"] = "transformer"
    num_hidden_layers: int = 2
    audio_num_hidden_layers: int | None = None
    num_attention_heads: int = 8
    intermediate_size: int = 2048
    hidden_act: str = "relu"
    dropout: float | int = 0.1
    attention_dropout: float | int = 0.0
    layer_norm_eps: float | int = 1e-5
    position_embedding: Literal["learned", "sinusoidal", "none"] = "learned"
    max_position_embeddings: int = 512
    pooling: Literal["mean", "cls"] = "mean"
    query_modalities: list[Literal["video", "text"]] = field(default_factory=lambda: ["video", "text"])
    fusion: Literal["transformer", "mlp", "linear", "addition", "concatenation", "late"] = "transformer"
    num_fusion_layers: int = 2
    ensemble_size: int = 1
    text_weight: float | int = 0.5
    loss: Literal["info_nce", "triplet"] = "info_nce"
    temperature: float | int = 0.03
    learned_temperature: bool = False
    triplet_margin: float | int = 0.1
    triplet_num_hardest: int = 100
    triplet_audio_to_query_weight: float | int = 3.0
    triplet_query_to_audio_weight: float | int = 1.0
    triplet_structure_weight: float | int = 0.2
    textless_loss_weight: float | int = 0.0
    null_text: Literal["stored", "zero"] = "stored"
    initializer_range: float | int = 0.02
    query_bank_size: int = 0

    def base_feature_dim(self, modality: str) -> int:
        """Width of the base features of `"video"`, `"text"` or `"audio"`."""
        return {"video": self.video_dim, "text": self.text_dim, "audio": self.audio_dim}[modality]

    @property
    def has_parts(self) -> bool:
        """Whether embeddings have a part for the video and one for the text."""
        return self.fusion == "concatenation" and len(self.query_modalities) == 2

    @property
    def part_dim(self) -> int:
        """Width of a part of the embeddings: all of them where they have no parts."""
        return self.projection_dim // 2 if self.has_parts else self.projection_dim

    @property
    def num_parts(self) -> int:
        """How many pairs of towers have a part of the embeddings, and a loss, of their own."""
        return (2 if self.has_parts else 1) * self.ensemble_size

    def check_query_modality(self, modality: str) -> None:
        """Refuse a modality that this model's queries are not made of, with a `ValueError`."""
        if modality not in self.query_modalities:
            raise ValueError(f"No {modality} is part of these queries: query_modalities={self.query_modalities}.")

    def num_tower_layers(self, modality: str) -> int:
        """Number of layers of the tower of `"video"`, `"text"` or `"audio"`."""
        if modality == "audio" and self.audio_num_hidden_layers is not None:
            return self.audio_num_hidden_layers
        return self.num_hidden_layers

    def __post_init__(self, **kwargs: Any) -> None:
        """Forget where a folder has code: see `_without_pointers`. Towers in a joint space keep its width."""
        if self.encoder in JOINT_ENCODERS and self.hidden_size == self.projection_dim == type(self).hidden_size:
            self.hidden_size = self.projection_dim = self.audio_dim
        super().__post_init__(**_without_pointers(kwargs))

    def validate_query_modalities(self) -> None:
        """Refuse queries made of nothing, or of the same modality twice."""
        if not self.query_modalities or len(set(self.query_modalities)) != len(self.query_modalities):
            raise ValueError(
                f'query_modalities={self.query_modalities}: give ["video", "text"], ["video"] or ["text"], each once.'
            )

    def validate_textless_loss_weight(self) -> None:
        """Refuse a weight that would unlearn, and one that has no effect."""
        if self.textless_loss_weight < 0:
            raise ValueError(f"textless_loss_weight={self.textless_loss_weight}: give 0 or more.")
        if self.textless_loss_weight and self.has_parts:
            raise ValueError(
                f'textless_loss_weight={self.textless_loss_weight} has no effect with fusion="concatenation", whose '
                "parts have a loss each: set it to 0."
            )

    def validate_ensemble_size(self) -> None:
        """Refuse ensembles whose towers would not be independent, and widths that do not fit them."""
        if self.ensemble_size < 1:
            raise ValueError(f"ensemble_size={self.ensemble_size}: give a whole number of at least 1.")
        if self.ensemble_size == 1:
            return
        if self.encoder in JOINT_ENCODERS or (len(self.query_modalities) == 2 and not self.has_parts):
            raise ValueError(
                f'ensemble_size={self.ensemble_size} needs queries of one modality or fusion="concatenation", and '
                f"trained towers: with encoder={self.encoder!r} and fusion={self.fusion!r} give 1."
            )
        if self.projection_dim != self.num_parts * self.hidden_size:
            raise ValueError(
                f"ensemble_size={self.ensemble_size} with hidden_size={self.hidden_size} needs projection_dim="
                f"{self.num_parts * self.hidden_size}, not {self.projection_dim}: the towers' outputs are joined."
            )

    def validate_text_weight(self) -> None:
        """Refuse a weight that would turn the text's meaning around, or leave nothing of it."""
        if not 0 < self.text_weight < float("inf"):
            raise ValueError(f"text_weight={self.text_weight}: give a number above 0, such as 0.5.")

    def validate_query_bank_size(self) -> None:
        """Refuse a bank of less than nothing."""
        if self.query_bank_size < 0:
            raise ValueError(f"query_bank_size={self.query_bank_size}: give 0 for none, or a number of queries.")

    def validate_widths(self) -> None:
        """Refuse widths that cannot be combined."""
        sizes = ("video_dim", "audio_dim", "text_dim", "hidden_size", "projection_dim", "intermediate_size")
        counts = ("num_hidden_layers", "audio_num_hidden_layers", "num_fusion_layers", "max_position_embeddings")
        for name in (*sizes, *counts, "triplet_num_hardest"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: give a whole number of at least 1.")
            if name.endswith("layers"):
                _refuse_too_deep(name, getattr(self, name))
        deepest = max(self.num_hidden_layers, self.audio_num_hidden_layers or 0)
        if self.encoder == "linear" and self.intermediate_size >> max(0, deepest - 2) < 1:
            raise ValueError(
                f"intermediate_size={self.intermediate_size} cannot be halved for {deepest} layers: give a larger one, "
                "2048 as in VM-Net, or fewer layers."
            )
        used = {f"{one}_dim": self.base_feature_dim(one) for one in ("audio", *self.query_modalities)}
        widths = used | {"hidden_size": self.hidden_size, "projection_dim": self.projection_dim}
        if self.encoder in JOINT_ENCODERS and len(set(widths.values())) > 1:
            raise ValueError(
                f"encoder={self.encoder!r} is for features of one joint space, but "
                f"{', '.join(f'{name}={width}' for name, width in widths.items())}: give equal widths, of encoders of "
                "one space, or another encoder."
            )
        heads = self.num_attention_heads
        if heads < 1:
            raise ValueError(f"num_attention_heads={heads}: give a whole number of at least 1.")
        if self.encoder == "transformer" and self.hidden_size % heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} is not a multiple of num_attention_heads={heads}: change one of them."
            )
        if len(self.query_modalities) < 2:
            return
        if self.fusion == "concatenation" and self.projection_dim % 2:
            raise ValueError(
                f'fusion="concatenation" needs an even projection_dim, not {self.projection_dim}: half of it is for '
                "the video, half for the text."
            )
        if self.fusion in ("addition", "late") and self.hidden_size != self.projection_dim:
            raise ValueError(
                f'fusion="{self.fusion}" needs hidden_size={self.hidden_size} equal to projection_dim='
                f"{self.projection_dim}: make them equal or take another fusion."
            )
        if self.fusion == "transformer" and self.projection_dim % heads:
            raise ValueError(
                f"projection_dim={self.projection_dim} is not a multiple of num_attention_heads={heads}: change one."
            )

    def validate_pooling(self) -> None:
        """Refuse a CLS vector in encoders whose rows do not see each other."""
        if self.pooling == "cls" and self.encoder != "transformer":
            raise ValueError(f'pooling="cls" needs encoder="transformer", not {self.encoder!r}: use pooling="mean".')

    def validate_temperature(self) -> None:
        """Refuse temperatures outside [0.005, 1], the range that a learned one is kept in."""
        if not 0.005 <= self.temperature <= 1:
            raise ValueError(f"temperature={self.temperature}: give a value in [0.005, 1], 0.03 as in the paper.")

    def validate_probabilities(self) -> None:
        """Refuse dropout rates outside [0, 1)."""
        for name in ("dropout", "attention_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: give a rate in [0, 1).")


@strict
class ViMLForMusicRetrievalConfig(PreTrainedConfig):
    r"""Configuration of [`ViMLForMusicRetrieval`]: a [`ViMLConfig`] and the configs of three frozen base encoders.

    Args:
        viml_config: The heads. Its base-feature widths must be those of the encoders.
        video_encoder_config: Config of the video encoder: a CLIP or another vision tower, or the descriptors.
        text_encoder_config: Config of the text encoder: a CLIP or other text model, or the descriptors.
        audio_encoder_config: Config of the audio encoder: AST, CLAP or any audio model, or the descriptors.
        freeze_encoders: Whether the encoders are frozen when a model is made or loaded: no gradient, always in
            evaluation mode. What is unfrozen later is not written here: a model that is loaded again is frozen again.
        encoder_dtypes: `"float32"` or `"bfloat16"` per modality (`video`, `text`, `audio`) of the encoders' weights.
            The features depend on it, so it is kept.
        encoder_sources: Where each modality's encoder came from: its `name`, and where known its `revision` on the Hub,
            its `licence` and the text encoder's `prompt`, which [`ViMLProcessor`] holds. Information only.
        null_text_tokens: Tokens of the empty string, of which a trained text encoder makes the null text.

    Example:
        >>> from viml_hf import ViMLForMusicRetrievalConfig
        >>> config = ViMLForMusicRetrievalConfig()
        >>> config.video_encoder_config.model_type
        'viml_video_descriptors'
    """

    model_type = "viml_music_retrieval"
    keys_to_ignore_at_inference: ClassVar[list[str]] = NOT_FOR_METRICS
    sub_configs_defaults = {  # noqa: RUF012 (transformers' own way to declare sub-configs)
        "viml_config": SubConfigSpec(ViMLConfig),
        "video_encoder_config": SubConfigSpec(ViMLVideoDescriptorsConfig),
        "text_encoder_config": SubConfigSpec(ViMLTextDescriptorsConfig),
        "audio_encoder_config": SubConfigSpec(ViMLAudioDescriptorsConfig),
    }

    viml_config: dict | PreTrainedConfig | None = None
    video_encoder_config: dict | PreTrainedConfig | None = None
    text_encoder_config: dict | PreTrainedConfig | None = None
    audio_encoder_config: dict | PreTrainedConfig | None = None
    freeze_encoders: bool = True
    encoder_dtypes: dict | None = None
    encoder_sources: dict | None = None
    null_text_tokens: list[int] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Turn the encoders' dicts into the config classes that their `model_type` names."""
        for name in ("video_encoder_config", "text_encoder_config", "audio_encoder_config"):
            value = getattr(self, name)
            if isinstance(value, dict):
                setattr(self, name, _encoder_config(name, value))
        if self.viml_config is None:
            self.viml_config = ViMLConfig(
                video_dim=ViMLVideoDescriptorsConfig().projection_dim,
                text_dim=ViMLTextDescriptorsConfig().projection_dim,
                audio_dim=ViMLAudioDescriptorsConfig().projection_dim,
            )
        super().__post_init__(**_without_pointers(kwargs))

    def validate_depths(self) -> None:
        """Refuse encoders of more layers than any has."""
        for name in ("video_encoder_config", "text_encoder_config", "audio_encoder_config"):
            _refuse_too_deep(f"{name}.num_hidden_layers", getattr(getattr(self, name), "num_hidden_layers", None))

    @property
    def hidden_size(self) -> int:
        """The heads' width, which libraries ask any model's config for."""
        return self.viml_config.hidden_size  # type: ignore[union-attr]

    def validate_encoder_dtypes(self) -> None:
        """Refuse what names no modality or no dtype."""
        for modality, dtype in (self.encoder_dtypes or {}).items():
            if modality not in ("video", "text", "audio") or dtype not in ("float32", "bfloat16"):
                raise ValueError(
                    f"encoder_dtypes has {modality}={dtype!r}: give float32 or bfloat16 for video, text and audio."
                )

    def validate_encoder_sources(self) -> None:
        """Refuse what is no table of texts by modality."""
        for modality, source in (self.encoder_sources or {}).items():
            values = source.values() if isinstance(source, dict) else [source]
            if not all(isinstance(value, str | None) for value in values):
                raise ValueError(f"encoder_sources has {modality}={source!r}: give a dict of texts, or None.")


def _refuse_too_deep(name: str, layers: Any) -> None:
    if isinstance(layers, int) and layers > MAX_LAYERS:
        raise ValueError(f"{name}={layers}: give a whole number of at most {MAX_LAYERS}.")


def _without_pointers(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings without those that point to the code in a folder, unless this is that code.

    Where the package is, its classes are registered: `pipeline` would not look at them, and a model saved again would
    point to code that is not saved with it.
    """
    if __name__.startswith("transformers_modules."):
        return settings
    return {name: value for name, value in settings.items() if name not in ("auto_map", "custom_pipelines")}


def _encoder_config(name: str, value: dict) -> PreTrainedConfig:
    """The config object of one encoder. Our own are known here, so that remote code needs no registration."""
    kwargs = dict(value)
    model_type = kwargs.pop("model_type", None)
    if model_type is None:
        raise ValueError(f"{name} has no model_type: give the dict of a transformers config, or the config itself.")
    own_configs: dict[str, Any] = {**DESCRIPTOR_CONFIGS, **PE_AV_CONFIGS, **SENTENCE_TRANSFORMER_CONFIGS}
    own_configs[DeepSimConfig.model_type] = DeepSimConfig
    if model_type in own_configs:
        return own_configs[model_type](**kwargs)
    return AutoConfig.for_model(model_type, **kwargs)
