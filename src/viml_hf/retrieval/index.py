"""The index: the embeddings of a music library, one row per 30 s window, ready to be searched.

It consists of blocks: what is added lies in a block of its own, and what is deleted is marked. `index_folder` says how
it is saved.
"""

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np

from viml_hf.errors import ViMLError
from viml_hf.retrieval.approximate import has_inverted_file, search_approximately, with_inverted_file
from viml_hf.retrieval.index_blocks import Block, make_block, merged, without
from viml_hf.retrieval.index_folder import INDEX_FILE, Saved, read_index, write_index, writing
from viml_hf.retrieval.index_tracks import (
    Track,
    Window,
    columns_of,
    concat_tables,
    track_key,
    tracks_at,
    tracks_to_table,
)
from viml_hf.retrieval.search import Hit, search_blocks
from viml_hf.retrieval.where import Condition, check_columns, matching_tracks, parse_where

__all__ = ["INDEX_FILE", "Hit", "MusicIndex", "Track", "Window"]

MOST_BLOCKS = 16  # then small ones become one
MOST_DELETED = 0.25  # of a block; then it is written again without them


class MusicIndex:
    """Embeddings of a library.

    Args:
        embeddings: `(windows, dim)`, L2-normalised, track after track; they are rounded to float16.
        tracks: The tracks in the same order; those with an error have no windows.
        model: Folder or Hub id of the model that made it.
        fingerprint: Checksum of that model.
        encoders: Model types of its base encoders.
        corrections: `(windows, 2)` float32, for hubs: what is taken from the similarities of queries without a text,
            and of those with one; `None` where the model keeps no query bank.

    Raises:
        ViMLError: There is not one embedding for each window.
    """

    def __init__(
        self,
        embeddings: np.ndarray,
        tracks: Sequence[Track],
        model: str,
        fingerprint: str,
        encoders: dict[str, str] | None = None,
        corrections: np.ndarray | None = None,
    ):
        block = make_block(np.asarray(embeddings), tuple(tracks), corrections)
        self._saved = Saved((block,), model, fingerprint, encoders or {}, block.embeddings.shape[1])

    @classmethod
    def of_blocks(
        cls, blocks: Sequence[Block], model: str, fingerprint: str, encoders: dict[str, str], width: int
    ) -> "MusicIndex":
        """The index of blocks of embeddings of one width."""
        return cls._of(Saved(tuple(blocks), model, fingerprint, encoders, width))

    @classmethod
    def _of(cls, saved: Saved) -> "MusicIndex":
        index = cls.__new__(cls)
        index._saved = saved
        return index

    def _with(self, **changes: Any) -> "MusicIndex":
        return self._of(Saved(**{**vars(self._saved), **changes}))

    @property
    def model(self) -> str:
        """Folder or Hub id of the model that made it."""
        return self._saved.model

    @property
    def fingerprint(self) -> str:
        """Checksum of that model."""
        return self._saved.fingerprint

    @property
    def encoders(self) -> dict[str, str]:
        """Model types of the model's base encoders."""
        return self._saved.encoders

    @property
    def width(self) -> int:
        """Numbers of an embedding."""
        return self._saved.width

    @property
    def blocks(self) -> tuple[Block, ...]:
        """What it consists of."""
        return self._saved.blocks

    @cached_property
    def tracks(self) -> Sequence[Track]:
        """The tracks, each of which becomes an object when it is asked for."""
        if len(self.blocks) == 1 and not self.blocks[0].deleted.any():
            return self.blocks[0].tracks
        return _LiveTracks(self.blocks)

    @property
    def names(self) -> list[str]:
        """The tracks' names."""
        named = [table["track"].take(block.live) for table, block in zip(self._tables, self.blocks, strict=True)]
        return [name for column in named for name in column.to_pylist()]

    @cached_property
    def embeddings(self) -> np.ndarray:
        """The rows `(windows, dim)` float16 of the tracks; a copy where there are several blocks."""
        return self._rows("embeddings")

    @cached_property
    def corrections(self) -> np.ndarray | None:
        """The corrections `(windows, 2)` float32 of the rows, if there are any."""
        return None if any(block.corrections is None for block in self.blocks) else self._rows("corrections")

    def _rows(self, name: str) -> np.ndarray:
        parts = [getattr(block, name) for block in self.blocks]
        if len(parts) == 1 and not self.blocks[0].deleted.any():
            return parts[0]
        kept = [part[block.row_mask(~block.deleted)] for part, block in zip(parts, self.blocks, strict=True)]
        return np.concatenate(kept)

    @property
    def windows(self) -> int:
        """How many rows can be found."""
        return sum(block.live_rows for block in self.blocks)

    @property
    def num_tracks(self) -> int:
        """How many tracks can be recommended."""
        return sum(int(((block.counts > 0) & ~block.deleted).sum()) for block in self.blocks)

    def find(self, key: int) -> Track | None:
        """The track of a `track_key`; `None` where there is none that can be recommended."""
        position = self.position(key)
        return None if position is None else self.tracks[position]

    def position(self, key: int) -> int | None:
        """Where in `tracks` the track of a `track_key` stands; `None` where there is none that can be recommended."""
        place = int(np.searchsorted(self._keys[0], key))
        if place == len(self._keys[0]) or self._keys[0][place] != key:
            return None
        position = int(self._keys[1][place])
        return position if self.tracks[position].windows else None

    def rows_of(self, position: int) -> np.ndarray:
        """The embeddings `(windows, dim)` float16 of the track at a position in `tracks`."""
        ends = np.cumsum([len(block.live) for block in self.blocks])
        number = int(np.searchsorted(ends, position, "right"))
        block = self.blocks[number]
        own = block.live[position - (ends[number] - len(block.live))]
        return block.embeddings[block.first_rows[own] : block.first_rows[own + 1]]

    @cached_property
    def _keys(self) -> tuple[np.ndarray, np.ndarray]:
        """The keys of all tracks in ascending order, and their positions."""
        keys = np.array([track_key(name) for name in self.names], np.int64)
        order = np.argsort(keys, kind="stable")
        return keys[order], order

    @property
    def usable(self) -> list[Track]:
        """The tracks that can be recommended."""
        return self._tracks_where(lambda block: block.counts > 0)

    @property
    def errors(self) -> list[Track]:
        """The tracks that could not be indexed."""
        return self._tracks_where(lambda block: block.counts == 0)

    def _tracks_where(self, chosen: Callable[[Block], np.ndarray]) -> list[Track]:
        found = [tracks_at(b.tracks, np.flatnonzero(chosen(b) & ~b.deleted)) for b in self.blocks]
        return [track for tracks in found for track in tracks]

    @property
    def columns(self) -> list[str]:
        """What is known of tracks: the names of the columns of `table`."""
        return list(dict.fromkeys(name for block in self.blocks for name in columns_of(block.tracks)))

    @property
    def table(self) -> Any:
        """The tracks as a pyarrow table: a row each, all facts of the manifest as columns."""
        return concat_tables(table.take(block.live) for table, block in zip(self._tables, self.blocks, strict=True))

    def search(
        self,
        queries: np.ndarray,
        k: int = 10,
        where: str | Condition | None = None,
        *,
        with_text: bool | Sequence[bool] = False,
        hubness_correction: bool = True,
        approximate: bool = False,
    ) -> list[list[Hit]]:
        """The tracks that are nearest to each query: exact, each once with its best window, ties in the index's order.

        Args:
            queries: `(queries, dim)`, L2-normalised. Many at a time cost much less than one after the other.
            k: How many tracks.
            where: Which tracks are searched: a condition on the columns of `table`, such as
                `licence in ('CC0', 'CC-BY') and duration < 120`. See [`parse_where`].
            with_text: Whether the queries are made of a text, or which of them: it decides on the correction.
            hubness_correction: See [`Recommender.recommend`].
            approximate: Read only the nearest parts of the index: see `approximated`.

        Returns:
            Per query its hits, best first.

        Raises:
            ViMLError: Queries of another shape, `k` below 1, a condition that is none, the index is damaged, or was not
                prepared to be searched approximately.

        Example:
            >>> rows = np.eye(2, 4)
            >>> tracks = [Track(name, name, "", 20.0, (Window(0.0, 20.0),), licence="CC0") for name in "ab"]
            >>> index = MusicIndex(rows, tracks, "a-model", "its-fingerprint")
            >>> [(index.tracks[hit.track].name, hit.score) for hit in index.search(rows[:1], k=2)[0]]
            [('a', 1.0), ('b', 0.0)]
        """
        queries = np.asarray(queries, np.float32)
        if queries.ndim != 2 or queries.shape[1] != self.width or not np.isfinite(queries).all():
            raise ViMLError(
                f"queries of shape {queries.shape}: give rows of {self.width} finite numbers, one per query"
            )
        if k < 1:
            raise ViMLError(f"k={k}: give the number of tracks to recommend, 1 or more")
        columns = None
        if hubness_correction and all(block.corrections is not None for block in self.blocks):
            columns = np.broadcast_to(np.asarray(with_text, bool), len(queries)).astype(int)
        if approximate and not any(has_inverted_file(block) for block in self.blocks):
            raise ViMLError("The index is not prepared for approximate search: run `viml index -o INDEX --approximate`")
        search = search_approximately if approximate else search_blocks
        return search(self.blocks, queries, k, self._kept(where), columns)

    def condition(self, where: str) -> Condition:
        """The condition that an expression states on columns that the tracks have.

        Raises:
            ViMLError: It states none, or no track has such a column.
        """
        condition = parse_where(where)
        check_columns(condition, self._tables)
        return condition

    @cached_property
    def _tables(self) -> list[Any]:
        return [tracks_to_table(block.tracks) for block in self.blocks]

    def _kept(self, where: str | Condition | None) -> list[np.ndarray]:
        """Per block which tracks are searched."""
        kept = [~block.deleted for block in self.blocks]
        if where is None:
            return kept
        found = matching_tracks(self.condition(where) if isinstance(where, str) else where, self._tables)
        return [live & mask for live, mask in zip(kept, found, strict=True)]

    def updated(self, added: "MusicIndex | None" = None, removed: Collection[int] = ()) -> "MusicIndex":
        """This index without the tracks at some positions, and with those of another one behind the rest.

        What stays is not copied, and saving writes what is new; see `index_changes.change_index`. Where much has been
        deleted, or there are many blocks, some blocks are written again.

        Raises:
            ViMLError: The other index was made by another model.
        """
        if added is not None and (added.fingerprint, added.width) != (self.fingerprint, self.width):
            raise ViMLError(
                f"The index was made by another model ({self.model}) than what is to be added ({added.model}); use one"
            )
        blocks = list(self.blocks)
        ends = np.cumsum([len(block.live) for block in blocks])
        positions = np.unique(np.asarray(list(removed), np.int64))
        for number, (block, end) in enumerate(zip(self.blocks, ends, strict=True)):
            inside = positions[(positions < end) & (positions >= end - len(block.live))]
            if len(inside):
                blocks[number] = without(block, block.live[inside - (end - len(block.live))])
        return self._with(blocks=_tidied([*blocks, *(added.blocks if added is not None else ())]))

    def compacted(self) -> "MusicIndex":
        """This index in one block, without what was deleted."""
        return self._with(blocks=(merged(self.blocks),)) if self.blocks else self

    def approximated(self) -> "MusicIndex":
        """This index with what an approximate search needs, of each block of 10,000 rows or more.

        Raises:
            ViMLError: The package faiss is not installed.
        """
        return self._with(blocks=tuple(with_inverted_file(block) for block in self.blocks))

    def moved(self, root: str | Path) -> "MusicIndex":
        """This index with the files in another folder, where they lie as they lay before."""
        return self._with(root=Path(root).absolute().as_posix())

    def save(self, folder: str | Path) -> None:
        """Write the index in the place of an older one; blocks that the folder has are not written again.

        `index.json` is replaced last, and names the other files by their content: whoever reads meanwhile gets the old
        index or the new one, also after a killed run.

        Raises:
            OSError: A file cannot be written, as where the disk is full.
        """
        with writing(Path(folder)):
            self.write(Path(folder))

    def write(self, folder: Path) -> "MusicIndex":
        """What `save` does, for whoever has the folder's lock: see `writing`."""
        self._saved = write_index(folder, self._saved)
        return self

    @classmethod
    def load(cls, folder: str | Path) -> "MusicIndex":
        """Read an index. Its embeddings are mapped into memory, and read when they are searched.

        Checksums are verified of everything but embeddings of more than 256 MB, which `viml verify` reads.

        Raises:
            ViMLError: The folder is not an index, is of another schema, or a file of it is damaged or cannot be read.
        """
        return cls._of(read_index(Path(folder)))


