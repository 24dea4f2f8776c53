"""The modules that are traced: one side of a model, from a dictionary of tensors to tensors."""

import copy

from torch import Tensor, nn

from viml_hf.modeling.encoder_families import MODALITIES
from viml_hf.modeling.modeling_viml import ViMLModel
from viml_hf.modeling.modeling_viml_retrieval import ViMLForMusicRetrieval

SIDES = {"query": "get_query_features", "audio": "get_audio_features"}
OF_OTHER_SIDE = {
    "query": ("audio_tower", "audio_projection"),
    "audio": ("video_tower", "text_tower", "fusion", "query_projection"),
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
    """The module without some of its children; the weights are shared, so that nothing of size is copied."""
    part = copy.copy(module)
    part._modules = {**module._modules, **{name: None for name in names if name in module._modules}}
    return part
