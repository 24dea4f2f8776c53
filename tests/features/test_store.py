import json
import os
import pickle
import subprocess
import sys
from dataclasses import asdict, replace
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from viml_hf import Store, StoreSpec, StoreWriter, ViMLError
from viml_hf.features import RowRange, StoreItem, atomic_files, store_writer
from viml_hf.features.checksums import sealed, sha256_of
from viml_hf.features.store_format import FIELD_TYPES

WIDTHS = {"video": 3, "audio": 2, "text": 4}
SPEC = StoreSpec(dict.fromkeys(WIDTHS, "descriptors"), WIDTHS)


@pytest.fixture(autouse=True)
def no_wait_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda file: None)


def features(index):
    generator = np.random.default_rng(index)
    return {
        "video": generator.standard_normal((1 + index % 3, 3)),
        "audio": generator.standard_normal((2 + index % 2, 2)),
        "text": generator.standard_normal((1, 4)),
        "texts": [f"text {index}"],
    }


def fill(folder, indices, *, fail_after=None, spec=SPEC):
    with StoreWriter(folder, spec, np.arange(4) / 8, shard_items=2) as writer:
        for index in indices:
            if f"{index:02d}" in writer.done:
                continue
            if fail_after is not None and index == fail_after:
                raise RuntimeError("the power is gone")
            writer.add(f"{index:02d}", **features(index), number=index)


def check(store, indices):
    assert [item.id for item in store.items] == [f"{index:02d}" for index in indices]
    for item, index in zip(store.items, indices, strict=True):
        expected = features(index)
        for modality in WIDTHS:
            rows = store.rows(modality, getattr(item, modality))
            assert np.array_equal(rows.numpy(), expected[modality].astype(np.float16))
        assert item.texts == (f"text {index}",)
        assert item.fields == {"number": index}


def test_what_goes_in_comes_out(tmp_path):
    fill(tmp_path, range(5))
    store = Store(tmp_path)
    check(store, range(5))
    assert len(list(tmp_path.glob("video-*.safetensors"))) == 3
    assert torch.equal(store.null_text, torch.arange(4).half() / 8)
    assert store.spec == SPEC
    counts = json.loads((tmp_path / "store.json").read_text())["counts"]
    assert counts == {"items": 5, "errors": 0, "partial": 0, "video": 9, "audio": 12, "text": 5}


def test_items_without_a_modality_and_with_an_error(tmp_path):
    with StoreWriter(tmp_path, SPEC, np.zeros(4)) as writer:
        writer.add("both", **features(0))
        writer.add("silent", video=np.ones((1, 3)))
        writer.add_error("broken", "not a media file", video_path="x.mp4")
    store = Store(tmp_path)
    assert [item.id for item in store.usable()] == ["both"]
    assert [item.id for item in store.usable(("video",))] == ["both", "silent"]
    by_id = {item.id: item for item in store.items}
    assert by_id["broken"].error == "not a media file"
    assert by_id["broken"].fields == {"video_path": "x.mp4"}
    assert store.rows("audio", by_id["silent"].audio).shape == (0, 2)


def test_forgotten_items_are_left_out(tmp_path):
    fill(tmp_path, range(4))
    with StoreWriter(tmp_path, SPEC, np.arange(4) / 8) as writer:
        writer.forget(["01", "02"])
        writer.add("02", **features(7))
    store = Store(tmp_path)
    assert [item.id for item in store.items] == ["00", "02", "03"]
    assert store.items[1].texts == ("text 7",)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"video": [[np.nan, 0, 0]]}, "not finite"),
        ({"video": np.zeros((2, 4))}, "width 3"),
        ({"audio": np.zeros(2)}, "width 2"),
        ({"text": np.zeros((2, 4)), "texts": ["one"]}, "1 texts, but 2 rows"),
    ],
)
def test_bad_features_are_refused_by_name(tmp_path, given, message):
    with StoreWriter(tmp_path, SPEC, np.zeros(4)) as writer, pytest.raises(ViMLError, match=f"item-7.*{message}"):
        writer.add("item-7", **given)


def test_verify_names_a_damaged_and_a_missing_file(tmp_path):
    fill(tmp_path, range(4))
    Store(tmp_path).verify()
    path = tmp_path / "audio-00001.safetensors"
    flip_a_bit(path)
    with pytest.raises(ViMLError, match=r"audio-00001.*damaged"):
        Store(tmp_path).verify()
    path.unlink()
    with pytest.raises(ViMLError, match=r"audio-00001.*missing"):
        Store(tmp_path).verify()


