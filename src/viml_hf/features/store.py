"""Reading a store: the base features of many items on disk, with their texts and where they came from.

A store is a folder: `store.json`, `items.parquet`, `journal.jsonl` and one safetensors file per shard and modality, of
packed float16 rows. `viml_hf.features.store_writer` makes one.
"""

import contextlib
import json
from collections.abc import Mapping
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from viml_hf.errors import ViMLError
from viml_hf.features.checksums import damaged_file, digest, unsealed
from viml_hf.features.hf_datasets import dataset_of_items, write_dataset_as_store
from viml_hf.features.json_files import misfit
from viml_hf.features.named_texts import read_texts
from viml_hf.features.store_format import (
    ITEMS_FILE,
    JOURNAL_FILE,
    MODALITIES,
    NULL_TEXT_FILE,
    SCHEMA_VERSION,
    STORE_FILE,
    VERIFIED_FILE,
    RowRange,
    StoreItem,
    StoreSpec,
    read_items,
    read_journal,
    shard_name,
    with_todays_names,
)

if TYPE_CHECKING:
    from datasets import Dataset

_SPEC = {"encoders": {...: str}, "widths": dict.fromkeys(MODALITIES, int), ...: object}
NAMED_TEXTS = -1  # in the place of a shard's number: the rows of the texts that a store was opened with


