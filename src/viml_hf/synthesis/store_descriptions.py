"""Descriptions of a store's tracks: written by a method from their tags, and encoded to train on.

`texts/METHOD.jsonl` in the store's folder is the journal, with model, seed and check of every description;
`viml_hf.features.named_texts` keeps the finished set beside it.
"""

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
from tqdm import tqdm

from viml_hf.encoders.encoder_settings import EncoderSettings
from viml_hf.errors import ViMLError
from viml_hf.features.checksums import digest
from viml_hf.features.named_texts import FOLDER, write_texts
from viml_hf.features.record_journal import RecordJournal
from viml_hf.features.store import Store
from viml_hf.synthesis.description import Method
from viml_hf.synthesis.quality_report import QualityRow, measure_quality
from viml_hf.tagging.store_tags import open_tags, read_tags
from viml_hf.tagging.tag_vocabulary import TagVocabulary
from viml_hf.tagging.track_tags import DEFAULT_THRESHOLD, TrackTags


def describe_store(store: Store, method: Method, *, progress: bool = True) -> int:
    """Describe the tagged tracks of a store; returns how many got the text of rules because the method failed on them.

    A rerun resumes where it stopped and repeats no request; a track whose kept tags have changed is described again.
    """
    folder = store.folder / FOLDER
    folder.mkdir(exist_ok=True)
    journal = RecordJournal(folder / f"{method.name}.jsonl")
    made_of, made_by = {}, set()
    for record in journal.read():
        made_of[record["id"]] = record.get("told")
        made_by.add((record["model"], record["seed"]))
    if made_by - {(method.model, method.seed)}:
        model, seed = sorted(made_by)[0]
        raise ViMLError(
            f"{folder / method.name}.jsonl: made with model {model!r} and seed {seed}, not {method.model!r} and "
            f"{method.seed}; take those, or delete the file"
        )
    tagged = open_tags(store.folder)
    known = {item.id for item in store.items}
    asked: dict[str, str] = {}  # those of the batches under way

    def tracks() -> Iterator[tuple[str, TrackTags]]:
        for track_id, tags in read_tags(tagged):
            told = digest(tags.kept(method.threshold))
            if track_id in known and made_of.get(track_id) != told:
                asked[track_id] = told
                yield track_id, tags

    total = len(known & (tagged.done - journal.done))
    for found in tqdm(method.describe(tracks()), desc=method.name, total=total, unit="track", disable=not progress):
        journal.append(asdict(found) | {"told": asked.pop(found.id)})
    encode_descriptions(store, method.name, progress=progress)
    return sum(record["fallback"] for record in journal.read())


def encode_descriptions(store: Store, name: str, *, progress: bool = True) -> None:
    """Encode the descriptions that are not empty with the store's text encoder, as a named set of texts."""
    settings = EncoderSettings(text=store.spec.encoders["text"], dtypes={"text": store.spec.dtypes.get("text", "auto")})
    encoder = settings.load()
    expected = store.spec.fingerprints.get("text")
    if expected is not None and encoder.fingerprints()["text"] != expected:
        raise ViMLError(
            f"{store.folder}: its texts were encoded by another {settings.text}; extract the store again, or pin the "
            "encoder's revision"
        )
    journal = RecordJournal(store.folder / FOLDER / f"{name}.jsonl")

    def rows() -> Iterator[tuple[str, str, np.ndarray]]:
        for record in tqdm(journal.read(), desc="encode", total=len(journal.done), unit="text", disable=not progress):
            if record["text"]:
                yield record["id"], record["text"], encoder.encode_text(record["text"])[0]

    write_texts(store.folder, name, rows(), store.spec.widths["text"])


def report_of(store: Store, name: str, vocabulary: TagVocabulary, threshold: float = DEFAULT_THRESHOLD) -> QualityRow:
    """Measure a method's descriptions in a store, one at a time; fallbacks to rules are counted, not measured."""
    journal = RecordJournal(store.folder / FOLDER / f"{name}.jsonl")
    own = {record["id"] for record in journal.read() if not record["fallback"]}
    pairs = (
        (journal.get(track_id)["text"], tags.kept(threshold))
        for track_id, tags in read_tags(open_tags(store.folder))
        if track_id in own
    )
    return measure_quality(name, pairs, vocabulary, fallbacks=len(journal.done) - len(own))


def described_methods(store_folder: str | Path) -> list[str]:
    """The methods that have written descriptions into a store."""
    return sorted(path.stem for path in (Path(store_folder) / FOLDER).glob("*.jsonl"))