def test_another_schema_and_no_store_at_all_are_refused(tmp_path):
    with pytest.raises(ViMLError, match="not a store"):
        Store(tmp_path)
    fill(tmp_path, range(1))
    path = tmp_path / "store.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 99}))
    with pytest.raises(ViMLError, match="99"):
        Store(tmp_path)


@pytest.mark.parametrize("added", range(6))
def test_wherever_an_exception_comes_every_item_is_there_once_in_the_end(tmp_path, added):
    with pytest.raises(RuntimeError, match="power"):
        fill(tmp_path, range(6), fail_after=added)
    with StoreWriter(tmp_path, SPEC, np.arange(4) / 8) as writer:
        assert writer.done == {f"{index:02d}" for index in range(added)}
        for index in range(added, 6):
            writer.add(f"{index:02d}", **features(index), number=index)
    check(Store(tmp_path), range(6))
    Store(tmp_path).verify()


@pytest.mark.parametrize("journal_lines", [0, 1, 2])
def test_a_killed_process_loses_only_what_the_journal_does_not_name(tmp_path, journal_lines):
    """Killed before a journal line is written, its shards are there already; killed while it is, half of it is."""
    writer = StoreWriter(tmp_path, SPEC, np.arange(4) / 8, shard_items=2)
    for index in range(5):
        writer.add(f"{index:02d}", **features(index), number=index)
    del writer
    journal = tmp_path / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:journal_lines], *(line[:30] for line in lines[journal_lines:][:1])]))
    with StoreWriter(tmp_path, SPEC, np.zeros(4)) as writer:
        assert writer.done == {f"{index:02d}" for index in range(2 * journal_lines)}
    fill(tmp_path, range(5))
    check(Store(tmp_path), range(5))
    Store(tmp_path).verify()


def flip_a_bit(path):
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize("shard", [0, 1, 2])
def test_a_repair_that_is_interrupted_mixes_up_nothing(tmp_path, shard):
    """The list of items is of before, a new shard may have an old one's name: that store is unfinished again."""
    fill(tmp_path, range(6))
    flip_a_bit(tmp_path / f"video-{shard:05d}.safetensors")
    with pytest.raises(RuntimeError, match="power"):
        fill(tmp_path, [2 * shard + 1, 7, 8, 2 * shard], fail_after=8)
    with pytest.raises(ViMLError, match=r"run (it|the extraction) again"):
        check(Store(tmp_path), range(6))
    fill(tmp_path, range(8))
    check(Store(tmp_path), range(8))


def reseal(journal, old, new):
    """Let a journal name another checksum."""
    lines = [json.loads(line.replace(old, new)) for line in journal.read_text().splitlines()]
    for line in lines:
        del line["sha256"]
    journal.write_text("".join(json.dumps(sealed(line)) + "\n" for line in lines))


@pytest.mark.parametrize("value", [np.nan, -np.inf])
@pytest.mark.parametrize("modality", list(WIDTHS))
def test_check_finite_names_the_item(tmp_path, modality, value):
    fill(tmp_path, range(5))
    store = Store(tmp_path)
    store.check_finite()
    rows = getattr(store.items[3], modality)
    path = tmp_path / f"{modality}-{rows.shard:05d}.safetensors"
    damaged = load_file(path)["features"].clone()
    damaged[rows.stop - 1, 0] = value
    old = sha256_of(path)
    save_file({"features": damaged}, path)
    journal = tmp_path / "journal.jsonl"
    reseal(journal, old, sha256_of(path))
    with pytest.raises(ViMLError, match=f"item '03' has {modality} features that are not finite"):
        Store(tmp_path).check_finite()


def test_an_unreadable_shard_is_named(tmp_path):
    fill(tmp_path, range(4))
    store = Store(tmp_path)
    (tmp_path / "audio-00001.safetensors").unlink()
    (tmp_path / "text-00001.safetensors").write_bytes(b"nonsense")
    for modality in ("audio", "text"):
        with pytest.raises(ViMLError, match=f"{modality}-00001.safetensors: cannot be read"):
            store.rows(modality, getattr(store.items[3], modality))


