import os

import numpy as np
import pytest

from tests.media import sine, write_audio, write_video
from viml_hf import MediaItem, ViMLError, extract
from viml_hf.features import extraction


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("media")
    for name, seconds in (("a", 3), ("b", 12), ("c", 25)):
        write_video(folder / f"{name}.mp4", 24 * seconds, audio=sine(220, seconds, 22050), sampling_rate=22050)
    write_video(folder / "silent.mp4", 48)
    (folder / "broken.mp4").write_bytes(b"nothing to see" * 100)
    write_audio(folder / "music.wav", sine(440, 4, 22050), 22050)
    return folder


def items(folder, *names):
    return [
        MediaItem(name, str(folder / f"{name}.mp4"), str(folder / f"{name}.mp4"), (f"text of {name}",))
        for name in names
    ]


def rows(store):
    return {
        item.id: {m: store.rows(m, getattr(item, m)).numpy() for m in ("video", "audio", "text")}
        for item in store.items
    }


def assert_equal(one, two):
    assert one.keys() == two.keys()
    for name in one:
        for modality in one[name]:
            assert np.array_equal(one[name][modality], two[name][modality])


@pytest.fixture(scope="module")
def store(files, tmp_path_factory):
    wanted = items(files, "a", "b", "broken", "c", "missing", "silent")
    wanted.append(MediaItem("music", audio=str(files / "music.wav"), fields={"licence": "CC0"}))
    return extract(wanted, tmp_path_factory.mktemp("store"), workers=1, progress=False)


def test_good_files_are_in_and_bad_ones_are_rows_with_their_error(store):
    found = {item.id: item for item in store.items}
    lengths = {name: (len(found[name].video), len(found[name].audio)) for name in ("a", "b", "c", "music")}
    assert lengths == {"a": (1, 1), "b": (2, 2), "c": (3, 3), "music": (0, 1)}
    for name, reason in (("broken", "broken.mp4"), ("missing", "missing.mp4"), ("silent", "no audio stream")):
        assert reason in found[name].error
        assert not len(found[name].video)
    assert found["music"].fields["licence"] == "CC0"
    assert [item.id for item in store.usable()] == ["a", "b", "c"]


def test_two_workers_another_order_and_company_change_no_bit(store, files, tmp_path):
    again = extract(items(files, "c", "a", "b", "silent"), tmp_path, workers=2, progress=False)
    expected = rows(store)
    for name, features in rows(again).items():
        assert_equal({name: features}, {name: expected[name]})


def test_a_rerun_extracts_only_what_is_new_changed_or_failed(files, tmp_path, monkeypatch):
    for name in ("a", "b", "broken"):
        (tmp_path / f"{name}.mp4").write_bytes((files / f"{name}.mp4").read_bytes())
    seen = []
    extract_one = extraction.extract_one
    monkeypatch.setattr(
        extraction, "extract_one", lambda item, encoder: seen.append(item.id) or extract_one(item, encoder)
    )

    def run(*names):
        seen.clear()
        return extract(items(tmp_path, *names), tmp_path / "store", workers=1, progress=False)

    first = rows(run("a", "b", "broken"))
    assert seen == ["a", "b", "broken"]
    assert_equal(rows(run("a", "b", "broken")), first)
    assert seen == ["broken"]
    (tmp_path / "b.mp4").write_bytes((files / "c.mp4").read_bytes())
    (tmp_path / "c.mp4").write_bytes((files / "c.mp4").read_bytes())
    changed = rows(run("a", "b", "c"))
    assert seen == ["b", "c"]
    assert sorted(changed) == ["a", "b", "c"]
    assert np.array_equal(changed["b"]["video"], changed["c"]["video"])
    os.utime(tmp_path / "a.mp4", ns=(0, 0))
    run("a", "b", "c")
    assert seen == ["a"]


def test_what_is_no_longer_asked_for_is_left_out(files, tmp_path):
    extract(items(files, "a", "b"), tmp_path, workers=1, progress=False)
    assert sorted(rows(extract(items(files, "b"), tmp_path, workers=1, progress=False))) == ["b"]


def test_ids_are_unique(files, tmp_path):
    with pytest.raises(ViMLError, match="2 items, but only 1 ids"):
        extract(items(files, "a", "a"), tmp_path, progress=False)
