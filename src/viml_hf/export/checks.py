"""Runs a written graph beside the model, on inputs of other shapes than the traced ones, and refuses differences."""

from collections.abc import Iterator

import numpy as np
import torch

from viml_hf.errors import ViMLError
from viml_hf.export.formats import Runner
from viml_hf.export.graphs import Graph

TOLERANCE = 1e-5  # of an embedding's numbers, whose length is 1
# Base features are rounded to float16, where a difference in the last bits can turn a number to the next float16. They
# may differ by that step and by this share of the largest number.
FEATURE_TOLERANCE = 2e-5
TURNED_SHARE = 0.1  # of the numbers: where more are turned, the difference was larger than the last bits


def check(graph: Graph, run: Runner, name: str) -> dict[str, float]:
    """Compare a file, which `run` computes, with its model, and refuse differences beyond those of rounding.

    Returns the figures for `export.json`: the number of inputs, and the largest difference of an embedding's numbers
    from the same base features; where encoders are inside also that from base features of each one's own, and the share
    of the base features' numbers that are rounded to another float16.
    """
    differences, distances, turned, numbers = [0.0], [0.0], 0, 0
    cases = list(_cases(graph))
    for seed, (sizes, masks) in enumerate(cases, start=1):
        inputs = graph.sample(sizes, seed, masks)
        found = dict(zip(graph.outputs, run({key: value.numpy() for key, value in inputs.items()}), strict=True))
        with torch.no_grad():
            rows = graph.module.base_features(inputs)
            own = {key: torch.from_numpy(found[key]) for key in graph.module.features}
            expected = graph.module.embed({**rows, **own}).numpy()
            distances.append(_largest_difference(found["embeds"], graph.module.embed(rows).numpy()))
        differences.append(_largest_difference(found["embeds"], expected))
        for key in graph.module.features:
            turned += _turned(found[key], rows[key].numpy(), f"{name}: its {key}")
            numbers += found[key].size
        if not differences[-1] <= TOLERANCE:
            raise ViMLError(
                f"{name}: its embeddings differ from the model's by {differences[-1]:.2g}, and {TOLERANCE:g} is allowed"
                f" (sizes {sizes}): it was not kept; please report it with the versions of torch and onnxruntime"
            )
    if turned > TURNED_SHARE * max(numbers, 1):
        raise ViMLError(
            f"{name}: {turned / numbers:.1%} of its base features are rounded to another float16 than the model's, and "
            f"{TURNED_SHARE:.0%} are allowed: it was not kept; export the heads alone with --part heads"
        )
    figures = {"cases": len(cases), "largest_difference": max(differences)}
    if graph.module.features:
        figures |= {"largest_difference_end_to_end": max(distances), "base_features_rounded_apart": turned / numbers}
    return figures


def _cases(graph: Graph) -> Iterator[tuple[dict[str, int], dict[str, str]]]:
    """Sizes and masks: one and many, all rows, some rows, and one modality alone."""
    for masks, batch, time in [("all", 1, 1), ("some", 1, 12), ("all", 5, 1), ("some", 4, 9), ("none", 2, 2)]:
        yield _sizes(graph, batch, time), dict.fromkeys(("video", "text", "audio"), masks)
    for present in ("video", "text") if graph.name == "query" else ():
        yield _sizes(graph, 2, 5), {"video": "none", "text": "none", present: "all"}


def _sizes(graph: Graph, batch: int, time: int) -> dict[str, int]:
    """Sizes within the limits, `time` counted from the least; parts of a segment are few, since encoders are slow."""
    sizes = {}
    for name, (least, most) in graph.limits.items():
        size = least + (min(time, 3) if name in ("frames", "windows") else time) - 1
        size = batch if name in ("batch", "tracks") else size
        sizes[name] = size if most is None else min(size, most)
    return sizes


def _largest_difference(found: np.ndarray, expected: np.ndarray) -> float:
    """NaN where there is one, infinite where the shapes differ."""
    return float(np.abs(found - expected).max()) if found.shape == expected.shape else float("inf")


def _turned(found: np.ndarray, expected: np.ndarray, name: str) -> int:
    """How many numbers are rounded to another float16; more than one step apart is an error."""
    step = np.spacing(np.maximum(np.abs(found), np.abs(expected)).astype(np.float16)).astype(np.float32)
    difference, tolerance = np.abs(found - expected), FEATURE_TOLERANCE * np.abs(expected).max()
    if not (difference <= step + tolerance).all():
        worst = np.argmax(difference - step)
        raise ViMLError(
            f"{name} hold {found.flat[worst]:g} where the model's hold {expected.flat[worst]:g}, which is more than "
            "rounding to float16 does: it was not kept; export the heads alone with --part heads"
        )
    return int((difference > tolerance).sum())
