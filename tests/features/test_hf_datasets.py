import sys
from dataclasses import asdict

import numpy as np
import pytest

from viml_hf import Store, StoreSpec, StoreWriter, ViMLError
from viml_hf.features import StoreItem
from viml_hf.features.named_texts import write_texts

datasets = pytest.importorskip("datasets")
datasets.disable_progress_bars()

WIDTHS = {"video": 3, "audio": 2, "text": 4}
SPEC = StoreSpec(dict.fromkeys(WIDTHS, "descriptors"), WIDTHS, fingerprints={"video": "0f"}, fast=True)


@pytest.fixture
def store(tmp_path):
    generator = np.random.default_rng(0)
    with StoreWriter(tmp_path / "store", SPEC, np.arange(4) / 8, shard_items=2) as writer:
        writer.add_error("00", "no such file", video_path="0.mp4")
        for index in range(1, 6):
            rows = {name: generator.standard_normal((index, width)) for name, width in WIDTHS.items()}
            texts = [f"text {number}" for number in range(index)]
            writer.add(f"{index:02d}", **rows, texts=texts, split="train", start=0.1 * index, tags=["pop", index])
        writer.add("silent", video=np.full((1, 3), 1e-7), video_coverage=0.7)
        writer.add_item(StoreItem("partial", error="audio: no sound"), {"video": [[65_504.0, -0.0, 1e-8]]})
        writer.add("nothing", licence=None)
    return Store(tmp_path / "store")


def assert_same(one, two, ids):
    two = {item.id: (two, item) for item in two.items}
    assert list(two) == ids
    for item in one.items:
        if item.id in two:
            other_store, other = two[item.id]
            for modality in WIDTHS:
                rows = [s.rows(modality, getattr(i, modality)).numpy() for s, i in ((one, item), (other_store, other))]
                assert rows[0].tobytes() == rows[1].tobytes()
                assert rows[0].shape == rows[1].shape
            assert (item.texts, item.fields, item.error) == (other.texts, other.fields, other.error)


def test_a_store_becomes_a_dataset(store, tmp_path):
    dataset = store.to_dataset(cache_dir=tmp_path / "cache")
    assert dataset["id"][:] == ["01", "02", "03", "04", "05", "nothing", "silent"]
    assert dataset.features["video"] == datasets.List(datasets.List(datasets.Value("float16")))
    second = {item.id: item for item in store.items}["02"]
    assert dataset[1]["video"] == store.rows("video", second.video).tolist()
    assert dataset[1]["texts"] == ["text 0", "text 1"]
    assert (dataset[1]["split"], dataset[1]["start"], dataset[1]["end"]) == ("train", 0.2, None)
    assert dataset[6]["audio"] == []
    assert dataset[6]["video_coverage"] == 0.7


def test_there_and_back_every_bit_is_the_same(store, tmp_path):
    spec = asdict(store.spec)
    for with_errors, ids in (
        (True, [item.id for item in store.items]),
        (False, ["01", "02", "03", "04", "05", "nothing", "silent"]),
    ):
        dataset = store.to_dataset(with_errors=with_errors, cache_dir=tmp_path / "cache")
        back = Store.from_dataset(dataset, tmp_path / f"back-{with_errors}", null_text=store.null_text, **spec)
        assert_same(store, back, ids)
        assert back.spec == store.spec
        assert back.null_text.equal(store.null_text)


def test_a_dataset_saved_and_loaded_is_the_same(store, tmp_path):
    path = str(tmp_path / "dataset.parquet")
    store.to_dataset(with_errors=True, cache_dir=tmp_path / "cache").to_parquet(path)
    loaded = datasets.Dataset.from_parquet(path, cache_dir=str(tmp_path / "cache"))
    assert_same(store, Store.from_dataset(loaded, tmp_path / "back"), [item.id for item in store.items])


def test_a_changed_store_is_another_dataset(store, tmp_path):
    assert len(store.to_dataset(cache_dir=tmp_path / "cache")) == 7
    with StoreWriter(store.folder, SPEC, np.arange(4) / 8) as writer:
        writer.add("new", video=np.ones((1, 3)))
    assert len(Store(store.folder).to_dataset(cache_dir=tmp_path / "cache")) == 8


