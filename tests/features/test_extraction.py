import os
import time
from dataclasses import replace

import numpy as np
import pytest
from transformers import CLIPVisionModelWithProjection

from tests.media import sine, write_audio, write_video
from tests.modeling.tiny import CLIP_VISION, tiny_processor
from viml_hf import MediaEncoder, MediaItem, Store, ViMLError, extract
from viml_hf.encoders import encoder_info
from viml_hf.features import extraction
from viml_hf.features.extraction import plan_extraction
from viml_hf.features.media_item import signature
from viml_hf.features.store_format import RowRange, StoreItem


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


@pytest.fixture
def seen(monkeypatch):
    """The ids of the items that were read."""
    extract_one, seen = extraction.extract_one, []
    monkeypatch.setattr(
        extraction, "extract_one", lambda item, encoder: seen.append(item.id) or extract_one(item, encoder)
    )
    return seen


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
        assert len(found[name].video) == (name == "silent")
        assert not len(found[name].audio)
    assert found["music"].fields["licence"] == "CC0"
    assert [item.id for item in store.usable()] == ["a", "b", "c"]


def test_two_workers_another_order_and_company_change_no_bit(store, files, tmp_path):
    again = extract(items(files, "c", "a", "b", "silent"), tmp_path, workers=2, progress=False)
    expected = rows(store)
    for name, features in rows(again).items():
        assert_equal({name: features}, {name: expected[name]})


def test_a_rerun_extracts_only_what_is_new_changed_or_failed(files, tmp_path, seen):
    for name in ("a", "b", "broken"):
        (tmp_path / f"{name}.mp4").write_bytes((files / f"{name}.mp4").read_bytes())

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


def test_what_was_touched_or_renamed_is_known_by_its_content(files, tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / f"{name}.mp4").write_bytes((files / f"{name}.mp4").read_bytes())
    before = rows(extract(items(tmp_path, "a", "b"), tmp_path / "store", workers=1, progress=False))
    monkeypatch.setattr(extraction, "extract_one", lambda item, encoder: pytest.fail(f"{item.id} was read again"))
    os.utime(tmp_path / "a.mp4", ns=(0, 0))
    (tmp_path / "b.mp4").rename(tmp_path / "c.mp4")
    renamed = MediaItem("c", str(tmp_path / "c.mp4"), str(tmp_path / "c.mp4"), ("text of b",), {"split": "test"})
    store = extract([*items(tmp_path, "a"), renamed], tmp_path / "store", workers=1, progress=False)
    assert_equal(rows(store), {"a": before["a"], "c": before["b"]})
    found = {item.id: item for item in store.items}["c"]
    assert found.fields["video_path"] == str(tmp_path / "c.mp4")
    assert found.fields["split"] == "test"
    assert found.fields["audio_seconds"] == pytest.approx(12, abs=0.1)
    store.verify()


def test_the_same_size_is_not_the_same_content(files, tmp_path):
    sound = tmp_path / "sound.wav"
    found = []
    for pitch in (220, 330):
        write_audio(sound, sine(pitch, 3, 22050), 22050)
        found.append(rows(extract([MediaItem("a", audio=str(sound))], tmp_path / "store", workers=1, progress=False)))
    assert not np.array_equal(found[0]["a"]["audio"], found[1]["a"]["audio"])


def test_an_excerpt_has_the_features_of_its_part(files, tmp_path):
    whole = rows(extract(items(files, "c"), tmp_path / "whole", workers=1, progress=False))["c"]
    path = str(files / "c.mp4")
    part = MediaItem("part", path, path, start=10, end=20)
    (item,) = extract([part], tmp_path / "part", workers=1, progress=False).items
    found = rows(Store(tmp_path / "part"))["part"]
    assert np.array_equal(found["video"], whole["video"][1:2])
    assert np.array_equal(found["audio"], whole["audio"][1:2])
    assert (item.fields["start"], item.fields["end"], item.fields["video_seconds"]) == (10, 20, 10)
    assert item.fields["video_coverage"] == 1


