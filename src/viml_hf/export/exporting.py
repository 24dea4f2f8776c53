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
from viml_hf.export.checks import TOLERANCE, Checked, check
from viml_hf.export.formats import OPSET, READERS, SUFFIXES, WRITERS, check_onnx, trace
from viml_hf.export.graphs import Graph
from viml_hf.export.notes import graph_notes, preparation_notes
from viml_hf.export.sides import heads_graphs, whole_graphs
from viml_hf.modeling.modeling_descriptors import ViMLVideoDescriptors
from viml_hf.modeling.modeling_viml import ViMLModel
from viml_hf.retrieval.model_loading import fingerprint, heads_fingerprint

EXPORT_FILE = "export.json"
PROCESSOR_FOLDER = "processor"
SCHEMA_VERSION = 1
PARTS = ("heads", "whole")


def export_model(
    model: ViMLModel | MediaEncoder, output: str | Path, *, format: str = "onnx", part: str = "heads"
) -> dict[str, Any]:
    """Write the query and the music side of a model as graphs, with `export.json`, which says how to use them.

    Every file is read back and compared with the model on inputs of other shapes than the traced ones. The folder
    appears when all is well, or not at all. The same model gives the same graphs under the same versions.

    Args:
        model: The heads alone, or heads with their encoders and processor; it is set to evaluation mode.
        output: A new folder.
        format: `"onnx"` (for onnxruntime and others) or `"torch"` (a `.pt2` archive of `torch.export`).
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
    """Refuse what could not be written, before anything is computed for it.

    Raises:
        ViMLError: The folder is not empty or is a file, or a package for the format is missing.

    Example:
        >>> check_output("no-such-folder", "torch").name
        'no-such-folder'
    """
    target = Path(output)
    if target.is_file() or (target.is_dir() and any(target.iterdir())):
        kind = "a file" if target.is_file() else "not empty"
        raise ViMLError(f"{output}: it is {kind}; name a new folder with -o, or remove what is there")
    if format == "onnx":
        check_onnx()
    return target


def _refuse_video_descriptors(encoder: MediaEncoder) -> None:
    """They count the hues of pixels in bins, and pure colours lie on borders, which another arctangent crosses."""
    takes = encoder.model.viml.config.query_modalities
    if "video" in takes and isinstance(encoder.model.video_encoder, ViMLVideoDescriptors):
        raise ViMLError(
            "The video descriptors count the hues of pixels, and the arctangent of onnxruntime has other last bits, so "
            "that counts differ: export the heads alone with --part heads, or give --format torch"
        )


def _write(graph: Graph, path: Path, format: str) -> Checked:
    """Trace, write, read back and compare."""
    try:
        WRITERS[format](graph, trace(graph), path)
        return check(graph, READERS[format](path), path.name)
    except ViMLError:
        raise
    except Exception as error:  # whatever PyTorch, onnxscript or onnxruntime cannot do; they share no class of errors
        inside = graph.module.encoder_types
        if inside:
            what = f"The {graph.name} side with its encoders ({', '.join(inside)})"
            fix = "export the heads alone with --part heads, or try the other --format"
        else:
            what, fix = f"The {graph.name} side", "try the other --format"
        raise ViMLError(f"{what} cannot be exported as {format} ({_reason(error)}): {fix}") from error


def _reason(error: BaseException) -> str:
    """The first cause of an error, without the advice on reporting it that others wrap it in."""
    while error.__cause__ is not None:
        error = error.__cause__
    line = in_one_line(error) if isinstance(error, Exception) else type(error).__name__
    return line if len(line) <= 200 else f"{line[:200]}…"


def _description(model: ViMLModel | MediaEncoder, format: str, part: str) -> dict[str, Any]:
    """The fields of `export.json` that hold for both graphs."""
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
        **preparation_notes(model, format, part),
        "graphs": {},
    }
