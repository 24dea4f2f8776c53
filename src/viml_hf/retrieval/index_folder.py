"""A saved index, schema 4: `index.json` names the files of each block of rows by their content, and is replaced last.

index.json                        model, fingerprint, widths, counts, blocks, which of their tracks are deleted
embeddings-….safetensors          of one block: embeddings, sketch, scales, corrections; mapped, not read
tracks-….parquet                  of one block: one row per track
"""

import hashlib
import io
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from viml_hf.errors import ViMLError, in_one_line
from viml_hf.features.atomic_files import lock_folder, replacing, unlock_folder
from viml_hf.features.checksums import sealed, sha256_of, unsealed
from viml_hf.features.json_files import misfit
from viml_hf.retrieval.index_blocks import ROWS_AT_A_TIME, Block, longest_difference
from viml_hf.retrieval.index_tracks import StoredTracks, check_pyarrow, tracks_to_table

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError:  # as in index_tracks
    pa = pq = None

SCHEMA_VERSION = 4
OLD_SCHEMAS = (UNSEALED := 2, 3)  # that are converted when asked for
INDEX_FILE = "index.json"
IVF_FILE = "ivf.faiss"
READ_ATTEMPTS = 20  # while writers replace the index
VERIFIED_AT_LOAD = 2**28  # bytes: a larger file of embeddings is read by `viml verify` alone
AGAIN = "build it again with `viml index`"
_DTYPES = {"F32": np.float32, "F16": np.float16, "BF16": np.int16, "I8": np.int8}
_HEADER_LIMIT = 100_000
# What a save may leave that the next one removes: files of older indexes, and of killed runs.
_OWN_FILE = re.compile(
    r"embeddings\.safetensors|tracks\.parquet|ivf\.faiss"
    r"|(embeddings-[0-9a-f]{16}\.safetensors|tracks-[0-9a-f]{16}\.parquet|ivf-[0-9a-f]{16}\.faiss)(\.[0-9a-f]{8}\.tmp)?"
    r"|(embeddings\.safetensors|tracks\.parquet|ivf\.faiss|index\.json)(\.[0-9a-f]{8})?\.tmp"
)
_DESCRIPTION = {
    **{"model": str, "fingerprint": str, "encoders": {...: str}, "root": (str, type(None)), "width": int},
    "blocks": [{"files": {...: str}, "deleted": list, "sketch_error": float}],
}


class OldSchemaError(ViMLError):
    """An index of an older schema, which is converted when that is asked for."""


@dataclass(frozen=True)
class Saved:
    """What a saved index holds."""

    blocks: tuple[Block, ...]
    model: str
    fingerprint: str
    encoders: dict[str, str]
    width: int
    root: str | None = None


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Let no second writer into the folder of an index; whoever comes second waits."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = lock_folder(folder, wait=True)
    try:
        yield
    finally:
        unlock_folder(lock)


def write_index(folder: Path, saved: Saved) -> Saved:
    """Write what of an index is not in the folder yet, then `index.json`, and remove what is of no use any more.

    Called in a `writing` block.
    """
    check_pyarrow()
    blocks = tuple(_write_block(folder, block) for block in saved.blocks)
    live = [(block.counts > 0)[~block.deleted] for block in blocks]
    description = {
        "schema_version": SCHEMA_VERSION,
        "model": saved.model,
        "fingerprint": saved.fingerprint,
        "encoders": saved.encoders,
        "root": saved.root,
        "width": saved.width,
        "dtype": "float16",
        "windows": sum(block.live_rows for block in blocks),
        "tracks": int(sum(usable.sum() for usable in live)),
        "errors": int(sum((~usable).sum() for usable in live)),
        "blocks": [
            {
                "files": block.files,
                "deleted": np.flatnonzero(block.deleted).tolist(),
                "sketch_error": block.sketch_error if np.isfinite(block.sketch_error) else 0.0,
            }
            for block in blocks
        ],
    }
    with replacing(folder / INDEX_FILE) as temporary:
        temporary.write_text(json.dumps(sealed(description), indent=1) + "\n")
    kept = {named_by_content(*one) for block in blocks for one in block.files.items()}
    for path in folder.iterdir():
        if (path.is_symlink() or path.is_file()) and _OWN_FILE.fullmatch(path.name) and path.name not in kept:
            path.unlink(missing_ok=True)
    return replace(saved, blocks=blocks)


def _write_block(folder: Path, block: Block) -> Block:
    """Write a block that is not in the folder."""
    there = [(folder / named_by_content(*one)).is_file() for one in block.files.items()]
    if block.source == folder.absolute() and all(there):
        return block if block.inverted is None or IVF_FILE in block.files else _write_inverted(folder, block)
    table = io.BytesIO()
    pq.write_table(tracks_to_table(block.tracks), table, compression="zstd")
    header, arrays = _tensors(block)
    checksum = hashlib.sha256(header)
    for array in arrays:
        checksum.update(array)
    files = {
        "embeddings.safetensors": checksum.hexdigest(),
        "tracks.parquet": hashlib.sha256(table.getvalue()).hexdigest(),
    }
    rows, tracks = (folder / named_by_content(*one) for one in files.items())
    with replacing(rows) as temporary, temporary.open("wb") as file:
        file.writelines([header, *arrays])
    with replacing(tracks) as temporary:
        temporary.write_bytes(table.getvalue())
    written = replace(block, source=folder.absolute(), files=files)
    return written if block.inverted is None else _write_inverted(folder, written)


