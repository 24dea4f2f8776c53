"""What is exported of a model: one graph for queries and one for music."""

from typing import Any

from viml_hf.encoders.media_encoder import MediaEncoder
from viml_hf.export.encoder_inputs import audio_inputs, text_inputs, video_inputs
from viml_hf.export.graphs import TRACED, Graph, GraphInput, Limits, mask_meaning, random_values
from viml_hf.export.modules import SIDES, HeadsGraph, WholeGraph
from viml_hf.modeling.modeling_viml import ViMLModel


def heads_graphs(viml: ViMLModel) -> list[Graph]:
    """The heads alone: from base features to embeddings.

    Example:
        >>> from viml_hf import ViMLConfig
        >>> [[given.name for given in graph.inputs] for graph in heads_graphs(ViMLModel(ViMLConfig()))]
        ... # doctest: +NORMALIZE_WHITESPACE
        [['video_features', 'video_attention_mask', 'text_features', 'text_attention_mask'],
         ['audio_features', 'audio_attention_mask']]
    """
    config = viml.eval().config
    rows = {
        "video": ("batch", "segments", "one row per 10 s segment of video"),
        "text": ("batch", "texts", "one row per text, as a rule one"),
        "audio": ("tracks", "segments", "one row per 10 s segment of music"),
    }
    graphs = []
    for side in SIDES:
        inputs = []
        for modality in _modalities(config, side):
            batch, time, meaning = rows[modality]
            name, mask = f"{modality}_features", f"{modality}_attention_mask"
            shape = (batch, time, config.base_feature_dim(modality))
            inputs += [
                GraphInput(name, shape, f"base features, {meaning}", random_values, modality, mask, dtype="float32"),
                GraphInput(mask, (batch, time), mask_meaning("the row exists", modality), None, modality),
            ]
        graphs.append(_graph(side, HeadsGraph(viml, side), config, inputs, {}))
    return graphs


def whole_graphs(encoder: MediaEncoder) -> list[Graph]:
    """Heads and base encoders: from what [`ViMLProcessor`] makes to embeddings.

    Raises:
        ViMLError: An encoder's computation depends on more than shapes.
    """
    model = encoder.model.eval()
    config = model.config.viml_config
    makers = {"video": video_inputs, "text": text_inputs, "audio": audio_inputs}
    graphs = []
    for side in SIDES:
        modalities = _modalities(config, side)
        inputs: list[GraphInput] = []
        limits: Limits = {}
        for modality in modalities:
            own_inputs, own_limits = makers[modality](encoder)
            inputs += own_inputs
            limits |= own_limits
        graphs.append(_graph(side, WholeGraph(model, side, modalities), config, inputs, limits))
    return graphs


def _graph(side: str, module: HeadsGraph, config: Any, inputs: list[GraphInput], limits: Limits) -> Graph:
    used = {size for given in inputs for size in given.shape if isinstance(size, str)}
    longest = config.max_position_embeddings if config.encoder == "transformer" else None
    known: Limits = {"segments": (1, longest), "texts": (1, longest), **limits}
    return Graph(
        side,
        module,
        tuple(inputs),
        {name: known.get(name, (1, None)) for name in TRACED if name in used},
    )


def _modalities(config: Any, side: str) -> list[str]:
    return ["audio"] if side == "audio" else [name for name in ("video", "text") if name in config.query_modalities]
