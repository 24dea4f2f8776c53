"""A model → a folder of graphs that run without this package, each checked against the model before it is kept."""

import json
import os
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from viml_hf.encoders.media_encoder import MediaEncoder
from viml_hf.errors import ViMLError, in_one_line
from viml_hf.export.checks import TOLERANCE, check
from viml_hf.export.formats import OPSET, READERS, SUFFIXES, WRITERS, check_onnx, trace
from viml_hf.export.graphs import Graph, heads_graphs, whole_graphs
from viml_hf.features.checksums import sha256_of
from viml_hf.modeling.clip_windows import CLIP_SEGMENTS
from viml_hf.modeling.modeling_descriptors import ViMLVideoDescriptors
from viml_hf.modeling.modeling_viml import ViMLModel
from viml_hf.processing.frame_sampling import FRAMES_PER_SECOND
from viml_hf.processing.segments import SEGMENT_SECONDS
from viml_hf.retrieval.model_loading import fingerprint, heads_fingerprint

EXPORT_FILE = "export.json"
PROCESSOR_FOLDER = "processor"
SCHEMA_VERSION = 1
PARTS = ("heads", "whole")
RUNNING = {
    "onnx": "onnxruntime.InferenceSession(file).run(None, {name: array, …})",
    "torch": "torch.export.load(file).module()({name: tensor, …}), with all inputs in the order given here",
}
EMBEDS = "the embedding, L2-normalised: the score of a query and a track is the sum of their products, in [-1, 1]"
BASE_FEATURES = "base features, rounded to float16 as in a store, zero where nothing exists"


def export_model(
    model: ViMLModel | MediaEncoder, output: str | Path, *, format: str = "onnx", part: str = "heads"
) -> dict[str, Any]:
    """Write the query and the music side of a model as graphs, with `export.json`, which says how to use them.

    Every file is read back and compared with the model on inputs of other shapes than the traced ones. The folder
    appears when all is well, or not at all. The same model gives the same graphs under the same versions.

    Args:
        model: The heads alone, or heads with their encoders and processor; it is set to evaluation mode.
        output: A new folder.
        format: `"onnx"` (for onnxruntime and others) or `"torch"` (a `.pt2` archive of `torch.export`, whose `load`
            would read a pickle too: these archives hold none, but load no others than those of people you trust).
        part: `"heads"`: from base features to embeddings; `"whole"`: from what [`ViMLProcessor`] makes, which is
            saved beside the graphs.

    Returns:
        What `export.json` holds.

    Raises:
        ViMLError: The folder is not empty, a package is missing, the part cannot be exported in this format, or a
            written graph computes something else than the model.

    Example:
        >>> import tempfile
        >>> from viml_hf import ViMLConfig
        >>> heads = ViMLModel(ViMLConfig(encoder="linear", fusion="addition", query_modalities=["text"]))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     written = export_model(heads, f"{folder}/export", format="torch")
        ...     files = sorted(path.name for path in Path(folder, "export").iterdir())
        >>> files, written["graphs"]["audio"]["outputs"][0]["shape"]
        (['audio.pt2', 'export.json', 'query.pt2'], ['tracks', 256])
    """
    if format not in WRITERS or part not in PARTS:
        raise ViMLError(f"format={format!r}, part={part!r}: give one of {list(WRITERS)} and one of {list(PARTS)}")
    target = check_output(output, format)
    if isinstance(model, MediaEncoder):
        if format == "onnx" and part == "whole":
            _refuse_video_descriptors(model)
        graphs = whole_graphs(model) if part == "whole" else heads_graphs(model.model.viml)
    elif part == "whole":
        raise ViMLError("The model holds no encoders, so that its heads are all there is: give --part heads")
    else:
        graphs = heads_graphs(model)
    target.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".viml-export-", dir=target.parent) as temporary:
        folder = Path(temporary) / "export"
        folder.mkdir()
        description = _description(model, format, part)
        for graph in graphs:
            path = folder / f"{graph.name}{SUFFIXES[format]}"
            checked = _write(graph, path, format)
            description["graphs"][graph.name] = graph_notes(graph, path, checked)
        if isinstance(model, MediaEncoder) and part == "whole":
            model.processor.save_pretrained(folder / PROCESSOR_FOLDER)
        (folder / EXPORT_FILE).write_text(json.dumps(description, indent=1, ensure_ascii=False) + "\n", "utf-8")
        if target.is_dir():
            target.rmdir()  # empty, as was seen
        os.replace(folder, target)
    return description