def _write_inverted(folder: Path, block: Block) -> Block:
    """Write the faiss index of a block."""
    import faiss

    with replacing(folder / IVF_FILE) as temporary:
        faiss.write_index(block.inverted, str(temporary))
        checksum = sha256_of(temporary)
    (folder / IVF_FILE).replace(folder / named_by_content(IVF_FILE, checksum))
    return replace(block, files={**block.files, IVF_FILE: checksum}, inverted=None)


def _tensors(block: Block) -> tuple[bytes, list[memoryview]]:
    """The header and the contents of a block's safetensors file: the arrays are written from where they are."""
    arrays = {
        **({} if block.corrections is None else {"corrections": ("F32", block.corrections)}),
        "embeddings": ("F16", block.embeddings),
        "scales": ("BF16", block.scales.view(torch.int16).numpy()),
        "sketch": ("I8", block.sketch.numpy()),
    }
    header, end = {}, 0
    for name, (dtype, array) in arrays.items():
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-(len(text) + 8) % 64)  # so that the first array lies at a multiple of 64
    contents = [np.ascontiguousarray(array).data.cast("B") for _, array in arrays.values() if array.size]
    return len(text).to_bytes(8, "little") + text, contents


def read_index(folder: Path) -> Saved:
    """Read an index: the tracks are read and verified, the embeddings are mapped, and verified where they are small.

    Raises:
        ViMLError: The folder is not an index, is of another schema, or a file of it is damaged or cannot be read.
    """
    check_pyarrow()
    for _ in range(READ_ATTEMPTS):
        description = read_description(folder)
        _check(folder, description)
        try:
            blocks = tuple(_read_block(folder, one, description) for one in description["blocks"])
        except FileNotFoundError:
            continue  # a writer has replaced the index meanwhile: there is a new one
        names = ("model", "fingerprint", "encoders", "width", "root")
        return Saved(blocks, **{name: description[name] for name in names})
    raise ViMLError(f"{folder}: the index is damaged (a file that it names is missing); {AGAIN}")


def damage(folder: Path, reason: str) -> ViMLError:
    """The error of a damaged index."""
    return ViMLError(f"{folder}: the index is damaged ({reason}); {AGAIN}")


def read_description(folder: Path, versions: Sequence[int] = (SCHEMA_VERSION,)) -> dict[str, Any]:
    """What `index.json` says, whole and of one of these schemas."""
    path = folder / INDEX_FILE
    if not path.is_file():
        raise ViMLError(f"{folder}: not an index (no {INDEX_FILE}); make one with `viml index MUSIC -o {folder}`")
    try:
        text = path.read_bytes()
        found = json.loads(text)["schema_version"]
    except PermissionError as error:
        raise ViMLError(f"{path}: cannot be read (permission denied); let this user read it") from error
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise damage(folder, f"{INDEX_FILE} is no index's") from error
    if found not in versions:
        if found in OLD_SCHEMAS:
            fix = f"convert it with `viml index --convert -o {folder}`"
            raise OldSchemaError(f"{folder}: an index of schema {found}: {fix}")
        reads = " and ".join(map(str, versions))
        raise ViMLError(f"{folder}: an index of schema {found!r}, and {reads} can be read here; {AGAIN}")
    if found == UNSEALED:
        return json.loads(text)
    description = unsealed(text)
    if description is None:
        raise damage(folder, f"{INDEX_FILE} has another checksum")
    return description


def _check(folder: Path, description: dict[str, Any]) -> None:
    """Refuse a description that is sealed, but not of an index."""
    wrong = [name for name, kind in _DESCRIPTION.items() if misfit({name: description.get(name)}, {name: kind})]
    files = {"embeddings.safetensors", "tracks.parquet"}
    if not wrong and any(block["files"].keys() - {IVF_FILE} != files for block in description["blocks"]):
        wrong = ["blocks"]
    if wrong:
        raise damage(folder, f"{INDEX_FILE} has no valid {', '.join(wrong)}")