def test_a_plain_dataset_of_lists_becomes_a_store(tmp_path):
    rows = [
        {"id": "b", "video": None, "audio": [[1.0, 2.0]], "title": "B"},
        {"id": "a", "video": [[0.1, 0.2, 0.3]] * 2, "audio": [], "title": None},
    ]
    store = Store.from_dataset(datasets.Dataset.from_list(rows), tmp_path, null_text=[0.0, 1.0, 0.0])
    assert store.spec == StoreSpec(dict.fromkeys(WIDTHS, "unknown"), {"video": 3, "audio": 2, "text": 3})
    assert store.null_text.tolist() == [0, 1, 0]
    assert [item.fields for item in store.items] == [{}, {"title": "B"}]
    assert store.rows("video", store.items[0].video).numpy() == pytest.approx(np.float16([[0.1, 0.2, 0.3]] * 2))
    assert [(len(item.video), len(item.audio)) for item in store.items] == [(2, 0), (0, 1)]


def test_plain_columns_of_features_become_a_store(tmp_path):
    """Without ids, under the names of the model's inputs, and one row of a text instead of a list of rows."""
    rows = {
        "video_features": [[[1.0], [2.0]], []],
        "audio_features": [[[3.0]], [[4.0]]],
        "text_features": [[5.0], None],
    }
    store = Store.from_dataset(datasets.Dataset.from_dict(rows), tmp_path)
    assert [(item.id, item.texts) for item in store.items] == [("0", ("",)), ("1", ())]
    assert store.rows("video", store.items[0].video).tolist() == [[1], [2]]
    assert store.rows("text", store.items[0].text).tolist() == [[5]]
    assert [len(getattr(store.items[1], name)) for name in ("video", "audio", "text")] == [0, 1, 0]


def test_a_text_of_words_is_kept_as_such(tmp_path):
    rows = {"audio": [[[3.0]]], "text": ["slow piano"], "text_features": [[5.0]]}
    store = Store.from_dataset(datasets.Dataset.from_dict(rows), tmp_path, widths={"video": 1, "audio": 1, "text": 1})
    assert store.items[0].texts == ("slow piano",)


def test_the_cache_of_a_dataset_goes_by_its_texts(store, tmp_path):
    """Another set of texts, or the same set written anew, is another dataset."""
    item, found = next(item for item in store.items if item.error is None), []
    for name, word in (("one", "slow"), ("two", "fast"), ("one", "calm")):
        row = (item.id, word, np.full(store.spec.widths["text"], len(found), np.float16))
        write_texts(store.folder, name, [row], store.spec.widths["text"])
        dataset = store.with_texts(name).to_dataset(cache_dir=tmp_path / "cache")
        found.append((dataset[0]["texts"], dataset[0]["text"][0][0]))
    assert found == [(["slow"], 0), (["fast"], 1), (["calm"], 2)]
    assert store.to_dataset(cache_dir=tmp_path / "cache")[0]["texts"] == list(item.texts)


def test_features_are_rounded_once(tmp_path):
    """Rounded to float32 first, this number would be a tie, and go down."""
    value = 1 + 2**-11 + 2**-40
    rows = {"id": ["a"], "video": [[[value]]]}
    store = Store.from_dataset(
        datasets.Dataset.from_dict(rows),
        tmp_path,
        widths={"video": 1, "audio": 1, "text": 1},
        encoders={"video": "clip"},
    )
    assert store.rows("video", store.items[0].video).item() == 1 + 2**-10
    assert store.spec.encoders == {"video": "clip"}
    assert store.null_text.tolist() == [0]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "a", "video": [[1.0]]}, "no row has audio features"),
        ({"id": "a", "video": "a.mp4"}, "column 'video' is Value"),
        ({"id": 7, "video": [[1.0]], "audio": [[1.0]], "text": [[1.0]], "texts": ["a"]}, "item 7: .*strings"),
        (
            {"id": "a", "video": [[1.0], [1.0, 2.0]], "audio": [[1.0]], "text": [[1.0]], "texts": ["a"]},
            "a: video: .*shape",
        ),
        ({"id": "a", "video": [[1.0]], "audio": [[1.0]], "text": [[1.0]], "texts": []}, "0 texts, but 1 rows"),
        ({"id": "a", "video": [[1.0]], "audio": [[1.0]], "text": [[1.0]], "fields": "a, b"}, "'a'.*no JSON object"),
        ({"id": "a", "video": [[1.0]], "audio": [[1.0]], "text": [[1.0]], "fields": ["b"]}, "'a'.*no JSON object"),
    ],
)
def test_a_dataset_that_is_no_store_is_refused(tmp_path, row, message):
    with pytest.raises(ViMLError, match=message):
        Store.from_dataset(datasets.Dataset.from_list([row]), tmp_path)


def test_a_folder_with_a_store_is_refused(store, tmp_path):
    with pytest.raises(ViMLError, match="holds a store already"):
        Store.from_dataset(store.to_dataset(cache_dir=tmp_path / "cache"), store.folder)


def test_without_the_package_the_error_says_how_to_install_it(store, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ViMLError, match=r"pip install viml-hf\[datasets\]"):
        store.to_dataset()