def test_ids_are_unique(files, tmp_path):
    with pytest.raises(ViMLError, match="2 items, but only 1 ids"):
        extract(items(files, "a", "a"), tmp_path, progress=False)


def test_what_was_skipped_is_printed(files, tmp_path, capsys):
    extract(items(files, "broken", "a"), tmp_path, workers=1, progress=False)
    (line,) = [line for line in "".join(capsys.readouterr()).splitlines() if line.startswith("skipped: ")]
    assert "broken.mp4" in line


def test_an_interrupted_run_goes_on(files, tmp_path, monkeypatch):
    extract_one, seen = extraction.extract_one, []

    def interrupted(item, encoder):
        seen.append(item.id)
        if seen == ["a", "silent", "music"]:
            raise KeyboardInterrupt
        return extract_one(item, encoder)

    monkeypatch.setattr(extraction, "extract_one", interrupted)
    wanted = [*items(files, "a", "silent"), MediaItem("music", audio=str(files / "music.wav"))]
    with pytest.raises(KeyboardInterrupt):
        extract(wanted, tmp_path, workers=1, progress=False)
    with pytest.raises(ViMLError, match="unfinished"):
        Store(tmp_path)
    finished = extract(wanted, tmp_path, workers=1, progress=False)
    assert seen == ["a", "silent", "music", "music"]
    assert [(item.id, item.error is None) for item in finished.items] == [
        ("a", True),
        ("music", True),
        ("silent", False),
    ]
    finished.verify()


def test_a_changed_text_is_extracted_again_once_and_a_changed_field_never(files, tmp_path, seen):
    music = str(files / "music.wav")
    reads = []
    for text, fields in (("slow", {}), ("fast", {}), ("fast", {"split": "test"}), ("fast", {"split": "train"})):
        texts = (text,)
        (item,) = extract([MediaItem("a", None, music, texts, fields)], tmp_path, workers=1, progress=False).items
        assert item.texts == texts
        assert item.fields.get("split") == fields.get("split")
        reads.append(len(seen))
    assert reads == [1, 2, 2, 2]


def test_a_file_that_arrives_late_is_extracted_once(files, tmp_path, seen):
    late = tmp_path / "late.wav"
    for attempt in range(3):
        (item,) = extract([MediaItem("a", audio=str(late))], tmp_path / "store", workers=1, progress=False).items
        assert (item.error is None) == (attempt > 0)
        if attempt == 0:
            late.write_bytes((files / "music.wav").read_bytes())
    assert seen == ["a", "a"]


@pytest.mark.parametrize("kind", ["video", "audio"])
def test_either_file_of_an_item_is_watched(files, tmp_path, seen, kind):
    paths = {name: tmp_path / f"{name}.mp4" for name in ("video", "audio")}
    for path in paths.values():
        path.write_bytes((files / "a.mp4").read_bytes())
    item = MediaItem("a", str(paths["video"]), str(paths["audio"]))
    before = rows(extract([item], tmp_path / "store", workers=1, progress=False))["a"]
    paths[kind].write_bytes((files / "b.mp4").read_bytes())
    after = rows(extract([item], tmp_path / "store", workers=1, progress=False))["a"]
    assert seen == ["a", "a"]
    assert {name: len(after[name]) > len(before[name]) for name in paths} == {name: name == kind for name in paths}


def test_features_that_are_not_finite_are_an_error_of_their_item_alone(files, tmp_path, monkeypatch):
    encode_audio = MediaEncoder.encode_audio

    def overflowing(encoder, audio, **excerpt):
        features = encode_audio(encoder, audio, **excerpt)
        features.rows[0, 0] = np.inf if audio.endswith("b.mp4") else 0
        return features

    monkeypatch.setattr(MediaEncoder, "encode_audio", overflowing)
    found = extract(items(files, "a", "b", "c"), tmp_path, workers=1, progress=False).items
    assert [(item.id, item.error is None) for item in found] == [("a", True), ("b", False), ("c", True)]


