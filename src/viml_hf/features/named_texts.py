"""Sets of texts beside a store: one text per item under a name such as `prompt2text`, with its features.

`texts/NAME.safetensors` holds the features and `texts/NAME.parquet` ids and texts in the same order;
`texts/NAME.json`, written last, their checksums.
"""

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file
from torch import Tensor

from viml_hf.errors import ViMLError
from viml_hf.features.atomic_files import lock_folder, replacing, unlock_folder, write_tensors
from viml_hf.features.checksums import damaged_file, sha256_of
from viml_hf.features.json_files import read_json
from viml_hf.features.store_format import as_rows

FOLDER = "texts"
LEFTOVER = re.compile(r".+\.(safetensors|parquet|json)\.[0-9a-f]{8}\.tmp")  # of `replacing`


@dataclass(frozen=True, eq=False)
class NamedTexts:
    """A set of texts."""

    ids: tuple[str, ...]  # of the items that have a text
    texts: tuple[str, ...]
    features: Tensor  # (texts, width) float16


def names_of_texts(store_folder: str | Path) -> list[str]:
    """The names of a store's finished sets of texts."""
    return sorted(path.stem for path in (Path(store_folder) / FOLDER).glob("*.json"))


def path_of_texts(store_folder: str | Path, name: str) -> Path:
    """The file of a set that is written last, with the checksums of the others."""
    return Path(store_folder) / FOLDER / f"{name}.json"


def write_texts(store_folder: str | Path, name: str, rows: Iterable[tuple[str, str, np.ndarray]], width: int) -> None:
    """Write a set of texts, or replace the one of that name, from id, text and base feature `(width,)` of each."""
    folder = Path(store_folder) / FOLDER
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").unlink(missing_ok=True)
    ids, texts, features = [], [], []
    for item_id, text, feature in rows:
        ids.append(item_id)
        texts.append(text)
        features.append(as_rows(f"{item_id}: text", feature[None], width)[0])
    if len(set(ids)) != len(ids):
        raise ViMLError(f"{name}: {len(ids)} texts for {len(set(ids))} items; give one text per item")
    packed = np.stack(features) if features else np.zeros((0, width), np.float16)
    files = {kind: folder / f"{name}.{kind}" for kind in ("safetensors", "parquet")}
    lock = lock_folder(folder, wait=True)
    try:
        for left in filter(LEFTOVER.fullmatch, os.listdir(folder)):  # by a run that was killed: nobody else writes now
            (folder / left).unlink()
        write_tensors(files["safetensors"], {"features": torch.from_numpy(packed)})
        with replacing(files["parquet"]) as path:
            pq.write_table(pa.table({"id": pa.array(ids, pa.string()), "text": pa.array(texts, pa.string())}), path)
        checksums = {path.name: sha256_of(path) for path in files.values()}
        with replacing(folder / f"{name}.json") as path:
            path.write_text(json.dumps({"texts": len(ids), "files": checksums}) + "\n")
    finally:
        unlock_folder(lock)


def read_texts(store_folder: str | Path, name: str) -> NamedTexts:
    """Read a set of texts; one that is not there or is damaged is an error."""
    folder = Path(store_folder) / FOLDER
    fix = "run `viml describe` again"
    description = read_json(folder / f"{name}.json", dict, fix)
    if description is None:
        known = ", ".join(names_of_texts(store_folder)) or "none yet"
        raise ViMLError(f"{store_folder}: no texts named {name!r} ({known}); make some with `viml describe`")
    files = description.get("files")
    if not isinstance(files, dict) or set(files) != {f"{name}.safetensors", f"{name}.parquet"}:
        raise ViMLError(f"{folder / name}.json: the file is damaged; {fix}")
    damaged = damaged_file(folder, files)
    if damaged is not None:
        raise ViMLError(f"{folder / damaged}: the file is damaged; {fix}")
    table = pq.read_table(folder / f"{name}.parquet")
    features = load_file(folder / f"{name}.safetensors")["features"]
    return NamedTexts(tuple(table["id"].to_pylist()), tuple(table["text"].to_pylist()), features)