def test_float16_is_used_to_its_end(tmp_path):
    with StoreWriter(tmp_path, SPEC, np.zeros(4)) as writer:
        writer.add("largest", audio=[[65_504.0, -65_504.0]])
        with pytest.raises(ViMLError, match=r"item: audio: .*not finite"):
            writer.add("item", audio=[[0, 65_520.0]])
    assert Store(tmp_path).rows("audio", RowRange(0, 0, 1)).tolist() == [[65_504.0, -65_504.0]]


@pytest.mark.parametrize("null_text", [np.zeros(5), np.full(4, np.nan)])
def test_a_null_text_that_is_no_text_feature_is_refused(tmp_path, null_text):
    with pytest.raises(ViMLError, match="null text"):
        StoreWriter(tmp_path, SPEC, null_text)


def test_an_id_is_taken_once_in_all_sessions(tmp_path):
    fill(tmp_path, range(3))
    with StoreWriter(tmp_path, SPEC, np.arange(4) / 8) as writer:
        with pytest.raises(ViMLError, match=r"item '01' is in .* already"):
            writer.add("01", **features(1))
        with pytest.raises(ViMLError, match=r"item '02' is in .* already"):
            writer.add_error("02", "no sound")
    check(Store(tmp_path), range(3))


def test_what_is_sent_to_a_worker_does_not_grow_with_what_was_read(tmp_path):
    fill(tmp_path, range(40))
    store = Store(tmp_path)
    before = len(pickle.dumps(store))
    check(store, range(40))
    assert len(pickle.dumps(store)) == before
    check(pickle.loads(pickle.dumps(store)), range(40))


def test_texts_and_fields_come_back_as_they_were(tmp_path):
    texts = ["", "Ærø\n\u2028„größer“ \u0000 🎵"]
    fields = {"tags": ["pop", "größer"], "nested": {"licence": None}, "seconds": 12.5}
    with StoreWriter(tmp_path, SPEC, np.zeros(4)) as writer:
        writer.add("a", text=np.zeros((2, 4)), texts=texts, **fields)
    (item,) = Store(tmp_path).items
    assert item.texts == tuple(texts)
    assert item.fields == fields


def test_a_field_that_json_cannot_hold_is_refused_at_once_and_costs_no_other_item(tmp_path):
    with StoreWriter(tmp_path, SPEC, np.arange(4) / 8) as writer:
        writer.add("00", **features(0), number=0)
        with pytest.raises(ViMLError, match="01"):
            writer.add("01", **features(1), number=np.int64(1))
    check(Store(tmp_path), range(1))


def test_an_id_that_parquet_cannot_hold_is_refused_at_once(tmp_path):
    """A file name that is not UTF-8 reaches Python with lone surrogates."""
    with StoreWriter(tmp_path, SPEC, np.arange(4) / 8) as writer:
        writer.add("00", **features(0), number=0)
        with pytest.raises(ViMLError, match="udcff"):
            writer.add("01\udcff", **features(1))
    check(Store(tmp_path), range(1))


KNOWN = {
    **{"video_path": "a.mp4", "audio_path": "a.wav", "licence": "CC0", "split": "train", "sha256": "0f"},
    **{"start": 1.5, "end": 31.25, "video_seconds": 29.9, "audio_seconds": 0.1},
    **{"video_coverage": 1.0, "audio_coverage": float("inf")},
}


def test_known_fields_are_columns_and_come_back_as_fields(tmp_path):
    with StoreWriter(tmp_path, SPEC, np.zeros(4)) as writer:
        writer.add("all", **KNOWN, tags=["pop"])
        writer.add("none")
    table = pq.read_table(tmp_path / "items.parquet")
    assert FIELD_TYPES.keys() == KNOWN.keys()
    for name, value in KNOWN.items():
        assert table.schema.field(name).type == (pa.string() if isinstance(value, str) else pa.float64())
        assert table.column(name).to_pylist() == [value, None]
    assert table.column("fields").to_pylist() == ['{"tags": ["pop"]}', "{}"]
    assert [item.fields for item in Store(tmp_path).items] == [{**KNOWN, "tags": ["pop"]}, {}]


