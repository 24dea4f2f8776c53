"""What `export.json` says: inputs, outputs and sizes of each graph, and how its inputs are made."""

import hashlib
from pathlib import Path
from typing import Any

from viml_hf.encoders.media_encoder import MediaEncoder
from viml_hf.export.checks import Checked
from viml_hf.export.graphs import Graph
from viml_hf.modeling.clip_windows import CLIP_SEGMENTS
from viml_hf.modeling.modeling_viml import ViMLModel
from viml_hf.processing.segments import FRAMES_PER_SECOND, SEGMENT_SECONDS

RUNNING = {
    "onnx": "onnxruntime.InferenceSession(file).run(None, {name: array, …})",
    "torch": "torch.export.load(file).module()({name: tensor, …}), with all inputs in the order given here",
}
EMBEDS = "the embedding, L2-normalised: the score of a query and a track is the sum of their products, in [-1, 1]"
BASE_FEATURES = "base features, rounded to float16 as in a store, zero where nothing exists"


def graph_notes(graph: Graph, path: Path, checked: Checked) -> dict[str, Any]:
    """One graph's entry: its file with a checksum, its inputs, outputs and free sizes, and how near the model it is."""
    files = [path, *([data] if (data := path.with_name(f"{path.name}.data")).exists() else [])]
    inputs: list[dict[str, Any]] = [
        {"name": given.name, "dtype": given.dtype, "shape": list(given.shape), "meaning": given.meaning}
        for given in graph.inputs
    ]
    outputs = [
        {
            "name": name,
            "dtype": "float32",
            "shape": list(shape),
            "meaning": EMBEDS if name == "embeds" else BASE_FEATURES,
        }
        for name, shape in graph.outputs.items()
    ]
    figures: dict[str, Any] = {"cases": checked.cases, "largest_difference": checked.difference}
    if graph.module.features:
        figures |= {"largest_difference_end_to_end": checked.end_to_end, "base_features_rounded_apart": checked.turned}
    return {
        "files": {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files},
        "inputs": inputs,
        "outputs": outputs,
        "free_sizes": {name: {"least": least, "most": most} for name, (least, most) in graph.limits.items()},
        "checked": figures,
    }


def preparation_notes(model: ViMLModel | MediaEncoder, format: str, part: str) -> dict[str, Any]:
    """How inputs are made and what the masks do, in sentences."""
    viml = model.model.viml if isinstance(model, MediaEncoder) else model
    takes = viml.config.query_modalities
    masks = [
        "1 = exists, 0 = does not; what a mask of 0 hides does not count"
        + (" and may hold anything" if part == "heads" else "; fill it with zeros"),
        "a track whose mask is all 0 has the embedding 0",
    ]
    if len(takes) == 2:
        for absent, present in (("text", "video"), ("video", "text")):
            mask = {"text": "text_attention_mask", "video": "video_attention_mask"}[absent]
            mask = "frame_attention_mask" if part == "whole" and absent == "video" else mask
            masks.append(f"a query by {present} alone: {mask} of 0, with a size of its inputs within free_sizes")
    seconds = round(CLIP_SEGMENTS * SEGMENT_SECONDS)
    notes: dict[str, Any] = {
        "running": RUNNING[format],
        "masks": masks,
        "sizes": "free_sizes gives the least and the most (null = any); for less, fill up with zeros",
        "windows": f"a model is trained on {seconds} s, {CLIP_SEGMENTS} segments: embed a longer video in windows of "
        f"{seconds} s one after the other, the last of which ends with the last segment and so may overlap the one "
        "before (5 segments: 0 to 3 and 2 to 5), and normalise their mean; a longer track in windows that begin "
        f"{SEGMENT_SECONDS:g} s apart, of which the best counts",
    }
    if part == "whole":
        notes["preprocessing"] = "ViMLProcessor.from_pretrained('processor') makes all inputs, of the same names"
        return notes
    notes["preprocessing"] = (
        f"base features are those of MediaEncoder or `viml extract`: one row per {SEGMENT_SECONDS:g} s segment, of a "
        f"video the mean over its frames at {FRAMES_PER_SECOND} per second, rounded to float16 and given as float32"
    )
    if isinstance(model, MediaEncoder):
        config = model.model.config
        notes["encoders"] = {
            modality: (config.encoder_sources or {}).get(modality) or {"model_type": encoder.config.model_type}
            for modality, encoder in model.model.encoders.items()
            if modality in ("audio", *takes)
        }
    return notes
