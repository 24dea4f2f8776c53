"""Writing a store: shard by shard, each committed whole, so that a crash loses at most the shard in hand."""

import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from viml_hf.errors import ViMLError, shown
from viml_hf.features.atomic_files import append_line, lock_folder, replacing, unlock_folder, write_tensors
from viml_hf.features.checksums import damaged_file, digest, sealed, sha256_of
from viml_hf.features.json_files import misfit, read_json
from viml_hf.features.store_format import (
    ITEMS_FILE,
    JOURNAL_FILE,
    JOURNAL_ITEMS,
    MODALITIES,
    NULL_TEXT_FILE,
    SCHEMA_VERSION,
    STORE_FILE,
    RowRange,
    StoreItem,
    StoreSpec,
    as_rows,
    item_from_record,
    read_journal,
    shard_name,
    with_todays_names,
    write_items,
)

SPEC_FILE = "spec.json"
# The fingerprints say whether features are the same; these say where they come from.
INFORMATION = ("revisions", "licences", "spaces")
OWN_FILE = re.compile(rf"({'|'.join(MODALITIES)})-\d+\.safetensors|.*\.tmp")


@dataclass
class Shard:
    """A committed shard: its files with their checksums, and its items as they were committed."""

    number: int
    files: dict[str, str]
    items: list[StoreItem]

    def to_line(self) -> str:
        """Its line of the journal."""
        records = list(map(asdict, self.items))
        return json.dumps(sealed({"shard": self.number, "files": self.files, "items": records})) + "\n"


