"""`viml export`: write a model as graphs for onnxruntime or torch.export, checked against the model."""

import argparse

from viml_hf.cli.shared import MODEL_HELP


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("model", metavar="MODEL", help=MODEL_HELP)
    add("-o", "--output", required=True, metavar="DIR", help="a new folder; export.json explains it")
    add("--format", choices=["onnx", "torch"], default="onnx", help="kind of file (default: onnx)")
    about = "heads: from base features to embeddings; whole: with the encoders (default: heads)"
    add("--part", choices=["heads", "whole"], default="heads", help=about)


def run(options: argparse.Namespace) -> None:
    """Write both sides; nothing is left of an export that fails."""
    from viml_hf.export.exporting import check_output, export_model
    from viml_hf.retrieval.model_loading import load_model

    check_output(options.output, options.format)
    written = export_model(load_model(options.model), options.output, format=options.format, part=options.part)
    for name, graph in written["graphs"].items():
        sizes = ", ".join(f"{given['name']} {given['shape']}".replace("'", "") for given in graph["inputs"])
        print(f"{next(iter(graph['files']))}: {sizes}")
        figures = graph["checked"]
        print(f"  {name}: at most {figures['largest_difference']:.1g} from the model in {figures['cases']} checks")
    print(f"written: {options.output}; its export.json says how to use it")
