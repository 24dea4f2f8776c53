"""The tags of a store's tracks: `tags.jsonl` in its folder, one line per track, written by `viml tag STORE`."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm

from viml_hf.errors import ViMLError, in_one_line, shown
from viml_hf.features.record_journal import RecordJournal
from viml_hf.features.store import Store
from viml_hf.features.store_format import StoreItem
from viml_hf.tagging.tagger import MusicTagger
from viml_hf.tagging.track_tags import DEFAULT_THRESHOLD, TrackTags

TAGS_FILE = "tags.jsonl"
DIGITS = 4  # of a confidence


def tag_store(store: Store, tagger: MusicTagger, name: str, *, progress: bool = True) -> int:
    """Tag the music of a store's items, from the files that it was made of; returns how many could not be tagged.

    A file that fails is named and left out. A rerun goes on where it stopped, and tags changed files anew.

    Raises:
        ViMLError: The store has tags by a tagger of another name: tags of two are not mixed.
    """
    path = store.folder / TAGS_FILE
    journal, done = RecordJournal(path), {}
    for record in journal.read():
        if record.get("tagger") != name:
            raise ViMLError(
                f"{path}: made by {shown(str(record.get('tagger')))}, not by {name}; delete the file to tag anew"
            )
        done[record["id"]] = record.get("source")
    items = [item for item in store.items if len(item.audio) and done.get(item.id) != _source(item)]
    failed = 0
    for item in tqdm(items, desc="tag", unit="track", disable=not progress):
        try:
            if "audio_path" not in item.fields:
                raise ViMLError(f"{item.id}: the store was not made of a music file of it; extract one to tag it")
            tags = tagger.tag(item.fields["audio_path"], start=item.fields.get("start"), end=item.fields.get("end"))
        except (ViMLError, OSError) as error:
            failed += 1
            tqdm.write(f"skipped: {in_one_line(error)}", file=sys.stderr)
            continue
        record = {"id": item.id, "tagger": name, "source": _source(item), "threshold": tagger.threshold}
        found = tags.to_record().items()
        rounded = {category: {tag: round(value, DIGITS) for tag, value in own.items()} for category, own in found}
        journal.append({**record, "tags": rounded})
    return failed


def open_tags(store_folder: str | Path) -> RecordJournal:
    """The tags of a store, for `read_tags`; its `done` are the ids of the tagged tracks."""
    path = Path(store_folder) / TAGS_FILE
    if not path.is_file():
        raise ViMLError(f"{store_folder}: no tags yet; run `viml tag {store_folder} --tagger TAGGER` first")
    return RecordJournal(path)


def stored_threshold(store_folder: str | Path) -> float:
    """The threshold of the tagger that a store was tagged by; the paper's for tags of earlier versions, or none."""
    path = Path(store_folder) / TAGS_FILE
    first = next(iter(RecordJournal(path).read()), {}) if path.is_file() else {}
    return first.get("threshold", DEFAULT_THRESHOLD)


def read_tags(tagged: RecordJournal) -> Iterator[tuple[str, TrackTags]]:
    """Id and tags of every tagged track, one at a time, of what `open_tags` returns."""
    for record in tagged.read():
        try:
            yield record["id"], TrackTags.from_record(record.get("tags"))
        except ViMLError as error:
            raise ViMLError(f"{tagged.path}: {shown(record['id'])}: {error}; delete its line to tag it anew") from error


def _source(item: StoreItem) -> list[Any]:
    """What the tags were heard in: the checksum of the item's files, and the excerpt."""
    return [item.fields.get(name) for name in ("sha256", "start", "end")]