def test_a_file_name_that_is_not_utf8_stops_nothing(files, tmp_path):
    """Linux allows any bytes in a name; Python shows them as lone surrogates, which Parquet cannot hold."""
    wanted = [
        MediaItem(name, audio=str(files / f"{path}.wav")) for name, path in (("odd", "odd\udcff"), ("music", "music"))
    ]
    found = extract(wanted, tmp_path, workers=1, progress=False).items
    assert [(item.id, item.error is None) for item in found] == [("music", True), ("odd", False)]


@pytest.mark.parametrize("name", ["video", "text", "texts"])
def test_a_field_may_have_any_name(files, tmp_path, name):
    item = MediaItem("a", None, str(files / "music.wav"), ("pop",), {name: "a column of the user's table"})
    (found,) = extract([item], tmp_path, workers=1, progress=False).items
    assert (found.error, found.texts, len(found.video)) == (None, ("pop",), 0)
    assert found.fields[name] == "a column of the user's table"


def test_an_unknown_encoder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="'nonsense' names no encoder"):
        extract([], tmp_path / "store", video="nonsense", progress=False)
    assert not (tmp_path / "store").exists()


# The plan


def stored(item, *, error=None, rows=1):
    return StoreItem(item.id, audio=RowRange(0, 0, rows), fields={"signature": signature(item)}, error=error)


def test_the_plan_keeps_what_is_unchanged_and_drops_what_is_not_asked_for():
    wanted = [MediaItem(name, audio=f"{name}.wav") for name in ("new", "same", "partial", "failed", "other")]
    new, same, partial, failed, other = wanted
    there = [
        stored(same),
        stored(partial, error="no video stream"),
        stored(failed, error="not a music file", rows=0),
        stored(replace(other, texts=("another text",))),
        stored(MediaItem("gone")),
    ]
    plan = plan_extraction(wanted, there)
    assert plan.kept == ["same", "partial"]
    assert plan.missing == [new, failed, other]
    assert [item.id for item in plan.dropped] == ["failed", "other", "gone"]


@pytest.mark.parametrize(
    "change",
    [
        {"texts": ("b",)},
        {"start": 1.0},
        {"end": 2.0},
        {"fields": {"split": "test"}},
        {"video": "a.mp4"},
        {"audio": "b.wav"},
        {"audio": None},
    ],
)
def test_whatever_of_an_item_changes_it_is_planned_again(change):
    item = MediaItem("a", audio="a.wav", texts=("a",))
    assert plan_extraction([replace(item, **change)], [stored(item)]).kept == []


def test_the_order_of_fields_changes_no_signature():
    one, two = (MediaItem("a", fields=dict(sorted({"x": 1, "y": 2}.items(), reverse=turn))) for turn in (False, True))
    assert signature(one) == signature(two)


# What the store has already


def test_a_renamed_library_of_many_files_is_not_read_again(tmp_path, monkeypatch):
    media, store = tmp_path / "old", tmp_path / "store"
    media.mkdir()
    header = len(write_audio(media / "000.wav", sine(0, 0.1, 8000), 8000).read_bytes()) - 1600
    for index in range(200):  # all of one size
        samples = (sine(200 + index, 0.1, 8000) * 32767).astype("<i2").tobytes()
        content = (media / "000.wav").read_bytes()[:header] + samples
        (media / f"{index:03d}.wav").write_bytes(content)

    def library(folder, prefix):
        return [MediaItem(prefix + path.name, audio=str(path), texts=["a list"]) for path in sorted(folder.iterdir())]

    before = rows(extract(library(media, ""), store, workers=1, progress=False))
    assert len({one["audio"].tobytes() for one in before.values()}) == 200
    media.rename(tmp_path / "new")
    monkeypatch.setattr(extraction, "extract_one", lambda item, encoder: pytest.fail(f"{item.id} was read again"))
    after = extract(library(tmp_path / "new", "x"), store, workers=1, progress=False)
    assert_equal(rows(after), {f"x{name}": one for name, one in before.items()})
    assert all(item.fields["audio_path"] == str(tmp_path / "new" / item.id[1:]) for item in after.items)
    after.verify()