class Store:
    """A finished store, opened for reading.

    Raises:
        ViMLError: The folder is not a store, is unfinished, is of another schema, or a shard is damaged.

    Example:
        >>> import numpy as np, tempfile
        >>> from viml_hf.features import Store, StoreSpec, StoreWriter
        >>> folder = tempfile.mkdtemp()
        >>> names = dict.fromkeys(["video", "audio", "text"], "descriptors")
        >>> with StoreWriter(folder, StoreSpec(names, {"video": 4, "audio": 3, "text": 2}), np.zeros(2)) as writer:
        ...     writer.add("a", video=np.ones((2, 4)), audio=np.ones((3, 3)), text=np.ones((1, 2)), texts=["pop"])
        >>> store = Store(folder)
        >>> store.rows("video", store.items[0].video).shape
        torch.Size([2, 4])
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        description = self._read_description()
        self.spec = self._read_spec(description)
        entries = (entry for entry in read_journal(self.folder) if entry is not None)
        self.checksums = {name: checksum for entry in entries for name, checksum in entry["files"].items()}
        self.items = read_items(self.folder / ITEMS_FILE)
        self.null_text = self._load_null_text()
        self._shards: dict[tuple[str, int], Tensor] = {}
        self.texts: str | None = None  # the name of those that `with_texts` put in the place of the store's own
        # At the first open, and again when the size or time of a shard is another one than then.
        verified = self.folder / VERIFIED_FILE
        if not verified.exists() or verified.read_bytes() != self._stamps().encode():
            self.verify()

    def __len__(self) -> int:
        return len(self.items)

    def __getstate__(self) -> dict[str, Any]:
        # Workers map the shards themselves: sending the rows would copy them.
        return {**self.__dict__, "_shards": {}}

    def usable(self, modalities: tuple[str, ...] = ("video", "audio")) -> list[StoreItem]:
        """The items that have features of all the given modalities."""
        return [item for item in self.items if all(len(getattr(item, modality)) for modality in modalities)]

    def rows(self, modality: str, rows: RowRange) -> Tensor:
        """Rows `(length, width)` float16, a view into the shard."""
        if not len(rows):
            return torch.zeros(0, self.spec.widths[modality], dtype=torch.float16)
        key = (modality, rows.shard)
        if key not in self._shards:
            self._shards[key] = self._load_shard(modality, rows.shard)
        return self._shards[key][rows.start : rows.stop]

    def with_texts(self, name: str) -> "Store":
        """The same store with other texts: those that `viml describe` wrote under a name. An item without has none.

        Raises:
            ViMLError: There are no such texts, or they are damaged.

        Example:
            >>> store.with_texts("prompt2text").items[0].texts  # doctest: +SKIP
            ('Upbeat pop with female vocals.',)
        """
        found = read_texts(self.folder, name)
        rows = {item_id: row for row, item_id in enumerate(found.ids)}
        other = copy(self)
        other.texts, other._shards = name, {("text", NAMED_TEXTS): found.features}
        none: dict[str, Any] = {"text": RowRange(), "texts": ()}
        other.items = [
            replace(item, text=RowRange(NAMED_TEXTS, row, row + 1), texts=(found.texts[row],))
            if (row := rows.get(item.id)) is not None
            else replace(item, **none)
            for item in self.items
        ]
        return other

    def check_finite(self) -> None:
        """Refuse a store with NaN or infinite features, with a `ViMLError` that names the first item."""
        for item in self.items:
            for modality in MODALITIES:
                if not torch.isfinite(self.rows(modality, getattr(item, modality))).all():
                    raise ViMLError(
                        f"{self.folder}: item {item.id!r} has {modality} features that are not finite; extract it again"
                    )

    def to_dataset(self, *, with_errors: bool = False, cache_dir: str | Path | None = None) -> "Dataset":
        """The store as a `datasets.Dataset`, one row per item, written to disk as it is made.

        Args:
            with_errors: Also the items with an error.
            cache_dir: Where the dataset's file is written; the cache of `datasets` by default.

        Returns:
            Columns `id`, `video`, `audio`, `text` (lists of rows, float16; empty where there are none), `texts`, those
            of `FIELD_TYPES`, `error`, and all other fields as JSON in `fields`.

        Raises:
            ViMLError: The package `datasets` is not installed.

        Example:
            >>> store.to_dataset().filter(lambda row: row["split"] == "train")  # doctest: +SKIP
        """
        return dataset_of_items(self, with_errors, cache_dir)

    @classmethod
    def from_dataset(
        cls,
        dataset: "Dataset",
        folder: str | Path,
        *,
        encoders: Mapping[str, str] | None = None,
        null_text: Any = None,
        **spec_fields: Any,
    ) -> "Store":
        """Write a store from a dataset: the columns of `to_dataset`, or plain columns of features.

        Args:
            dataset: Any of the columns of `to_dataset`. The names of a model's inputs, such as `video_features`, mean
                the same; one row may stand for a list of one, and a string in `text` for `texts`. Without `id`, an
                item is named by its row's number. Any other column becomes a field.
            folder: The store's folder, new or empty.
            encoders: Encoder name per modality; "unknown" by default.
            null_text: Base feature `(text_width,)` of the empty string; zeros by default.
            spec_fields: Further fields of [`StoreSpec`]. `widths` are those of the first rows with features by default.

        Returns:
            The finished store.

        Raises:
            ViMLError: A width is neither given nor found, an item is unfit, or the folder holds a store.

        Example:
            >>> Store.from_dataset(dataset, "copy", null_text=store.null_text, **asdict(store.spec))  # doctest: +SKIP
        """
        write_dataset_as_store(dataset, folder, encoders, null_text, spec_fields)
        return cls(folder)

    def verify(self) -> None:
        """Compare every shard with its checksum; a `ViMLError` names one that is missing or damaged."""
        name = damaged_file(self.folder, self.checksums) or self._damaged_journal()
        if name is not None:
            state = "damaged" if (self.folder / name).exists() else "missing"
            raise ViMLError(f"{self.folder / name}: the file is {state}; run the extraction again")
        # A store on a read-only disk is verified at every open.
        with contextlib.suppress(OSError):
            (self.folder / VERIFIED_FILE).write_text(self._stamps())

    def _damaged_journal(self) -> str | None:
        """The journal, where it has lost a shard that an item is in."""
        ranges = ((modality, getattr(item, modality)) for item in self.items for modality in MODALITIES)
        used = {shard_name(modality, rows.shard) for modality, rows in ranges if len(rows)}
        return JOURNAL_FILE if used - self.checksums.keys() else None

    def _stamps(self) -> str:
        paths = [self.folder / name for name in sorted(self.checksums)]
        return json.dumps([(p.name, p.stat().st_size, p.stat().st_mtime_ns) if p.exists() else p.name for p in paths])

    def _load_shard(self, modality: str, shard: int) -> Tensor:
        if shard == NAMED_TEXTS and self.texts is not None:
            return read_texts(self.folder, self.texts).features
        path = self.folder / shard_name(modality, shard)
        try:
            return load_file(path)["features"]
        except (OSError, SafetensorError) as error:
            raise ViMLError(f"{path}: cannot be read ({error}); run the extraction again") from error

    def _load_null_text(self) -> Tensor:
        path = self.folder / NULL_TEXT_FILE
        try:
            with safe_open(path, "pt") as file:
                null_text = file.get_tensor("features")
                if (file.metadata() or {}).get("sha256") == digest(null_text.tolist()):
                    return null_text
        except (OSError, SafetensorError):
            pass
        raise ViMLError(f"{path}: the file is damaged; run the extraction again")

    def _read_spec(self, description: dict[str, Any]) -> StoreSpec:
        try:
            if misfit(description.get("spec"), _SPEC) is None and min(description["spec"]["widths"].values()) > 0:
                return StoreSpec(**with_todays_names(description["spec"]))
        except TypeError:  # a field that no spec has
            pass
        raise ViMLError(f"{self.folder / STORE_FILE}: the file is damaged; run the extraction again")

    def _read_description(self) -> dict[str, Any]:
        path = self.folder / STORE_FILE
        if not path.exists():
            journal = (self.folder / JOURNAL_FILE).exists()
            hint = "its extraction is unfinished: run it again" if journal else "give the folder of an extracted store"
            raise ViMLError(f"{self.folder}: not a store (no {STORE_FILE}); {hint}")
        text = path.read_bytes()
        try:
            version = json.loads(text).get("schema_version")
        except (ValueError, AttributeError, RecursionError):
            version = SCHEMA_VERSION
        if version != SCHEMA_VERSION:
            raise ViMLError(
                f"{path}: schema version {version!r}, but this version reads {SCHEMA_VERSION}; extract the store again"
            )
        description = unsealed(text)
        if description is None:
            raise ViMLError(f"{path}: the file is damaged; run the extraction again")
        return description