class _LiveTracks(Sequence[Track]):
    """The tracks of several blocks that are not deleted."""

    def __init__(self, blocks: Sequence[Block]):
        self.places = [(block.tracks, block.live) for block in blocks]
        self.ends = np.cumsum([len(live) for _, live in self.places])

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def __iter__(self) -> Iterator[Track]:
        for tracks, live in self.places:
            yield from tracks_at(tracks, live)

    @overload
    def __getitem__(self, index: int) -> Track: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Track]: ...

    def __getitem__(self, index: int | slice) -> Track | Sequence[Track]:
        if isinstance(index, slice):
            return [self[position] for position in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        index %= len(self)
        number = int(np.searchsorted(self.ends, index, "right"))
        tracks, live = self.places[number]
        return tracks[int(live[index - (self.ends[number] - len(live))])]


def _tidied(blocks: list[Block]) -> tuple[Block, ...]:
    """The same tracks in the same order, in blocks that are neither mostly deleted nor too many."""
    blocks = [merged([b]) if b.deleted.mean() > MOST_DELETED else b for b in blocks if len(b.live)]
    if len(blocks) > MOST_BLOCKS:
        # The last ones, up to the first that is larger than all behind it: so a row is rarely copied.
        sizes = np.array([len(block.tracks) for block in blocks])
        behind = np.cumsum(sizes[::-1])[::-1] - sizes
        first = int(np.flatnonzero(sizes <= behind)[0]) if (sizes <= behind).any() else len(blocks) - MOST_BLOCKS // 2
        blocks = [*blocks[:first], merged(blocks[first:])]
    return tuple(blocks)
