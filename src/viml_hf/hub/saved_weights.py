"""The weights in a model's folder: how many parameters each part has, and a checksum."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from viml_hf.errors import ViMLError, in_one_line
from viml_hf.modeling.configuration_viml import ViMLConfig

# Parts of a model, in the order of the card's table: the first words of its parameters' names.
PARTS = (
    *("video_encoder", "text_encoder", "audio_encoder", "video_tower", "text_tower", "fusion", "query_projection"),
    *("text_projection", "audio_tower", "audio_projection", "text_audio_tower", "text_audio_projection"),
    "log_temperature",
)
# Subfolders that hold sentence-transformers models, each saved by itself.
SUBFOLDERS = ("video_encoder", "text_encoder", "audio_encoder")
# The names of the files that `save_pretrained` writes weights into.
WEIGHTS = re.compile(r"model(-\d{5}-of-\d{5})?\.safetensors")
# Floating-point tensors that are saved but are no parameters, by the end of their names.
BUFFERS = ("null_text_features", "centre", "running_mean", "running_var")


def parameter_counts(sizes: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Parameters per part of a model (`"audio tower"`), from the name and size of each parameter."""
    found: Counter[str] = Counter()
    for name, size in sizes:
        found[name.removeprefix("viml.").partition(".")[0]] += size
    return {name.removeprefix("log_").replace("_", " "): found[name] for name in PARTS if found[name]}


def saved_parameters(folder: str | Path) -> dict[str, int]:
    """Parameters per part of a saved model, read from the headers of its safetensors alone."""
    sizes = []
    for name, file, key in _tensors(Path(folder)):
        part = file.get_slice(key)
        if part.get_dtype().startswith(("F", "BF")) and not name.endswith(BUFFERS):
            sizes.append((name, prod(part.get_shape())))
    return parameter_counts(sizes)


def heads_settings(config: ViMLConfig) -> dict[str, Any]:
    """The fields of a heads' config that decide what they compute: its own, not those that every config has."""
    settings = {name: getattr(config, name) for name in sorted(type(config).__annotations__)}
    # Fields that say nothing of a model are left out: those that are older than the field keep their checksums.
    for name, nothing in (("query_bank_size", 0), ("ensemble_size", 1)):
        if settings[name] == nothing:
            del settings[name]
    if not config.has_parts and settings["fusion"] != "late":
        del settings["text_weight"]
    return settings


def weights_checksum(folder: str | Path, heads: ViMLConfig) -> str:
    """SHA-256, in hex, of what decides a saved model's results: all its weights, and the config of its heads.

    The tensors are hashed and not the files: a model saved again, with its code or in other shards, keeps its checksum.
    """
    digest = hashlib.sha256(json.dumps(heads_settings(heads), default=str).encode())
    for name, file, key in _tensors(Path(folder)):
        tensor = file.get_tensor(key)
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _tensors(folder: Path) -> Iterator[tuple[str, Any, str]]:
    """Every tensor's name, in order, with the open file that holds it and its name there."""
    paths = sorted(path for path in folder.glob("model*.safetensors") if WEIGHTS.fullmatch(path.name))
    if not paths:
        raise ViMLError(f"{folder}: no model.safetensors; give a folder made by `viml train` or save_pretrained")
    try:
        inside = [(sub, path) for sub in SUBFOLDERS for path in sorted((folder / sub).rglob("*.safetensors"))]
        files = [("", safe_open(path, "pt")) for path in paths]
        files += [(f"{sub}.{path.parent.name}.", safe_open(path, "pt")) for sub, path in inside]
    except (SafetensorError, OSError) as error:
        raise ViMLError(f"{folder}: its weights cannot be read ({in_one_line(error)}); save the model again") from error
    # A file cannot be iterated over itself.
    named = ((prefix + key, file, key) for prefix, file in files for key in file.keys())  # noqa: SIM118
    yield from sorted(named, key=lambda found: found[0])