def check_output(output: str | Path, format: str) -> Path:
    """Refuse a folder that is not new or empty, or a format whose packages are missing, before anything is computed."""
    target = Path(output)
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        kind = "a file" if target.is_file() else "not empty"
        raise ViMLError(f"{output}: it is {kind}; name a new folder with -o, or remove what is there")
    if format == "onnx":
        check_onnx()
    return target


def _refuse_video_descriptors(encoder: MediaEncoder) -> None:
    """Pure colours lie on the borders of their bins of hues, where another arctangent changes the counts."""
    takes = encoder.model.viml.config.query_modalities
    if "video" in takes and isinstance(encoder.model.video_encoder, ViMLVideoDescriptors):
        raise ViMLError(
            "The video descriptors count the hues of pixels, and the arctangent of onnxruntime has other last bits, so "
            "that counts differ: export the heads alone with --part heads, or give --format torch"
        )


def _write(graph: Graph, path: Path, format: str) -> dict[str, float]:
    try:
        WRITERS[format](graph, trace(graph), path)
        return check(graph, READERS[format](path), path.name)
    except ViMLError:
        raise
    except Exception as error:  # whatever PyTorch, onnxscript or onnxruntime cannot do; they share no class of errors
        what, fix = f"The {graph.name} side", "try the other --format"
        if inside := graph.module.encoder_types:
            what += f" with its encoders ({', '.join(inside)})"
            fix = f"export the heads alone with --part heads, or {fix}"
        raise ViMLError(f"{what} cannot be exported as {format} ({_reason(error)}): {fix}") from error


def _reason(error: BaseException) -> str:
    """The first cause of an error, without the advice of the errors that wrap it."""
    while error.__cause__ is not None:
        error = error.__cause__
    line = in_one_line(error) if isinstance(error, Exception) else type(error).__name__
    return line if len(line) <= 200 else f"{line[:200]}…"


def _description(model: ViMLModel | MediaEncoder, format: str, part: str) -> dict[str, Any]:
    viml = model.model.viml if isinstance(model, MediaEncoder) else model
    return {
        "schema_version": SCHEMA_VERSION,
        "format": format,
        "part": part,
        **({"opset": OPSET} if format == "onnx" else {}),
        "written_by": {"viml-hf": version("viml-hf"), "torch": torch.__version__},
        "model": {
            "fingerprint": fingerprint(model) if isinstance(model, MediaEncoder) else heads_fingerprint(viml),
            "query_modalities": viml.config.query_modalities,
        },
        "tolerance": TOLERANCE,
        **_preparation_notes(model, format, part),
        "graphs": {},
    }


def graph_notes(graph: Graph, path: Path, checked: dict[str, float]) -> dict[str, Any]:
    """A graph's entry in `export.json`: files with checksums, inputs, outputs, sizes and how near the model it is."""
    files = [path, *([data] if (data := path.with_name(f"{path.name}.data")).exists() else [])]

    def tensor(name: str, dtype: str, shape: tuple[str | int, ...], meaning: str) -> dict[str, Any]:
        return {"name": name, "dtype": dtype, "shape": list(shape), "meaning": meaning}

    return {
        "files": {file.name: sha256_of(file) for file in files},
        "inputs": [tensor(given.name, given.dtype, given.shape, given.meaning) for given in graph.inputs],
        "outputs": [
            tensor(name, "float32", shape, EMBEDS if name == "embeds" else BASE_FEATURES)
            for name, shape in graph.outputs.items()
        ],
        "free_sizes": {name: {"least": least, "most": most} for name, (least, most) in graph.limits.items()},
        "checked": checked,
    }


def _preparation_notes(model: ViMLModel | MediaEncoder, format: str, part: str) -> dict[str, Any]:
    """How inputs are made and what the masks do, in sentences for `export.json`."""
    viml = model.model.viml if isinstance(model, MediaEncoder) else model
    takes = viml.config.query_modalities
    masks = [
        "1 = exists, 0 = does not; what a mask of 0 hides does not count"
        + (" and may hold anything" if part == "heads" else "; fill it with zeros"),
        "a track whose mask is all 0 has the embedding 0",
    ]
    if len(takes) == 2:
        video_mask = f"{'frame' if part == 'whole' else 'video'}_attention_mask"
        for present, mask in (("video", "text_attention_mask"), ("text", video_mask)):
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
