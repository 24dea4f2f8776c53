import pickle

import numpy as np
import pytest

from viml_hf import Store, StoreSpec, StoreWriter, ViMLError
from viml_hf.features import named_texts
from viml_hf.features.named_texts import names_of_texts, read_texts, write_texts

NAMES = dict.fromkeys(["video", "audio", "text"], "descriptors")


@pytest.fixture
def store(tmp_path):
    with StoreWriter(tmp_path, StoreSpec(NAMES, {"video": 4, "audio": 3, "text": 2}), np.zeros(2)) as writer:
        for name in "abc":
            rows = {"video": np.ones((2, 4)), "audio": np.ones((3, 3)), "text": np.ones((1, 2))}
            writer.add(name, **rows, texts=[f"own text of {name}"])
    return Store(tmp_path)


def described(*pairs):
    return [(item_id, text, np.array([index, index + 0.5])) for index, (item_id, text) in enumerate(pairs)]


def test_a_store_opens_with_other_texts(store):
    write_texts(store.folder, "tags", described(("c", "pop, sad"), ("a", "rock")), width=2)
    other = store.with_texts("tags")
    assert [item.texts for item in other.items] == [("rock",), (), ("pop, sad",)]
    assert [other.rows("text", item.text).tolist() for item in other.items] == [[[1.0, 1.5]], [], [[0.0, 0.5]]]
    assert all(len(other.rows("video", item.video)) == 2 for item in other.items)
    assert [item.texts for item in store.items] == [("own text of a",), ("own text of b",), ("own text of c",)]
    again = pickle.loads(pickle.dumps(other))  # as loader workers get it
    assert again.rows("text", other.items[0].text).tolist() == [[1.0, 1.5]]


def test_texts_are_read_once(store, monkeypatch):
    write_texts(store.folder, "tags", described(("a", "rock")), width=2)
    other = store.with_texts("tags")
    monkeypatch.setattr(named_texts, "read_texts", lambda *_: pytest.fail("they were read again"))
    assert other.rows("text", other.items[0].text).tolist() == [[0.0, 0.5]]


def test_texts_of_a_name_are_replaced(store):
    write_texts(store.folder, "tags", described(("a", "old")), width=2)
    write_texts(store.folder, "tags", described(("a", "new"), ("b", "other")), width=2)
    write_texts(store.folder, "prompt2text", [], width=2)
    assert names_of_texts(store.folder) == ["prompt2text", "tags"]
    assert read_texts(store.folder, "tags").texts == ("new", "other")
    assert store.with_texts("prompt2text").items[0].texts == ()


def test_what_is_wrong_is_refused(store):
    with pytest.raises(ViMLError, match=r"no texts named 'tags' \(none yet\); make some with `viml describe`"):
        store.with_texts("tags")
    with pytest.raises(ViMLError, match="2 texts for 1 items"):
        write_texts(store.folder, "tags", described(("a", "one"), ("a", "two")), width=2)
    with pytest.raises(ViMLError, match=r"a: text.*width 3"):
        write_texts(store.folder, "tags", described(("a", "one")), width=3)
    write_texts(store.folder, "tags", described(("a", "one")), width=2)
    path = store.folder / "texts" / "tags.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ViMLError, match=r"tags.safetensors: the file is damaged; run `viml describe` again"):
        store.with_texts("tags")


def test_what_a_killed_run_left_is_removed(store):
    folder = store.folder / "texts"
    folder.mkdir()
    for name in ("tags.parquet.0123abcd.tmp", "other.safetensors.0123abcd.tmp", "mine.tmp"):
        (folder / name).touch()
    write_texts(store.folder, "tags", described(("a", "rock")), width=2)
    assert {path.name for path in folder.iterdir()} == {
        *("lock", "mine.tmp", "tags.json", "tags.parquet", "tags.safetensors")
    }


@pytest.mark.parametrize("content", ["[" * 100_000, "[]", '{"files": true}', '{"files": {"../x": ""}}', "\xff"])
def test_a_damaged_description_of_texts_is_named(store, content):
    write_texts(store.folder, "tags", described(("a", "rock")), width=2)
    (store.folder / "texts" / "tags.json").write_text(content, encoding="latin-1")
    with pytest.raises(ViMLError, match=r"tags\.json: .*run `viml describe` again"):
        store.with_texts("tags")