@pytest.mark.parametrize("name", ["split", "start"])
def test_a_known_field_of_any_type_comes_back_exactly(tmp_path, name):
    values = [None, 3, True, ["a"], {"a": 0.1}, "text", 0.25]
    with StoreWriter(tmp_path, SPEC, np.zeros(4)) as writer:
        for index, value in enumerate(values):
            writer.add(str(index), **{name: value})
    found = [item.fields[name] for item in Store(tmp_path).items]
    assert [(value, type(value)) for value in found] == [(value, type(value)) for value in values]


def test_a_writer_holds_fields_as_they_are_read_later(tmp_path):
    class Split(str):
        __slots__ = ()

    with StoreWriter(tmp_path, SPEC, np.zeros(4)) as writer:
        writer.add("a", split=Split("test"), tags=("pop", "rock"), start=np.float64(0.1))
    expected = {"split": "test", "tags": ["pop", "rock"], "start": 0.1}
    assert Store(tmp_path).items[0].fields == writer.items[0].fields == expected
    assert pq.read_table(tmp_path / "items.parquet").select(["split", "start"]).to_pylist() == [
        {"split": "test", "start": 0.1}
    ]


@pytest.mark.parametrize("item", [StoreItem(7), StoreItem("a", error=7), StoreItem("a", texts=(7,))])
def test_an_id_a_text_and_an_error_are_strings(tmp_path, item):
    with (
        StoreWriter(tmp_path, SPEC, np.zeros(4)) as writer,
        pytest.raises(ViMLError, match=f"item {item.id!r}: its id, texts and error are to be strings"),
    ):
        writer.add_item(item, {"text": np.zeros((len(item.texts), 4))})


def test_another_revision_or_licence_is_no_other_feature(tmp_path):
    fill(tmp_path, range(2))
    spec = replace(SPEC, revisions={"video": "abc"}, licences={"video": "MIT"})
    fill(tmp_path, range(3), spec=spec)
    check(Store(tmp_path), range(3))
    assert Store(tmp_path).spec == spec


@pytest.mark.parametrize(
    "other",
    [
        {"encoders": {"video": "clip"}},
        {"widths": {**WIDTHS, "video": 4}},
        {"fingerprints": {"video": "1"}},
        {"frames_per_second": 1.0},
        {"segment_seconds": 5.0},
        {"dtype": "float32"},
        {"dtypes": {"video": "bfloat16"}},
        {"fast": True},
    ],
)
def test_any_other_difference_of_the_spec_is_refused_by_name(tmp_path, other):
    fill(tmp_path, range(2))
    (name,) = other
    with pytest.raises(ViMLError, match=rf"holds features with {name}=.*another folder"):
        fill(tmp_path, range(3), spec=replace(SPEC, **other, revisions={"video": "abc"}))
    check(Store(tmp_path), range(2))


def test_a_store_of_schema_1_is_extracted_again(tmp_path):
    fill(tmp_path, range(3))
    for name in ("spec.json", "store.json"):
        content = json.loads((tmp_path / name).read_text())
        spec = content.get("spec", content)
        for new in ("dtypes", "revisions", "licences", "fast"):
            del spec[new]
        (tmp_path / name).write_text(json.dumps({**content, "schema_version": 1} if spec is not content else content))
    with pytest.raises(ViMLError, match=r"schema version 1, .*extract the store again"):
        Store(tmp_path)
    with pytest.raises(ViMLError, match=r"holds features with dtypes=\{\}, not \{'video': 'bfloat16'\}"):
        fill(tmp_path, range(4), spec=replace(SPEC, dtypes={"video": "bfloat16"}))
    fill(tmp_path, range(4))
    check(Store(tmp_path), range(4))


def test_an_item_may_have_features_and_an_error(tmp_path):
    silent = StoreItem("partial", error="audio: no sound")
    with StoreWriter(tmp_path, SPEC, np.zeros(4)) as writer:
        writer.add_item(silent, {"video": np.ones((2, 3))})
        writer.add("whole", **features(0))
        writer.add_error("none", "no such file")
        writer.add("nothing to extract")
        assert writer.done == {"partial", "whole", "nothing to extract"}
        with pytest.raises(ViMLError, match="already"):
            writer.add_item(silent, {"video": np.ones((2, 3))})
    with StoreWriter(tmp_path, SPEC, np.zeros(4)) as writer:
        assert writer.done == {"partial", "whole", "nothing to extract"}
    store = Store(tmp_path)
    found = {item.id: item for item in store.items}
    assert (len(found["partial"].video), found["partial"].error) == (2, "audio: no sound")
    assert [item.id for item in store.usable(("video",))] == ["partial", "whole"]
    counts = json.loads((tmp_path / "store.json").read_text())["counts"]
    assert counts == {"items": 4, "errors": 1, "partial": 1, "video": 3, "audio": 2, "text": 1}


