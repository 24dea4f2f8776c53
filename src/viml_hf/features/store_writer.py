"""Writing a store: shard by shard, each committed whole, so that a crash loses at most the shard in hand."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from viml_hf.errors import ViMLError
from viml_hf.features.store import (
    ITEMS_FILE,
    JOURNAL_FILE,
    MODALITIES,
    NULL_TEXT_FILE,
    SCHEMA_VERSION,
    STORE_FILE,
    RowRange,
    StoreItem,
    StoreSpec,
    as_rows,
    damaged_file,
    item_from_record,
    item_to_record,
    read_journal,
    sha256_of,
    write_items,
)


class StoreWriter:
    """Writes a store, or goes on with one that was interrupted.

    A shard is written under a temporary name, renamed, and then named in the journal with its checksums; `store.json`
    comes last. Items of earlier sessions are in `done`; adding one of them again is an error.

    Args:
        folder: The store's folder; made if it does not exist.
        spec: What the features are.
        null_text: Base feature `(text_width,)` of the empty string.
        shard_items: Items per shard.

    Raises:
        ViMLError: The folder holds a store of other features.
    """

    def __init__(self, folder: str | Path, spec: StoreSpec, null_text: Any, *, shard_items: int = 256):
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.spec = spec
        self.shard_items = shard_items
        # What is damaged or gone since it was committed is extracted again.
        committed = read_journal(self.folder)
        self._journal = [entry for entry in committed if damaged_file(self.folder, entry) is None]
        if len(self._journal) < len(committed):
            # Until then the store is unfinished: its list of items names shards that will be others.
            (self.folder / STORE_FILE).unlink(missing_ok=True)
        self._check_same_features()
        journaled = [item_from_record(record) for entry in self._journal for record in entry["items"]]
        # An item that was extracted again counts as it was last.
        self.items = list({item.id: item for item in journaled}.values())
        self.done = {item.id for item in self.items if item.error is None}
        self._new: list[tuple[StoreItem, dict[str, np.ndarray]]] = []
        self._write_journal()
        null = as_rows("the null text", np.asarray(null_text, np.float32)[None], spec.widths["text"])[0]
        self._write_tensors(NULL_TEXT_FILE, null)

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What was extracted stays, whatever went wrong after it; but only a whole run makes a finished store.
        self._commit()
        if kind is None:
            self._finish()

    def add(
        self,
        item_id: str,
        *,
        video: Any = None,
        audio: Any = None,
        text: Any = None,
        texts: Sequence[str] = (),
        **fields: Any,
    ) -> None:
        """Add one item.

        Args:
            item_id: Its unique name.
            video: Features `(segments, width)`; `None` where it has none.
            audio: Features `(segments, width)`.
            text: Features `(texts, width)`.
            texts: The texts, one per row of `text`.
            fields: Anything else that JSON can hold.

        Raises:
            ViMLError: The id is taken, a shape is wrong, or a value is not finite or cannot be stored.
        """
        given = {"video": video, "audio": audio, "text": text}
        features = {modality: rows for modality, rows in given.items() if rows is not None}
        self.add_item(StoreItem(item_id, texts=tuple(texts), fields=fields), features)

    def add_error(self, item_id: str, error: str, **fields: Any) -> None:
        """Record that an item could not be extracted, and why."""
        self.add_item(StoreItem(item_id, fields=fields, error=error), {})

    def add_item(self, item: StoreItem, features: Mapping[str, Any]) -> None:
        """Add one item with its features by modality; its row ranges are set here.

        Raises:
            ViMLError: As `add`.
        """
        rows = {
            modality: as_rows(f"{item.id}: {modality}", given, self.spec.widths[modality])
            for modality, given in features.items()
        }
        if len(item.texts) != len(rows.get("text", ())):
            raise ViMLError(
                f"{item.id}: {len(item.texts)} texts, but {len(rows.get('text', ()))} rows of text features"
            )
        if item.id in self.done:
            raise ViMLError(f"item {item.id!r} is in {self.folder} already; give every item an id of its own")
        try:
            json.dumps(item_to_record(item), ensure_ascii=False).encode()
        except (TypeError, ValueError) as error:
            raise ViMLError(f"item {item.id!r} cannot be stored ({error}); ids and fields are JSON in UTF-8") from error
        self.done.add(item.id)
        self._new.append((item, rows))
        if len(self._new) >= self.shard_items:
            self._commit()

    def forget(self, ids: Iterable[str]) -> None:
        """Leave items of earlier sessions out of the finished store, so that they can be added anew."""
        unwanted = set(ids)
        self.items = [item for item in self.items if item.id not in unwanted]
        self.done -= unwanted

    def _commit(self) -> None:
        """Write the items in hand as one shard."""
        if not self._new:
            return
        shard = max((entry["shard"] for entry in self._journal), default=-1) + 1
        items, files = [item for item, _ in self._new], {}
        for modality in MODALITIES:
            packed = [rows.get(modality) for _, rows in self._new]
            if not any(rows is not None for rows in packed):
                continue
            offset = 0
            for index, rows in enumerate(packed):
                length = 0 if rows is None else len(rows)
                found: dict[str, Any] = {modality: RowRange(shard, offset, offset + length)}
                items[index] = replace(items[index], **found)
                offset += length
            name = f"{modality}-{shard:05d}.safetensors"
            self._write_tensors(name, np.concatenate([rows for rows in packed if rows is not None]))
            files[name] = sha256_of(self.folder / name)
        entry = {"shard": shard, "files": files, "items": [item_to_record(item) for item in items]}
        self._journal.append(entry)
        with (self.folder / JOURNAL_FILE).open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.items += items
        self._new = []

    def _write_journal(self) -> None:
        """Leave out lines that do not count: one cut short by a crash would spoil the next one."""
        temporary = self.folder / f"{JOURNAL_FILE}.tmp"
        temporary.write_text("".join(json.dumps(entry) + "\n" for entry in self._journal), encoding="utf-8")
        temporary.replace(self.folder / JOURNAL_FILE)

    def _finish(self) -> None:
        """Write `items.parquet` and, last, `store.json`. An item that failed before and is here now counts once."""
        items = {item.id: item for item in self.items}
        order = sorted(items.values(), key=lambda item: item.id)
        write_items(self.folder / ITEMS_FILE, order)
        counts = {"items": len(order), "errors": sum(item.error is not None for item in order)}
        counts |= {modality: sum(len(getattr(item, modality)) for item in order) for modality in MODALITIES}
        self._write_text(STORE_FILE, {"schema_version": SCHEMA_VERSION, "spec": asdict(self.spec), "counts": counts})

    def _check_same_features(self) -> None:
        """Refuse to mix features: the spec is stored from the first shard on."""
        path = self.folder / "spec.json"
        if path.exists() and json.loads(path.read_text()) != asdict(self.spec):
            raise ViMLError(
                f"{self.folder}: holds features of {json.loads(path.read_text())['encoders']}, not of "
                f"{self.spec.encoders}; take another folder, or the same encoders"
            )
        self._write_text("spec.json", asdict(self.spec))

    def _write_text(self, name: str, content: dict[str, Any]) -> None:
        temporary = self.folder / f"{name}.tmp"
        temporary.write_text(json.dumps(content, indent=1) + "\n")
        temporary.replace(self.folder / name)

    def _write_tensors(self, name: str, rows: np.ndarray) -> None:
        temporary = self.folder / f"{name}.tmp"
        save_file({"features": torch.from_numpy(np.ascontiguousarray(rows))}, temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(self.folder / name)
