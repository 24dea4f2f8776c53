import json
import pickle

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from viml_hf import Store, StoreSpec, StoreWriter, ViMLError
from viml_hf.features import RowRange
from viml_hf.features.store import sha256_of

WIDTHS = {"video": 3, "audio": 2, "text": 4}
SPEC = StoreSpec(dict.fromkeys(WIDTHS, "descriptors"), WIDTHS)


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
    assert counts == {"items": 5, "errors": 0, "video": 9, "audio": 12, "text": 5}


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


def test_an_interrupted_store_is_refused_and_then_finished(tmp_path):
    with pytest.raises(RuntimeError, match="power"):
        fill(tmp_path, range(7), fail_after=5)
    with pytest.raises(ViMLError, match="unfinished: run it again"):
        Store(tmp_path)
    fill(tmp_path, range(7))
    check(Store(tmp_path), range(7))


def test_a_torn_journal_line_and_a_left_over_file_lose_nothing_else(tmp_path):
    with pytest.raises(RuntimeError, match="power"):
        fill(tmp_path, range(7), fail_after=4)
    journal = tmp_path / "journal.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    assert len(lines) == 2
    journal.write_text(lines[0] + lines[1][: len(lines[1]) // 2])
    (tmp_path / "video-00009.safetensors.tmp").write_bytes(b"half a file")
    fill(tmp_path, range(7))
    check(Store(tmp_path), range(7))
    Store(tmp_path).verify()


def test_a_failed_item_is_tried_again_and_counts_once(tmp_path):
    with StoreWriter(tmp_path, SPEC, np.zeros(4)) as writer:
        writer.add_error("00", "no such file")
        writer.add("01", **features(1), number=1)
    fill(tmp_path, range(2))
    check(Store(tmp_path), range(2))


def test_forgotten_items_are_left_out(tmp_path):
    fill(tmp_path, range(4))
    with StoreWriter(tmp_path, SPEC, np.arange(4) / 8) as writer:
        writer.forget(["01", "02"])
        writer.add("02", **features(7))
    store = Store(tmp_path)
    assert [item.id for item in store.items] == ["00", "02", "03"]
    assert store.items[1].texts == ("text 7",)


def test_a_store_can_be_sent_to_a_worker(tmp_path):
    fill(tmp_path, range(3))
    store = Store(tmp_path)
    check(store, range(3))
    sent = pickle.dumps(store)
    assert len(sent) < 10_000
    check(pickle.loads(sent), range(3))


def test_other_features_are_refused(tmp_path):
    fill(tmp_path, range(2))
    other = StoreSpec({**SPEC.encoders, "video": "clip"}, WIDTHS)
    with pytest.raises(ViMLError, match="another folder"):
        fill(tmp_path, range(3), spec=other)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"video": [[np.nan, 0, 0]]}, "not finite"),
        ({"video": [[1e6, 0, 0]]}, "not finite"),
        ({"video": np.zeros((2, 4))}, "width 3"),
        ({"audio": np.zeros(2)}, "width 2"),
        ({"text": np.zeros((2, 4)), "texts": ["one"]}, "1 texts, but 2 rows"),
    ],
)
def test_bad_features_are_refused_by_name(tmp_path, given, message):
    with StoreWriter(tmp_path, SPEC, np.zeros(4)) as writer, pytest.raises(ViMLError, match=f"item-7.*{message}"):
        writer.add("item-7", **given)


def test_an_id_is_taken_once(tmp_path):
    with StoreWriter(tmp_path, SPEC, np.zeros(4)) as writer:
        writer.add("a", **features(0))
        with pytest.raises(ViMLError, match="'a'"):
            writer.add("a", **features(0))


def test_verify_names_a_damaged_and_a_missing_file(tmp_path):
    fill(tmp_path, range(4))
    Store(tmp_path).verify()
    path = tmp_path / "audio-00001.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
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


def test_a_row_range_knows_its_length():
    assert len(RowRange(3, 5, 9)) == 4
    assert len(RowRange()) == 0


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


def test_a_crash_while_a_finished_store_grows_leaves_it_as_it_was(tmp_path):
    fill(tmp_path, range(3))
    with pytest.raises(RuntimeError, match="power"):
        fill(tmp_path, range(6), fail_after=5)
    check(Store(tmp_path), range(3))


def flip_a_bit(path):
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize("shard", [0, 1, 2])
def test_another_run_repairs_a_damaged_store(tmp_path, shard):
    fill(tmp_path, range(6))
    flip_a_bit(tmp_path / f"video-{shard:05d}.safetensors")
    with pytest.raises(ViMLError, match=rf"video-{shard:05d}.*damaged.*extract"):
        Store(tmp_path).verify()
    fill(tmp_path, range(6))
    check(Store(tmp_path), range(6))
    Store(tmp_path).verify()


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
    journal.write_text(journal.read_text().replace(old, sha256_of(path)))
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