def test_an_item_that_failed_may_be_tried_again_in_the_same_session(tmp_path):
    with StoreWriter(tmp_path, SPEC, np.arange(4) / 8) as writer:
        writer.add_error("00", "no such file")
        writer.add("00", **features(0), number=0)
    check(Store(tmp_path), range(1))


@pytest.mark.parametrize(("seconds", "committed"), [(9.9, 0), (10.0, 2)])
def test_a_shard_is_committed_when_its_first_item_is_old(tmp_path, monkeypatch, seconds, committed):
    now = [100.0]
    monkeypatch.setattr(store_writer.time, "monotonic", lambda: now[0])
    with StoreWriter(tmp_path, SPEC, np.arange(4) / 8, commit_seconds=10.0) as writer:
        now[0] += 1000
        writer.add("00", **features(0), number=0)
        assert len(writer.items) == 0
        now[0] += seconds
        writer.add("01", **features(1), number=1)
        assert len(writer.items) == committed
        writer.add("02", **features(2), number=2)
        assert len(writer.items) == (committed or 0)
    check(Store(tmp_path), range(3))


def test_a_second_writer_is_refused_until_the_first_is_left(tmp_path):
    with StoreWriter(tmp_path, SPEC, np.arange(4) / 8) as writer:
        with pytest.raises(ViMLError, match=r"another extraction is writing into .*: wait for it or stop it"):
            fill(tmp_path, range(1))
        writer.add("00", **features(0), number=0)
    fill(tmp_path, range(2))
    check(Store(tmp_path), range(2))


def test_a_writer_that_cannot_begin_or_end_leaves_no_lock(tmp_path, monkeypatch):
    with pytest.raises(ViMLError, match="null text") as refused:
        StoreWriter(tmp_path, SPEC, np.zeros(5))
    writer = StoreWriter(tmp_path, SPEC, np.arange(4) / 8)
    writer.add("00", **features(0), number=0)
    fails_at(monkeypatch, 1, False, writer.__exit__, None, None, None)
    fill(tmp_path, range(2))
    check(Store(tmp_path), range(2))
    # Both writers are alive to here, the first in the error's traceback: it is not their end that unlocked the folder.
    assert refused.traceback
    assert writer.done == {"00"}


KILLED = """
import subprocess, sys, time
import numpy as np
from viml_hf import StoreSpec, StoreWriter
widths = {"video": 3, "audio": 2, "text": 4}
writer = StoreWriter(sys.argv[1], StoreSpec(dict.fromkeys(widths, "descriptors"), widths), np.zeros(4), shard_items=1)
writer.add("00", video=np.ones((1, 3)))
subprocess.Popen([sys.executable, "-c", "input()"], close_fds=False)
print("writing", flush=True)
time.sleep(60)
"""


