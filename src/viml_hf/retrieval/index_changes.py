"""Changes of a saved index: tracks added, removed and moved, and an index of an older schema converted."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as deserialize

from viml_hf.errors import ViMLError, in_one_line
from viml_hf.retrieval.duplicates import with_duplicates
from viml_hf.retrieval.index import MusicIndex
from viml_hf.retrieval.index_folder import (
    OLD_SCHEMAS,
    UNSEALED,
    OldSchemaError,
    damage,
    named_by_content,
    read_description,
    writing,
)
from viml_hf.retrieval.index_tracks import Track, Window, check_pyarrow

try:
    import pyarrow as pa
    import pyarrow.parquet as pq
except ImportError:  # as in index_tracks
    pa = pq = None


def change_index(folder: str | Path, change: Callable[[MusicIndex], MusicIndex]) -> MusicIndex:
    """Replace a saved index by what a function makes of it; no other writer comes between.

    Raises:
        ViMLError: See [`MusicIndex.load`].
    """
    folder = Path(folder)
    MusicIndex.load(folder)  # where there is none, nothing is made
    with writing(folder):
        return change(MusicIndex.load(folder)).write(folder)


def replace_index(folder: str | Path, make: Callable[[MusicIndex | None], MusicIndex]) -> MusicIndex:
    """Write the index that a function makes, of the one that is there if it can be read.

    Raises:
        ViMLError: There is one of an older schema: it is converted when that is asked for.
    """
    folder = Path(folder)
    with writing(folder):
        previous = None
        try:
            previous = MusicIndex.load(folder)
        except OldSchemaError:
            raise
        except ViMLError:  # there is none, or one that is of no use
            pass
        return make(previous).write(folder)


def added_to(index: MusicIndex, added: MusicIndex, *, same_music: bool = False) -> MusicIndex:
    """An index with the tracks of another one behind its own; those of a name that it has are replaced.

    With `same_music`, what is added says of which earlier track it is a near-duplicate.
    """
    names = {track.name for track in added.tracks}
    gone = [at for at, name in enumerate(index.names) if name in names]
    return index.updated(with_duplicates(added, index, gone) if same_music else added, gone)


def without_tracks(index: MusicIndex, names: Sequence[str]) -> MusicIndex:
    """An index without the tracks of these names.

    Raises:
        ViMLError: It has no track of such a name, or would have none left.
    """
    known = index.names
    if unknown := sorted(set(names) - set(known)):
        raise ViMLError(f"{unknown[0]}: no such track in the index; give its name as `viml recommend` prints it")
    gone = [at for at, name in enumerate(known) if name in set(names)]
    if len(gone) == len(known):
        raise ViMLError(f"{len(gone)} tracks are all that the index has; delete its folder")
    return index.updated(removed=gone)


def moved_to(index: MusicIndex, root: str | Path) -> MusicIndex:
    """An index of files that now lie in another folder.

    Raises:
        ViMLError: None of them does.
    """
    if not any((Path(root) / name).is_file() for name in index.names):
        raise ViMLError(
            f"{root}: none of the {len(index.tracks)} tracks is there; give the folder that holds {index.names[0]}"
        )
    return index.moved(root)


_OLD_FILES = ("embeddings.safetensors", "tracks.parquet")


def convert_index(folder: str | Path) -> MusicIndex:
    """Write an index of schema 2 or 3 in the present schema, in its place.

    Raises:
        ViMLError: There is none, or it is damaged.
    """
    folder = Path(folder)
    read_description(folder, OLD_SCHEMAS)
    with writing(folder):
        converted = _read_old(folder).write(folder)
    for name in _OLD_FILES:
        (folder / name).unlink(missing_ok=True)
    return converted


def _read_old(folder: Path) -> MusicIndex:
    """An index with float32 embeddings in memory, and a table of one row per window; since schema 3 with checksums."""
    check_pyarrow()
    description = read_description(folder, OLD_SCHEMAS)
    try:
        contents = {}
        for name in _OLD_FILES:
            checksum = None if description["schema_version"] == UNSEALED else description["files"][name]
            path = folder / (name if checksum is None else named_by_content(name, checksum))
            contents[name] = path.read_bytes()
            if checksum is not None and hashlib.sha256(contents[name]).hexdigest() != checksum:
                raise damage(folder, f"{path.name} has another checksum")
        tensors = deserialize(contents["embeddings.safetensors"])
        rows = pq.read_table(pa.BufferReader(contents["tracks.parquet"])).to_pylist()
        facts = (description["model"], description["fingerprint"], description["encoders"])
        corrections = tensors["corrections"].numpy() if "corrections" in tensors else None
        return MusicIndex(tensors["embeddings"].numpy(), tuple(_grouped(rows)), *facts, corrections)
    except OSError as error:
        raise damage(folder, f"{error.filename}: {error.strerror}") from error
    except (LookupError, TypeError, SafetensorError, pa.ArrowException) as error:
        raise damage(folder, in_one_line(error)) from error


def _grouped(rows: list[dict[str, Any]]) -> Iterator[Track]:
    """The tracks of a table with one row per window: the rows of a track follow each other in the order of time."""
    number, numbers = 0, []
    for before, row in zip([None, *rows], rows, strict=False):
        number += before is None or not _is_next_window(before, row)
        numbers.append(number)
    for _, group in groupby(zip(numbers, rows, strict=True), key=lambda pair: pair[0]):
        found = [row for _, row in group]
        windows = tuple(Window(row["start"], row["end"]) for row in found if row["start"] is not None)
        first = found[0]
        facts = (first["duration"], windows, first["error"], first["licence"])
        yield Track(first["track"], first["path"], first["sha256"], *facts)


def _is_next_window(before: dict[str, Any], row: dict[str, Any]) -> bool:
    """Whether a row is the window of the same track that follows that of the row before; else a track begins."""
    same = all(before[name] == row[name] for name in row if name not in ("start", "end"))
    return same and before["start"] is not None and row["start"] is not None and before["start"] < row["start"]