class StoreWriter:
    """Writes a store, or goes on with one that was interrupted.

    A shard is written under a temporary name, renamed, and then named in the journal with its checksums; `store.json`
    comes last. Items of earlier sessions that have features (or nothing to extract) are in `done`; adding one of them
    again is an error. The folder is locked until the writer is left, or its process ends in whatever way.

    Args:
        folder: The store's folder; made if it does not exist.
        spec: What the features are.
        null_text: Base feature `(text_width,)` of the empty string.
        shard_items: Items per shard.
        commit_seconds: Age in seconds of a shard's first item at which the shard is committed even if it has fewer
            items; looked at when an item is added.

    Raises:
        ViMLError: The folder holds a store of other features, or another writer is at work in it.
    """

    def __init__(
        self,
        folder: str | Path,
        spec: StoreSpec,
        null_text: Any,
        *,
        shard_items: int = 256,
        commit_seconds: float = 300.0,
    ):
        self.folder, self.spec = Path(folder), spec
        self.shard_items, self.commit_seconds = shard_items, commit_seconds
        self._new: list[tuple[StoreItem, dict[str, np.ndarray]]] = []
        self._first_added = 0.0
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = lock_folder(self.folder)
        try:
            self._check_same_features()
            self._shards = self._committed_shards()
            # An item that was extracted again counts as it was last.
            self._items = {item.id: item for shard in self._shards for item in shard.items}
            self.done = {item.id for item in self._items.values() if item.has_features or item.error is None}
            null = as_rows("the null text", np.asarray(null_text, np.float32)[None], spec.widths["text"])[0]
            self._write_tensors(NULL_TEXT_FILE, null, {"sha256": digest(null.tolist())})
        except BaseException:
            unlock_folder(self._lock)
            raise

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: Any) -> None:
        # What was extracted stays, whatever went wrong after it; but only a whole run makes a finished store.
        try:
            self._commit()
            if kind is None:
                self._finish()
        finally:
            unlock_folder(self._lock)

    @property
    def items(self) -> list[StoreItem]:
        """The committed items, each as it was last."""
        return list(self._items.values())

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
        """Record that an item could not be extracted, and why. It may be added again."""
        self.add_item(StoreItem(item_id, fields=fields, error=error), {})

    def add_item(self, item: StoreItem, features: Mapping[str, Any]) -> None:
        """Add one item with its features by modality; its row ranges are set here.

        An item with features may have an error too: what of it could not be extracted. Refused is what `add` refuses.
        """
        rows = {
            modality: as_rows(f"{item.id}: {modality}", given, self.spec.widths[modality])
            for modality, given in features.items()
        }
        text_rows = len(rows.get("text", ()))
        if len(item.texts) != text_rows:
            raise ViMLError(f"{item.id}: {len(item.texts)} texts, but {text_rows} rows of text features")
        if item.id in self.done:
            raise ViMLError(f"item {item.id!r} is in {self.folder} already; give every item an id of its own")
        if not all(isinstance(text, str) for text in (item.id, *item.texts, item.error or "")):
            raise ViMLError(f"item {item.id!r}: its id, texts and error are to be strings")
        try:
            record = json.dumps(asdict(item), ensure_ascii=False)
            record.encode()
        except (TypeError, ValueError) as error:
            raise ViMLError(f"item {item.id!r} cannot be stored ({error}); ids and fields are JSON in UTF-8") from error
        if item.error is None or any(len(given) for given in rows.values()):
            self.done.add(item.id)
        if not self._new:
            self._first_added = time.monotonic()
        # As a later session will read it: a tuple, say, becomes a list.
        self._new.append((item_from_record(json.loads(record)), rows))
        if len(self._new) >= self.shard_items or time.monotonic() - self._first_added >= self.commit_seconds:
            self._commit()

    def forget(self, ids: Iterable[str]) -> None:
        """Leave items of earlier sessions out of the finished store, so that they can be added anew."""
        for item_id in ids:
            self._items.pop(item_id, None)
            self.done.discard(item_id)

    def load_rows(self, item: StoreItem) -> dict[str, np.ndarray]:
        """Rows `(length, width)` float16 of each modality of a committed item, also of one that has been forgotten.

        They are to be added again under another id, as `add_item` takes them. A shard that cannot be read is an error.
        """
        features = {}
        for modality in MODALITIES:
            rows: RowRange = getattr(item, modality)
            path = self.folder / shard_name(modality, rows.shard)
            if len(rows):
                try:
                    with safe_open(path, "np") as file:
                        features[modality] = file.get_slice("features")[rows.start : rows.stop]
                except (OSError, SafetensorError) as error:
                    raise ViMLError(f"{path}: cannot be read ({error}); run the extraction again") from error
        return features

    def _commit(self) -> None:
        if not self._new:
            return
        shard = Shard(self._shards[-1].number + 1 if self._shards else 0, {}, [item for item, _ in self._new])
        for modality in MODALITIES:
            packed = [rows.get(modality, ()) for _, rows in self._new]
            if not any(map(len, packed)):
                continue
            offset = 0
            for index, rows in enumerate(packed):
                found: dict[str, Any] = {modality: RowRange(shard.number, offset, offset + len(rows))}
                shard.items[index] = replace(shard.items[index], **found)
                offset += len(rows)
            name = shard_name(modality, shard.number)
            self._write_tensors(name, np.concatenate([rows for rows in packed if len(rows)]))
            shard.files[name] = sha256_of(self.folder / name)
        append_line(self.folder / JOURNAL_FILE, shard.to_line())
        self._shards.append(shard)
        self._items |= {item.id: item for item in shard.items}
        self._new = []

    def _committed_shards(self) -> list[Shard]:
        """The shards of earlier sessions. What is damaged or gone since it was committed is extracted again."""
        entries = list(read_journal(self.folder))
        whole = [
            entry
            for entry in entries
            if entry is not None
            and misfit(entry["items"], JOURNAL_ITEMS) is None
            and damaged_file(self.folder, entry["files"]) is None
        ]
        if len(whole) < len(entries):
            # Until then the store is unfinished: its list of items names shards that will be others.
            (self.folder / STORE_FILE).unlink(missing_ok=True)
        shards = [Shard(one["shard"], one["files"], list(map(item_from_record, one["items"]))) for one in whole]
        # One cut short by a crash would spoil the next line.
        self._write_journal(shards)
        return shards

    def _write_journal(self, shards: Iterable[Shard]) -> None:
        with replacing(self.folder / JOURNAL_FILE) as path, path.open("w", encoding="utf-8") as file:
            file.writelines(shard.to_line() for shard in shards)

    def _finish(self) -> None:
        """Write `items.parquet` and `store.json`, then remove what they do not need.

        Each step leaves a store that can be read: the items name their shards, the journal names at least those, and a
        file goes only when neither names it.
        """
        order = sorted(self._items.values(), key=lambda item: item.id)
        with replacing(self.folder / ITEMS_FILE) as path:
            write_items(path, order)
        errors = [item for item in order if item.error is not None]
        counts = {"items": len(order), "errors": sum(not item.has_features for item in errors)}
        counts["partial"] = len(errors) - counts["errors"]
        counts |= {modality: sum(len(getattr(item, modality)) for item in order) for modality in MODALITIES}
        description = {"schema_version": SCHEMA_VERSION, "spec": asdict(self.spec), "counts": counts}
        self._write_json(STORE_FILE, sealed(description))
        # Items that were forgotten or extracted again leave the journal, and so do the shards that they leave empty.
        kept = [replace(s, items=[item for item in s.items if self._items.get(item.id) is item]) for s in self._shards]
        if kept != self._shards:
            self._shards = [shard for shard in kept if shard.items]
            self._write_journal(self._shards)
        named = {name for shard in self._shards for name in shard.files}
        for path in self.folder.iterdir():
            if OWN_FILE.fullmatch(path.name) and path.name not in named and path.is_file():
                path.unlink()

    def _check_same_features(self) -> None:
        """Refuse to mix features: the spec is stored from the first shard on."""
        path, given = self.folder / SPEC_FILE, asdict(self.spec)
        found = read_json(path, dict, "delete it, if the features in its folder are still those that are wanted")
        if found is not None:
            # What an older version did not write is as by default.
            known = asdict(StoreSpec({}, {})) | with_todays_names(found)
            for name in sorted(known.keys() - INFORMATION):
                if known[name] != given.get(name):
                    raise ViMLError(
                        f"{self.folder}: holds features with {shown(f'{name}={known[name]}')}, not {given.get(name)}; "
                        "take another folder, or the same encoders and settings"
                    )
        self._write_json(SPEC_FILE, given)

    def _write_json(self, name: str, content: dict[str, Any]) -> None:
        with replacing(self.folder / name) as path:
            path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

    def _write_tensors(self, name: str, rows: np.ndarray, metadata: dict[str, str] | None = None) -> None:
        write_tensors(self.folder / name, {"features": torch.from_numpy(np.ascontiguousarray(rows))}, metadata)
