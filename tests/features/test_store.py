import json
import pickle

import numpy as np
import pytest
import torch

from viml_hf import Store, StoreSpec, StoreWriter, ViMLError
from viml_hf.features import RowRange

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
