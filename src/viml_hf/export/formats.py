"""The two file formats: a traced graph → bytes on disk, and a file → a function that runs it."""

import io
import logging
import warnings
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from viml_hf.errors import ViMLError
from viml_hf.export.graphs import Graph

OPSET = 18  # what PyTorch's own translation is written in: nothing is converted afterwards
ONE_FILE_BYTES = 1_500_000_000  # an onnx file ends at 2 GB; weights of more lie in a second file beside it
# Fields that say where a node came from: paths of this machine, and line numbers that any edit changes.
_ORIGIN = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn", "from_node", "fwd_source_fn_stack")

Runner = Callable[[Mapping[str, np.ndarray]], list[np.ndarray]]


def check_onnx() -> None:
    """Refuse to write ONNX where a package for it is not installed."""
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ViMLError(
            f"--format onnx needs the packages onnx, onnxscript and onnxruntime ({error}): pip install "
            "'viml-hf[onnx]', or give --format torch"
        ) from error


def trace(graph: Graph) -> ExportedProgram:
    """Trace a graph with free batch and time, by `torch.export`."""
    dims = {name: Dim(name, min=least, max=most) for name, (least, most) in graph.limits.items()}
    shapes = {
        given.name: {axis: dims[size] for axis, size in enumerate(given.shape) if isinstance(size, str)}
        for given in graph.inputs
    }
    with torch.no_grad(), _quiet():
        program = torch.export.export(
            graph.module, (graph.sample(graph.traced, seed=0),), dynamic_shapes={"inputs": shapes}, strict=False
        )
    return program


def write_onnx(graph: Graph, program: ExportedProgram, path: Path) -> None:
    """Write a traced graph as ONNX; the same model gives the same bytes under the same PyTorch and onnxscript."""
    with _quiet():
        onnx_program = torch.onnx.export(
            program,
            (),
            dynamo=True,
            opset_version=OPSET,
            input_names=[given.name for given in graph.inputs],
            verbose=False,
        )
        assert onnx_program is not None
        _forget_origin(onnx_program.model)
        _name_outside(graph, onnx_program.model)
        size = sum(tensor.nbytes for tensor in program.state_dict.values())
        onnx_program.save(path, external_data=size > ONE_FILE_BYTES)


def _forget_origin(model: Any) -> None:
    """Clear the fields that tell of the source code and of the optimiser's steps."""
    graph = model.graph
    nodes = list(graph.all_nodes())
    values = [*graph.inputs, *graph.initializers.values(), *(value for node in nodes for value in node.outputs)]
    for part in (model, graph, *nodes, *values):
        part.metadata_props.clear()
        part.doc_string = None


def _name_outside(graph: Graph, model: Any) -> None:
    """Name the outputs, and the free dimensions, which the trace has numbered."""
    import onnx_ir

    for value, given in zip(model.graph.inputs, graph.inputs, strict=True):
        value.shape = onnx_ir.Shape(given.shape)
    for value, (name, shape) in zip(model.graph.outputs, graph.outputs.items(), strict=True):
        value.name, value.shape = name, onnx_ir.Shape(shape)


def read_onnx(path: Path) -> Runner:
    """A function that runs an ONNX file in onnxruntime on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; its warnings are about graphs that could be faster
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, dict(inputs))


def write_torch(graph: Graph, program: ExportedProgram, path: Path) -> None:
    """Write a traced graph as a `.pt2` archive without pickle; `ViMLError` where this PyTorch writes other archives.

    The archive holds the weights as plain bytes and the graph as JSON. The one thing that `torch.export.save` would
    pickle is the traced example, which loading does not need and which is left out.
    """
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                for name in _ORIGIN:
                    node.meta.pop(name, None)
    program._example_inputs = None  # its public setter takes no None
    with _quiet():
        torch.export.save(program, path)
    pickles = pickled_members(path)
    if pickles:
        raise ViMLError(
            f"PyTorch {torch.__version__} writes pickle into .pt2 archives ({pickles[0]}), which models here do not "
            "hold: install torch 2.9 or later, or give --format onnx"
        )


def pickled_members(path: Path) -> list[str]:
    """Names of the members of a `.pt2` archive that are pickled, are archives of `torch.save`, or list such tensors."""
    found = []
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith("_config.json"):
                pickled = b'"use_pickle": true' in archive.read(name)
            elif Path(name).name.startswith(("weight_", "tensor_")):
                pickled = False  # plain bytes, or else its config says so
            else:
                pickled = archive.open(name).read(4).startswith((b"PK\x03\x04", b"\x80"))
            found += [name] if pickled else []
    return found


def read_torch(path: Path) -> Runner:
    """A function that runs a `.pt2` archive."""
    with _quiet():
        module = torch.export.load(path).module()

    @torch.no_grad()
    def run(inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        tensors: dict[str, Tensor] = {name: torch.from_numpy(values) for name, values in inputs.items()}
        return [output.numpy() for output in module(tensors)]

    return run


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporters' notes on packages that are not needed and nodes that could be simpler."""
    previous = logging.root.manager.disable
    logging.disable(logging.ERROR)  # a failure raises an error, too
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)


WRITERS: dict[str, Callable[[Graph, ExportedProgram, Path], None]] = {"onnx": write_onnx, "torch": write_torch}
READERS: dict[str, Callable[[Path], Runner]] = {"onnx": read_onnx, "torch": read_torch}
SUFFIXES = {"onnx": ".onnx", "torch": ".pt2"}
