"""What is exported of a model: a graph for queries and one for music, each with the module that is traced."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from viml_hf.encoders.media_encoder import MediaEncoder
from viml_hf.export.graph_inputs import GraphInput, Limits, encoder_inputs, heads_inputs, random_mask
from viml_hf.modeling.encoder_families import MODALITIES
from viml_hf.modeling.modeling_viml import ViMLModel
from viml_hf.modeling.modeling_viml_retrieval import ViMLForMusicRetrieval

# Sizes of the traced example: all different, so that no two dimensions are taken for one.
TRACED = {"batch": 3, "tracks": 3, "segments": 4, "texts": 2, "frames": 5, "length": 7, "windows": 2, "time": 11}
SIDES = {"query": "get_query_features", "audio": "get_audio_features"}
OF_OTHER_SIDE = {
    "query": ("audio_tower", "audio_projection", "text_audio_tower", "text_audio_projection"),
    "audio": ("video_tower", "text_tower", "fusion", "query_projection", "text_projection"),
}


class HeadsGraph(nn.Module):
    """One side of the heads, as a module of its own: base features → embedding."""

    features: tuple[str, ...] = ()  # names of the base features that come out beside the embedding
    encoder_types: tuple[str, ...] = ()  # what is inside beside the heads

    def __init__(self, viml: ViMLModel, side: str):
        super().__init__()
        self.viml = _without(viml, *OF_OTHER_SIDE[side])
        self.config = viml.config
        self.side = side

    def base_features(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """What the heads read, by the names of their own arguments."""
        return inputs

    def embed(self, base_features: dict[str, Tensor]) -> Tensor:
        """The embedding `(batch, width)` of base features."""
        return getattr(self.viml, SIDES[self.side])(**base_features).pooler_output

    def forward(self, inputs: dict[str, Tensor]) -> tuple[Tensor, ...]:
        """Map inputs by name to the embedding, and to the base features where encoders are inside."""
        rows = self.base_features(inputs)
        return self.embed(rows), *(rows[name] for name in self.features)


class WholeGraph(HeadsGraph):
    """One side of a whole model: what the processor makes → embedding and base features."""

    def __init__(self, model: ViMLForMusicRetrieval, side: str, modalities: list[str]):
        super().__init__(model.viml, side)
        self.encoders = _without(model, "viml", *(f"{name}_encoder" for name in MODALITIES if name not in modalities))
        self.features = tuple(f"{name}_features" for name in modalities)
        self.encoder_types = tuple(model.encoders[name].config.model_type for name in modalities)

    def base_features(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The base features as a store holds them, rounded to float16, with their masks."""
        rows = {}
        for name, method, given in (
            ("video", "get_video_base_features", ("pixel_values", "frame_attention_mask")),
            ("text", "get_text_base_features", ("input_ids", "text_attention_mask")),
            ("audio", "get_audio_base_features", tuple(inputs)),
        ):
            if f"{name}_features" in self.features:
                found = getattr(self.encoders, method)(**{one: inputs[one] for one in given})
                rows[f"{name}_features"], rows[f"{name}_attention_mask"] = found
        return rows


def _without(module: nn.Module, *names: str) -> nn.Module:
    """The module without some of its children; the weights are shared, not copied."""
    part = copy.copy(module)
    part._modules = {**module._modules, **{name: None for name in names if name in module._modules}}
    return part


@dataclass(frozen=True)
class Graph:
    """One side of a model, ready to be traced."""

    name: str  # "query" or "audio"; also the name of its file
    module: HeadsGraph
    inputs: tuple[GraphInput, ...]
    limits: Limits

    @property
    def traced(self) -> dict[str, int]:
        """Size of every free dimension in the example that is traced."""
        sizes = {}
        for name, (least, most) in self.limits.items():
            size = max(least + 3, TRACED[name]) if least > 1 else TRACED[name]
            sizes[name] = size if most is None else min(size, most)
        return sizes

    @property
    def outputs(self) -> dict[str, tuple[str | int, ...]]:
        """Shape of every output by its name: the embedding, then the base features where encoders are inside."""
        batch, config = self.inputs[0].shape[0], self.module.config
        shapes: dict[str, tuple[str | int, ...]] = {"embeds": (batch, config.projection_dim)}
        for name in self.module.features:
            modality = name.removesuffix("_features")
            shapes[name] = (batch, 1 if modality == "text" else "segments", config.base_feature_dim(modality))
        return shapes

    def sample(self, sizes: Mapping[str, int], seed: int, masks: Mapping[str, str] | None = None) -> dict[str, Tensor]:
        """Random inputs, NaN in features that are masked out; `masks` holds a kind of `random_mask` per modality."""
        generator = torch.Generator().manual_seed(seed)
        made: dict[str, Tensor] = {}
        for given in self.inputs:
            shape = tuple(size if isinstance(size, int) else sizes[size] for size in given.shape)
            if given.fill is None:
                kind = (masks or {}).get(given.modality, "all")
                made[given.name] = random_mask(generator, shape, kind, gaps=given.gaps)
            else:
                made[given.name] = given.fill(generator, shape)
        for given in self.inputs:
            if given.mask is not None:
                made[given.name] = made[given.name].masked_fill(~made[given.mask].bool()[..., None], float("nan"))
        return made


def heads_graphs(viml: ViMLModel) -> list[Graph]:
    """The heads alone: from base features to embeddings."""
    config, graphs = viml.eval().config, []
    for side in SIDES:
        inputs = [given for modality in _modalities(config, side) for given in heads_inputs(config, modality)]
        graphs.append(_graph(side, HeadsGraph(viml, side), inputs, {}))
    return graphs


def whole_graphs(encoder: MediaEncoder) -> list[Graph]:
    """Heads and base encoders: from what [`ViMLProcessor`] makes to embeddings."""
    model, graphs = encoder.model.eval(), []
    for side in SIDES:
        modalities = _modalities(model.config.viml_config, side)
        inputs: list[GraphInput] = []
        limits: Limits = {}
        for modality in modalities:
            own_inputs, own_limits = encoder_inputs(encoder, modality)
            inputs += own_inputs
            limits |= own_limits
        graphs.append(_graph(side, WholeGraph(model, side, modalities), inputs, limits))
    return graphs


def _graph(side: str, module: HeadsGraph, inputs: list[GraphInput], limits: Limits) -> Graph:
    used = {size for given in inputs for size in given.shape if isinstance(size, str)}
    longest = module.config.max_position_embeddings if module.config.encoder == "transformer" else None
    known: Limits = {"segments": (1, longest), "texts": (1, longest), **limits}
    return Graph(side, module, tuple(inputs), {name: known.get(name, (1, None)) for name in TRACED if name in used})


def _modalities(config: Any, side: str) -> list[str]:
    return ["audio"] if side == "audio" else [name for name in ("video", "text") if name in config.query_modalities]