def _read_block(folder: Path, description: dict[str, Any], index: dict[str, Any]) -> Block:
    files = description["files"]
    rows, table = (
        folder / named_by_content(name, files[name]) for name in ("embeddings.safetensors", "tracks.parquet")
    )
    try:
        content = table.read_bytes()
        size = rows.stat().st_size
        if hashlib.sha256(content).hexdigest() != files["tracks.parquet"]:
            raise damage(folder, f"{table.name} has another checksum")
        if size <= VERIFIED_AT_LOAD and sha256_of(rows) != files["embeddings.safetensors"]:
            raise damage(folder, f"{rows.name} has another checksum")
        if IVF_FILE in files:
            inverted = folder / named_by_content(IVF_FILE, files[IVF_FILE])
            if inverted.stat().st_size <= VERIFIED_AT_LOAD and sha256_of(inverted) != files[IVF_FILE]:
                raise damage(folder, f"{inverted.name} has another checksum")
        arrays = _map(rows, size)
        tracks = StoredTracks(pq.read_table(pa.BufferReader(content)), index["root"])
        block = _assemble(arrays, tracks, description, index["width"])
    except FileNotFoundError:
        raise
    except PermissionError as error:
        raise ViMLError(f"{error.filename}: cannot be read (permission denied); let this user read it") from error
    except OSError as error:
        raise ViMLError(f"{error.filename}: cannot be read ({error.strerror}); {AGAIN}") from error
    except ViMLError:
        raise
    except (LookupError, ValueError, TypeError, AttributeError, OverflowError, pa.ArrowException) as error:
        raise damage(folder, in_one_line(error)) from error
    block = replace(block, source=folder.absolute(), files=dict(files))
    if size <= VERIFIED_AT_LOAD:
        check_rows(folder, block)
    return block


def _map(path: Path, size: int) -> dict[str, np.ndarray]:
    """The arrays of a safetensors file, mapped into memory. Nothing that is written to them reaches the file."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > _HEADER_LIMIT:
            raise ValueError(f"{path.name}: a header of {length} bytes")
        header = json.loads(file.read(length))
    whole = np.memmap(path, np.uint8, "c")
    found, ends = {}, [0]
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        dtype = np.dtype(_DTYPES[entry["dtype"]])
        ends.append(end)
        # Not through the memory map's own class, which is slow to slice.
        found[name] = np.asarray(whole)[8 + length + begin : 8 + length + end].view(dtype).reshape(entry["shape"])
    if size != 8 + length + max(ends):
        raise ValueError(f"{path.name}: {size} bytes, but its header tells of {8 + length + max(ends)}")
    return found


def _assemble(arrays: dict[str, np.ndarray], tracks: StoredTracks, description: dict[str, Any], width: int) -> Block:
    """The block of a file's arrays. A forged file can have the right checksum, so shapes are looked at too."""
    embeddings, corrections = arrays["embeddings"], arrays.get("corrections")
    sketch, scales = torch.from_numpy(arrays["sketch"]), torch.from_numpy(arrays["scales"]).view(torch.bfloat16)
    mask = np.zeros(len(tracks), bool)
    mask[np.array(description["deleted"], np.int64)] = True
    block = Block(embeddings, sketch, scales, corrections, tracks, mask, description["sketch_error"])
    rows = int(block.first_rows[-1])
    if block.counts.min(initial=0) < 0 or embeddings.dtype != np.float16 or embeddings.shape != (rows, width):
        raise ValueError(f"embeddings {embeddings.dtype} {embeddings.shape} for {rows} windows, not float16 rows")
    if sketch.dtype != torch.int8 or sketch.shape != embeddings.shape or scales.shape != (rows,):
        raise ValueError("a sketch that is not of the embeddings")
    if corrections is not None and (corrections.dtype != np.float32 or corrections.shape != (rows, 2)):
        raise ValueError("corrections that are not two numbers for each row")
    return block


def verify_index(folder: Path) -> None:
    """Read all of an index and compare it with its checksums.

    Raises:
        ViMLError: A file is damaged.
    """
    for block in read_index(folder).blocks:
        for name, checksum in block.files.items():
            path = folder / named_by_content(name, checksum)
            if sha256_of(path) != checksum:
                raise damage(folder, f"{path.name} has another checksum")
        check_rows(folder, block)


def check_rows(folder: Path, block: Block) -> None:
    """Refuse embeddings that cannot be ranked by, and a sketch that is not theirs."""
    for first in range(0, len(block.embeddings), ROWS_AT_A_TIME):
        part = slice(first, first + ROWS_AT_A_TIME)
        rows = block.embeddings[part]
        if not ((torch.from_numpy(rows).float().norm(dim=1) - 1).abs() <= 2e-3).all():
            raise damage(folder, "embeddings that are not of length 1")
        if not longest_difference(rows, block.sketch[part], block.scales[part]) <= block.sketch_error * 1.001 + 1e-6:
            raise damage(folder, "a sketch that is not of the embeddings")
    if block.corrections is not None and not np.isfinite(block.corrections).all():
        raise damage(folder, "corrections that are not finite")


def named_by_content(name: str, checksum: str) -> str:
    """The name under which a file of the index lies, such as `tracks-0123456789abcdef.parquet`."""
    stem, _, suffix = name.rpartition(".")
    return f"{stem}-{checksum[:16]}.{suffix}"
