"""A graph to export: its named inputs and outputs, and random values to trace and check it with."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from viml_hf.export.modules import HeadsGraph

# Sizes of the traced example: all different, so that no two dimensions are taken for one.
TRACED = {"batch": 3, "tracks": 3, "segments": 4, "texts": 2, "frames": 5, "length": 7, "windows": 2, "time": 11}

Fill = Callable[[torch.Generator, tuple[int, ...]], Tensor]
Limits = dict[str, tuple[int, int | None]]  # least and largest size by dimension


@dataclass(frozen=True)
class GraphInput:
    """One named input of a graph.

    Args:
        name: Its name, as in the model's own methods.
        shape: A number where the size is fixed, the dimension's name where it is free.
        meaning: What it holds, in one line.
        fill: Makes random values of a shape, to trace and to check with. A mask has none.
        modality: `"video"`, `"text"` or `"audio"`.
        mask: Name of the mask that says which of its rows count, if those that do not may hold anything.
        gaps: Of a mask: whether zeros may stand between ones.
        dtype: `"float32"`, or `"int64"` for masks and tokens.
    """

    name: str
    shape: tuple[str | int, ...]
    meaning: str
    fill: Fill | None = None
    modality: str = ""
    mask: str | None = None
    gaps: bool = True
    dtype: str = "int64"


@dataclass(frozen=True)
class Graph:
    """One side of a model, ready to be traced.

    Args:
        name: `"query"` or `"audio"`; also the name of its file.
        module: Takes the inputs by name and returns the embedding `(batch, width)`, then its base features.
        inputs: What it takes, in order.
        limits: Least and largest size of the free dimensions; `None` = no limit.
    """

    name: str
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
        """Random inputs.

        Args:
            sizes: Size of every free dimension.
            seed: Decides the values.
            masks: Per modality `"all"` ones, `"some"`, where the first of several rows has none, or `"none"`.

        Returns:
            A tensor per input, NaN in rows of features that its mask hides.
        """
        generator = torch.Generator().manual_seed(seed)
        made: dict[str, Tensor] = {}
        for given in self.inputs:
            shape = tuple(size if isinstance(size, int) else sizes[size] for size in given.shape)
            if given.fill is None:
                kind = (masks or {}).get(given.modality, "all")
                made[given.name] = _random_mask(generator, shape, kind, gaps=given.gaps)
            else:
                made[given.name] = given.fill(generator, shape)
        for given in self.inputs:
            if given.mask is not None:
                made[given.name] = made[given.name].masked_fill(~made[given.mask].bool()[..., None], float("nan"))
        return made


def random_values(generator: torch.Generator, shape: tuple[int, ...]) -> Tensor:
    """Numbers around 0 with a spread of 1: features, normalised pixels, normalised spectra."""
    return torch.randn(shape, generator=generator)


def random_shares(generator: torch.Generator, shape: tuple[int, ...]) -> Tensor:
    """Numbers in [0, 1], as the descriptors read them: pixels and log energies.

    Every other one is 0, 1/3, 2/3 or 1: pure colours and greys lie on the borders of the descriptors' bins.
    """
    values, levels = torch.rand(shape, generator=generator), torch.randint(0, 4, shape, generator=generator) / 3
    return torch.where(torch.rand(shape, generator=generator) < 0.5, values, levels)


def random_tokens(generator: torch.Generator, shape: tuple[int, ...], *, vocabulary: int) -> Tensor:
    """Token ids."""
    return torch.randint(0, vocabulary, shape, generator=generator)


def mask_meaning(exists: str, modality: str) -> str:
    """What a mask says, in one line."""
    absent = "a row of zeros gives a zero embedding" if modality == "audio" else f"a row of zeros = no {modality}"
    return f"1 where {exists}, 0 elsewhere; {absent}"


def _random_mask(generator: torch.Generator, shape: tuple[int, ...], kind: str, *, gaps: bool) -> Tensor:
    if kind != "some":
        return torch.full(shape, int(kind == "all"))
    if gaps:
        mask = (torch.rand(shape, generator=generator) < 0.6).long()
    else:
        count = torch.randint(0, shape[-1] + 1, (*shape[:-1], 1), generator=generator)
        mask = (torch.arange(shape[-1]) < count).long()
    if len(mask) > 1:
        mask[0] = 0
    return mask