def test_many_renamed_files_of_one_size_are_found_in_time(tmp_path, monkeypatch):
    # Several times what it takes; a comparison of every file with every other one would take minutes.
    wanted = [MediaItem(f"new{index}", audio=str(index)) for index in range(20_000)]
    facts = [{"bytes": 1, "sha256": str(index), "audio_path": "old"} for index in range(20_000)]
    there = [StoreItem(f"old{index}", audio=RowRange(0, 0, 1), fields=fact) for index, fact in enumerate(facts)]
    monkeypatch.setattr(extraction, "size_of", lambda item: 1)
    monkeypatch.setattr(extraction, "content_hash", lambda item: item.audio)
    plan = extraction.ExtractionPlan([], wanted, there, {})
    start = time.process_time()
    assert [old.id for _, old in extraction._moved(plan)] == [item.id for item in there]
    assert time.process_time() - start < 2


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A folder with an image encoder that bears bfloat16."""
    folder = tmp_path_factory.mktemp("clip")
    CLIPVisionModelWithProjection(CLIP_VISION).save_pretrained(folder)
    tiny_processor().image_processor.save_pretrained(folder)
    return str(folder)


def test_a_store_is_gone_on_with_in_its_own_dtypes(files, tmp_path, monkeypatch, clip):
    monkeypatch.setattr(encoder_info, "computes_bfloat16", lambda device: True)
    monkeypatch.setattr(encoder_info, "bfloat16_share", lambda width: 0.5)
    extract(items(files, "a"), tmp_path, video=clip, workers=1, progress=False)
    monkeypatch.setattr(encoder_info, "bfloat16_share", lambda width: 1.5)  # another machine
    store = extract(items(files, "a", "b"), tmp_path, video=clip, workers=1, progress=False)
    assert store.spec.dtypes == {"video": "bfloat16", "audio": "float32", "text": "float32"}
    assert len(store.usable()) == 2
    with pytest.raises(ViMLError, match=r"holds features with dtypes=.*bfloat16.*, not .*take another folder"):
        extract(items(files, "a"), tmp_path, video=clip, dtypes="float32", workers=1, progress=False)


# What is not accepted


@pytest.mark.parametrize(
    "bad",
    [
        {"fields": {"player": object()}},
        {"fields": {"rows": np.zeros(2)}},
        {"id": 7},
        {"id": "odd\udcff"},
        {"start": "one"},
        {"texts": (3,)},
    ],
)
def test_what_cannot_be_stored_is_an_error_of_its_item_alone(files, tmp_path, bad):
    item = MediaItem("music", audio=str(files / "music.wav"))
    found = extract([replace(item, **{"id": "bad", **bad}), item], tmp_path, workers=1, progress=False).items
    errors = {item.id: item.error for item in found}
    assert errors.pop("music") is None
    (error,) = errors.values()
    assert error


def test_keys_of_several_types_become_texts(files, tmp_path, monkeypatch):
    item = MediaItem("music", audio=str(files / "music.wav"), fields={"tags": {1: "pop", "b": 2}, 3: "x"})
    (found,) = extract([item], tmp_path, workers=1, progress=False).items
    assert (found.error, found.fields["tags"], found.fields["3"]) == (None, {"1": "pop", "b": 2}, "x")
    monkeypatch.setattr(extraction, "extract_one", lambda item, encoder: pytest.fail(f"{item.id} was read again"))
    extract([item], tmp_path, workers=1, progress=False)


def test_an_id_that_is_another_once_spelt_out_costs_the_other_nothing(files, tmp_path):
    music = str(files / "music.wav")
    for ids in (["odd\udcff", r"odd\udcff"], [r"odd\udcff", "odd\udcff"]):
        wanted = [MediaItem(item_id, audio=music) for item_id in ids]
        (item,) = extract(wanted, tmp_path / str(ids.index(r"odd\udcff")), workers=1, progress=False).items
        assert (item.id, len(item.audio), item.error) == (r"odd\udcff", 1, None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"engine": "threads"}, "engine='threads': give processes or ray"),
        ({"workers": 0}, "workers=0: give 1 or more"),
        ({"workers": -2}, "workers=-2: give 1 or more"),
        ({"dtypes": "float16"}, "dtype='float16': give auto, float32 or bfloat16"),
    ],
)
def test_options_that_are_none_are_refused_before_anything_is_written(tmp_path, options, message):
    with pytest.raises(ViMLError, match=message):
        extract([MediaItem("a")], tmp_path / "store", progress=False, **options)
    assert not (tmp_path / "store").exists()


def test_a_file_is_no_folder_for_a_store(files):
    with pytest.raises(ViMLError, match=r"music\.wav: a file; give a folder for the store"):
        extract(items(files, "a"), files / "music.wav", progress=False)


def test_other_features_are_not_mixed_in_and_the_message_names_both(files, tmp_path, clip):
    extract(items(files, "a"), tmp_path, workers=1, progress=False)
    before = rows(Store(tmp_path))
    with pytest.raises(ViMLError, match=r"holds features with fast=False, not True; take another folder"):
        extract(items(files, "a"), tmp_path, fast=True, workers=1, progress=False)
    with pytest.raises(ViMLError, match=rf"encoders=.*'video': 'descriptors'.*, not .*'video': '{clip}'"):
        extract(items(files, "a"), tmp_path, video=clip, workers=1, progress=False)
    assert_equal(rows(Store(tmp_path)), before)


def test_a_file_that_changes_while_it_is_read_is_read_again(files, tmp_path, monkeypatch):
    sound = tmp_path / "sound.wav"
    write_audio(sound, sine(220, 3, 22050), 22050)
    extract_one, seen = extraction.extract_one, []

    def changed_meanwhile(item, encoder):
        found = extract_one(item, encoder)
        if not seen:
            write_audio(sound, sine(330, 4, 22050), 22050)
        seen.append(item.id)
        return found

    monkeypatch.setattr(extraction, "extract_one", changed_meanwhile)
    for _ in range(3):
        store = extract([MediaItem("a", audio=str(sound))], tmp_path / "store", workers=1, progress=False)
    assert seen == ["a", "a"]
    assert store.items[0].fields["audio_seconds"] == pytest.approx(4)


def test_what_is_not_the_files_fault_leaves_nothing_behind_and_is_tried_again(files, tmp_path, monkeypatch):
    encode_audio = MediaEncoder.encode_audio

    def out_of_memory(encoder, audio, **excerpt):
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(MediaEncoder, "encode_audio", out_of_memory)
    (item,) = extract(items(files, "a"), tmp_path, workers=1, progress=False).items
    assert (item.has_features, item.error) == (False, "CUDA out of memory")
    monkeypatch.setattr(MediaEncoder, "encode_audio", encode_audio)
    (item,) = extract(items(files, "a"), tmp_path, workers=1, progress=False).items
    assert (len(item.video), len(item.audio), item.error) == (1, 1, None)


def test_other_fields_ask_for_no_reading_not_even_of_checksums(files, tmp_path, monkeypatch):
    (item,) = items(files, "a")
    extract([item], tmp_path, workers=1, progress=False)
    monkeypatch.setattr(extraction, "content_hash", lambda item: pytest.fail("the file was read"))
    monkeypatch.setattr(extraction, "extract_one", lambda item, encoder: pytest.fail("the file was decoded"))
    other = MediaItem(item.id, item.video, item.audio, item.texts, {"split": "test"})
    (found,) = extract([other], tmp_path, workers=1, progress=False).items
    assert found.fields["split"] == "test"
    assert found.has_features