def test_a_killed_writer_leaves_no_lock_though_a_process_it_started_lives_on(tmp_path):
    # That process reads what the test's end of the pipe sends, and ends with it.
    words = [sys.executable, "-c", KILLED, str(tmp_path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as killed:
        assert killed.stdout.readline() == b"writing\n"
        with pytest.raises(ViMLError, match="another extraction"):
            StoreWriter(tmp_path, SPEC, np.zeros(4))
        killed.kill()
        killed.wait()
        with StoreWriter(tmp_path, SPEC, np.zeros(4)) as writer:
            assert writer.done == {"00"}


def test_rows_of_an_earlier_session_can_be_carried_over_to_another_id(tmp_path):
    fill(tmp_path, range(5))
    expected = {item.id: item for item in Store(tmp_path).items}
    with StoreWriter(tmp_path, SPEC, np.arange(4) / 8) as writer:
        old = {item.id: item for item in writer.items}["03"]
        assert asdict(old) == asdict(expected["03"])
        writer.forget(["03"])
        writer.add_item(replace(old, id="99"), writer.load_rows(old))
        writer.add("silent", video=np.ones((1, 3)))
    with StoreWriter(tmp_path, SPEC, np.arange(4) / 8) as writer:
        by_id = {item.id: item for item in writer.items}
        assert list(writer.load_rows(by_id["silent"])) == ["video"]
    store = Store(tmp_path)
    found = {item.id: item for item in store.items}
    assert sorted(found) == ["00", "01", "02", "04", "99", "silent"]
    for modality in WIDTHS:
        rows = store.rows(modality, getattr(found["99"], modality))
        assert np.array_equal(rows.numpy(), features(3)[modality].astype(np.float16))
    assert (found["99"].texts, found["99"].fields) == (("text 3",), {"number": 3})


def names_in(folder):
    return {path.name for path in folder.iterdir()}


def test_what_no_item_needs_is_removed_in_the_end(tmp_path):
    fill(tmp_path, range(6))
    expected = names_in(tmp_path) - {f"{modality}-00001.safetensors" for modality in WIDTHS}
    (tmp_path / "video-00077.safetensors").write_bytes(b"written before a crash")
    (tmp_path / "items.parquet.tmp").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("the user's own")
    with StoreWriter(tmp_path, SPEC, np.arange(4) / 8) as writer:
        writer.forget(["02", "03", "04"])
        writer.add("04", **features(4), number=4)
    added = {f"{modality}-00003.safetensors" for modality in WIDTHS} | {"notes.txt"}
    assert names_in(tmp_path) == expected | added
    assert [[item["id"] for item in line["items"]] for line in journal_of(tmp_path)] == [["00", "01"], ["05"], ["04"]]
    fill(tmp_path, range(6))
    check(Store(tmp_path), range(6))


def journal_of(folder):
    return [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]


def test_an_item_that_fails_again_and_again_is_in_the_journal_once(tmp_path):
    for _ in range(3):
        with StoreWriter(tmp_path, SPEC, np.zeros(4)) as writer:
            writer.add_error("a", "no such file")
    assert [[item["id"] for item in line["items"]] for line in journal_of(tmp_path)] == [["a"]]


def grow(folder):
    """Make a store of 0 … 5 one of 0 … 7 without 2 and 3, with 4 anew: all of shard 1 goes, and half of shard 2."""
    with StoreWriter(folder, SPEC, np.arange(4) / 8, shard_items=2) as writer:
        writer.forget(["02", "03", "04"])
        for index in (4, 6, 7):
            if f"{index:02d}" not in writer.done:
                writer.add(f"{index:02d}", **features(index), number=index)


class Power:
    """Counts what reaches the disk, and fails at one step, or from it on as in a crash."""

    STEPS = (
        (os, "replace"),
        (os, "unlink"),
        (os, "fsync"),
        (os, "truncate"),
        (atomic_files, "save_file"),
        (store_writer, "write_items"),
    )

    def __init__(self, monkeypatch, fails):
        self.count, self.fails = 0, fails
        for module, name in self.STEPS:
            monkeypatch.setattr(module, name, self.watched(getattr(module, name)))

    def watched(self, function):
        def watching(*args, **kwargs):
            self.count += 1
            if self.fails(self.count):
                raise OSError("the power is gone")
            return function(*args, **kwargs)

        return watching


def steps_of(monkeypatch, function, *args):
    with monkeypatch.context() as patch:
        power = Power(patch, lambda step: False)
        function(*args)
    return range(1, power.count + 1)


def fails_at(monkeypatch, step, once, function, *args):
    with monkeypatch.context() as patch:
        Power(patch, lambda count: count == step if once else count >= step)
        with pytest.raises(OSError, match="power"):
            function(*args)


@pytest.mark.parametrize("once", [True, False], ids=["one step fails", "a crash"])
def test_at_whatever_step_it_fails_the_store_stays_whole_and_the_next_run_finishes_it(tmp_path, monkeypatch, once):
    before, after = [0, 1, 2, 3, 4, 5], [0, 1, 4, 5, 6, 7]
    fill(tmp_path / "all", before)
    steps = steps_of(monkeypatch, grow, tmp_path / "all")
    assert len(steps) > 30
    seen = set()
    for step in steps:
        folder = tmp_path / str(step)
        fill(folder, before)
        fails_at(monkeypatch, step, once, grow, folder)
        ids = [int(item.id) for item in Store(folder).items]
        assert ids in (before, after)
        check(Store(folder), ids)
        seen.add(len(ids) and ids[-1])
        grow(folder)
        check(Store(folder), after)
        Store(folder).verify()
        shards = {name for entry in journal_of(folder) for name in entry["files"]}
        assert {name for name in names_in(folder) if "-0" in name or "tmp" in name} == shards
    assert seen == {5, 7}


@pytest.mark.parametrize("once", [True, False], ids=["one step fails", "a crash"])
def test_at_whatever_step_the_first_run_fails_the_next_one_finishes_it(tmp_path, monkeypatch, once):
    for step in steps_of(monkeypatch, fill, tmp_path / "all", range(3)):
        folder = tmp_path / str(step)
        fails_at(monkeypatch, step, once, fill, folder, range(3))
        fill(folder, range(3))
        check(Store(folder), range(3))


@pytest.mark.parametrize("once", [True, False], ids=["one step fails", "a crash"])
def test_at_whatever_step_a_repair_fails_the_next_run_finishes_it(tmp_path, monkeypatch, once):
    fill(tmp_path / "all", range(6))
    flip_a_bit(tmp_path / "all" / "video-00002.safetensors")
    for step in steps_of(monkeypatch, fill, tmp_path / "all", range(6)):
        folder = tmp_path / str(step)
        fill(folder, range(6))
        flip_a_bit(folder / "video-00002.safetensors")
        fails_at(monkeypatch, step, once, fill, folder, range(6))
        fill(folder, range(6))
        check(Store(folder), range(6))
        Store(folder).verify()


def test_a_writer_goes_on_after_a_full_disk(tmp_path, monkeypatch):
    with StoreWriter(tmp_path, SPEC, np.arange(4) / 8, shard_items=2) as writer:
        writer.add("00", **features(0), number=0)
        for step in range(1, 11):
            add = partial(writer.add, f"{step:02d}", **features(step), number=step)
            fails_at(monkeypatch, step, True, add)
    assert len(journal_of(tmp_path)) == 1
    check(Store(tmp_path), range(11))


@pytest.mark.parametrize("damaged", [0, 1, 2])
def test_a_damaged_journal_line_costs_its_shard_alone(tmp_path, damaged):
    fill(tmp_path, range(6))
    journal = tmp_path / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    lines[damaged] = lines[damaged][20:]
    journal.write_bytes(b"".join(lines))
    with pytest.raises(ViMLError, match=r"journal.jsonl: the file is damaged; run the extraction again"):
        Store(tmp_path).verify()
    with pytest.raises(RuntimeError, match="power"):
        fill(tmp_path, [7, 8, 9], fail_after=9)
    # The new shard may have the lost one's name: the list of items is out of date.
    with pytest.raises(ViMLError, match="unfinished"):
        Store(tmp_path)
    fill(tmp_path, range(9))
    check(Store(tmp_path), range(9))


def test_every_journal_line_is_parsed_once(tmp_path, monkeypatch):
    fill(tmp_path, range(20))
    parsed = []
    loads = json.loads
    monkeypatch.setattr(json, "loads", lambda text: parsed.append(len(text)) or loads(text))
    StoreWriter(tmp_path, SPEC, np.zeros(4))
    assert len([length for length in parsed if length > 300]) == 11  # ten shards and the spec


def test_a_store_from_before_there_were_spaces_names_class_tokens(tmp_path):
    """`pe_av` has contrastive heads since then; features that were made before it are still what they were."""
    encoders = {"video": "pe_av:some/folder@abc", "audio": "pe_av", "text": "clip"}
    fill(tmp_path, range(3), spec=replace(SPEC, encoders=encoders))
    assert Store(tmp_path).spec.encoders == encoders
    for name in ("spec.json", "store.json"):
        content = json.loads((tmp_path / name).read_text())
        del content.get("spec", content)["spaces"]
        content.pop("sha256", None)
        (tmp_path / name).write_text(json.dumps(sealed(content) if name == "store.json" else content))
    now = {"video": "pe_av_class:some/folder@abc", "audio": "pe_av_class", "text": "clip"}
    assert Store(tmp_path).spec.encoders == now
    with pytest.raises(ViMLError, match=r"holds features with encoders=.*pe_av_class:some/folder@abc"):
        fill(tmp_path, range(4), spec=replace(SPEC, encoders=encoders))
    fill(tmp_path, range(4), spec=replace(SPEC, encoders=now))
    assert Store(tmp_path).spec.encoders == now
