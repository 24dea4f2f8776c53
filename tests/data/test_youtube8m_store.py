import time
from pathlib import Path

import numpy as np
import pytest

from tests.tfrecords import frame_record, video_record, write_tfrecord
from viml_hf import Store, ViMLError
from viml_hf.data import youtube8m_store
from viml_hf.data.youtube8m import MUSIC_LABELS, find_files, label_text, parse_video, read_vocabulary
from viml_hf.data.youtube8m_store import (
    OTHER_LABELS,
    REPEATED,
    SHARED_AUDIO,
    ZERO_AUDIO,
    Split,
    import_videos,
    select_videos,
    selected_videos,
    shard_number,
)
from viml_hf.encoders.media_encoder import MediaEncoder

NAMES = {0: "Game", 3: "Concert", 4: "Musician", 7: "", 9: "Guitar"}
SILENCE = np.linspace(-2, 2, 128, dtype=np.float32)
REAL = Path(__file__).parents[3] / "shared/data/yt8m_video_level"  # beside the checkout


@pytest.fixture
def folder(tmp_path):
    """Three files; two silent videos are in different ones, and differ by less than a store can tell."""
    folder = tmp_path / "yt8m"
    folder.mkdir()
    write_tfrecord(
        folder / "validate0003.tfrecord",
        [video_record("aaaa", [3, 4, 9]), video_record("bbbb", [0]), video_record("cccc", [0], audio=SILENCE)],
    )
    write_tfrecord(
        folder / "validate0010.tfrecord",
        [
            video_record("dddd", [3], audio=SILENCE + np.float32(1e-6)),
            video_record("aaaa", [3]),
            video_record("eeee", [4], audio=np.zeros(128, np.float32)),
            video_record("ffff", [7]),
        ],
    )
    write_tfrecord(folder / "validate0011.tfrecord", [video_record("gggg", [9, 3])])
    return folder


def select(folder, **wanted):
    return select_videos(find_files([folder]), NAMES, **wanted)


def by_name(selection):
    return {Path(path).name: ids for path, ids in selection.wanted.items()}


def test_videos_that_are_left_out_are_counted_by_reason(folder):
    selection = select(folder)
    assert (selection.videos, selection.count, selection.frame_level) == (8, 4, False)
    assert by_name(selection) == {
        "validate0003.tfrecord": ["aaaa", "bbbb"],
        "validate0010.tfrecord": ["ffff"],
        "validate0011.tfrecord": ["gggg"],
    }
    assert selection.left_out == {REPEATED: 1, SHARED_AUDIO: 2, ZERO_AUDIO: 1}


def test_shared_audio_is_looked_for_among_all_labels(folder):
    selection = select(folder, labels=MUSIC_LABELS)
    assert list(selection.wanted.values()) == [["aaaa"], ["gggg"]]
    assert selection.left_out == {REPEATED: 1, SHARED_AUDIO: 2, ZERO_AUDIO: 1, OTHER_LABELS: 2}


def test_the_same_file_given_twice_does_not_make_its_audio_shared(folder, tmp_path):
    copy = tmp_path / "copy.tfrecord"
    copy.write_bytes((folder / "validate0011.tfrecord").read_bytes())
    selection = select_videos(find_files([folder / "validate0011.tfrecord", copy]), NAMES)
    assert (selection.count, selection.left_out) == (1, {REPEATED: 1})


def test_constant_sound_of_any_length_is_the_same_sound(tmp_path):
    rng = np.random.default_rng(0)
    silence, rgb = rng.integers(0, 256, (1, 128), np.uint8), rng.integers(0, 256, (45, 1024), np.uint8)
    records = [
        frame_record("aaaa", [3], rgb[:45], silence.repeat(45, 0)),
        frame_record("bbbb", [3], rgb[:17], silence.repeat(17, 0)),
        frame_record("cccc", [3], rgb, rng.integers(0, 256, (45, 128), np.uint8)),
    ]
    selection = select_videos([str(write_tfrecord(tmp_path / "train00.tfrecord", records))], NAMES)
    assert (by_name(selection), selection.left_out) == ({"train00.tfrecord": ["cccc"]}, {SHARED_AUDIO: 2})


def test_splits_are_numbers_or_patterns_and_other_files_are_not_read(folder):
    selection = select(folder, splits=[Split.parse("train=0-9"), Split.parse("test=11")])
    assert {Path(path).name: split for path, split in selection.splits.items()} == {
        "validate0003.tfrecord": "train",
        "validate0011.tfrecord": "test",
    }
    # The other silent video is in a file that was not read.
    assert (selection.videos, selection.count) == (4, 4)
    assert set(select(folder, splits=[Split.parse("train=validate*")]).splits.values()) == {"train"}


@pytest.mark.parametrize(
    ("splits", "cause"),
    [
        (["train=0-10", "test=10-19"], r"validate0010\.tfrecord: in the splits test and train; give it to one"),
        (["train=50-59"], "no file is in a split; the first is"),
        (["train=0-9", "test=50-59"], "no file is in the split test=50-59; give other files"),
        (["0-49"], "split '0-49': give NAME=FILES, such as train=0-49"),
        (["train="], "split 'train=': give NAME=FILES"),
    ],
)
def test_splits_that_cannot_be_used_are_refused(folder, splits, cause):
    with pytest.raises(ViMLError, match=cause):
        select(folder, splits=[Split.parse(split) for split in splits])


@pytest.mark.parametrize(
    ("name", "number"),
    [("train10", 10), ("trainpj", None), ("trainA7", None), ("part-3", 3), ("12", 12)],
)
def test_shards_are_numbered_by_the_end_of_the_name(name, number):
    assert shard_number(f"folder/{name}.tfrecord") == number


def test_a_store_holds_features_texts_and_where_they_came_from(folder, tmp_path):
    selection = select(folder, splits=[Split.parse("train=3"), Split.parse("test=10-19")])
    store = import_videos(selection, NAMES, tmp_path / "store", progress=False)
    assert [item.id for item in store.items] == ["aaaa", "bbbb", "ffff", "gggg"]
    first, _, nameless, last = store.items
    assert first.texts == (label_text("aaaa", ["Concert", "Musician", "Guitar"]),)
    assert first.fields == {
        "source": "youtube8m",
        "licence": "cc-by-4.0",
        "file": "validate0003.tfrecord",
        "shard": 3,
        "split": "train",
        "labels": [3, 4, 9],
        "tags": {"label": ["Concert", "Musician", "Guitar"]},
    }
    assert (nameless.texts, len(nameless.text), nameless.fields["labels"]) == ((), 0, [7])
    assert last.fields["split"] == "test"
    expected = parse_video(video_record("aaaa", [3, 4, 9])).features
    for modality in ("video", "audio"):
        rows = store.rows(modality, getattr(first, modality)).numpy()
        assert np.array_equal(rows, expected[modality].astype(np.float16))
    assert store.spec.encoders["video"] == "features:youtube8m-inception-pca"
    assert (store.spec.widths["video"], store.spec.widths["audio"]) == (1024, 128)
    assert len(store.usable()) == 4


def test_other_videos_are_there_to_learn_from_only(folder, tmp_path):
    splits = [Split.parse("train=3"), Split.parse("test=10-19")]
    selection = select(folder, labels=frozenset([4]), splits=splits, keep_others=True)
    store = import_videos(selection, NAMES, tmp_path / "store", others_weight=0.25, pool_shards=2, progress=False)
    by_id = {item.id: item.fields for item in store.items}
    assert all(fields["pool"] == fields["shard"] // 2 for fields in by_id.values())
    wanted = {name for name, fields in by_id.items() if 4 in fields["labels"]}
    assert wanted
    assert set(by_id) - wanted == selection.others != set()
    for name, fields in by_id.items():
        assert fields.get("weight") == (None if name in wanted else 0.25)
        assert name in wanted or fields["split"] == "train"
    for options in ({"labels": None}, {"splits": [Split.parse("test=0-99")]}):
        with pytest.raises(ViMLError, match="into the split 'train': give both"):
            select(folder, **{"labels": frozenset([4]), "splits": splits, "keep_others": True} | options)


def test_every_ten_seconds_of_a_frame_level_file_are_a_row(tmp_path):
    rng = np.random.default_rng(0)
    rgb, audio = rng.integers(0, 256, (31, 1024), np.uint8), rng.integers(0, 256, (32, 128), np.uint8)
    path = write_tfrecord(tmp_path / "train00.tfrecord", [frame_record("aaaa", [3], rgb, audio)])
    selection = select_videos([str(path)], NAMES)
    store = import_videos(selection, NAMES, tmp_path / "store", progress=False)
    (item,) = store.items
    assert (len(item.video), len(item.audio)) == (3, 4)
    assert (item.fields["video_seconds"], item.fields["audio_seconds"], item.fields["shard"]) == (31.0, 32.0, 0)
    assert (store.spec.segment_seconds, store.spec.frames_per_second) == (10.0, 1)


def test_the_levels_are_not_mixed(tmp_path, folder):
    frames = frame_record("zzzz", [3], np.zeros((3, 1024), np.uint8), np.ones((3, 128), np.uint8))
    path = write_tfrecord(folder / "validate0099.tfrecord", [frames])
    assert list(select(folder).problems) == [str(path)]
    import_videos(select_videos([str(path)], NAMES), NAMES, tmp_path / "store", progress=False)
    with pytest.raises(ViMLError, match=r"holds features with segment_seconds=10\.0, not 0\.0"):
        import_videos(select_videos([str(folder / "validate0003.tfrecord")], NAMES), NAMES, tmp_path / "store")


def test_equal_texts_are_encoded_once(tmp_path, monkeypatch):
    records = [video_record(f"id{number}", [3] if number % 2 else [3, 9]) for number in range(20)]
    encoded = []
    encode = MediaEncoder.encode_text
    monkeypatch.setattr(MediaEncoder, "encode_text", lambda self, text: encoded.append(text) or encode(self, text))
    selection = select_videos([str(write_tfrecord(tmp_path / "a1.tfrecord", records))], NAMES)
    store = import_videos(selection, NAMES, tmp_path / "store", progress=False)
    assert sorted(encoded) == ["Concert", "Concert, Guitar", "Guitar, Concert"]
    encoder = youtube8m_store.EncoderSettings().load()
    for item in store.items:
        assert np.array_equal(store.rows("text", item.text).numpy(), encode(encoder, item.texts[0]))


def test_a_rerun_leaves_what_is_wanted_now_and_the_same_bits(folder, tmp_path):
    def contents(store):
        return [(i.id, i.texts, i.fields, store.rows("video", i.video).numpy().tobytes()) for i in store.items]

    first = contents(import_videos(select(folder), NAMES, tmp_path / "store", progress=False))
    fewer = import_videos(select(folder, labels=frozenset({9})), NAMES, tmp_path / "store", progress=False)
    assert [item.id for item in fewer.items] == ["aaaa", "gggg"]
    again = import_videos(select(folder), NAMES, tmp_path / "store", progress=False)
    assert contents(again) == first
    assert len(list((tmp_path / "store").glob("video-*"))) == 1
    again.verify()


def test_an_interrupted_import_leaves_the_earlier_store_and_can_be_repeated(folder, tmp_path, monkeypatch):
    import_videos(select(folder, labels=frozenset({9})), NAMES, tmp_path / "store", progress=False)

    def stopped(*_):
        yield from list(selected_videos(select(folder), NAMES))[:2]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(youtube8m_store, "selected_videos", stopped)
        with pytest.raises(KeyboardInterrupt):
            import_videos(select(folder), NAMES, tmp_path / "store", progress=False)
    assert [item.id for item in Store(tmp_path / "store").items] == ["aaaa", "gggg"]
    assert len(import_videos(select(folder), NAMES, tmp_path / "store", progress=False)) == 4


def test_nothing_to_import_is_an_error_that_names_the_first_problem(tmp_path):
    (tmp_path / "a.tfrecord").write_bytes(b"<html>not found</html>")
    with pytest.raises(ViMLError, match=r"no video to import of 0 .*a\.tfrecord record 1: the checksum of its length"):
        import_videos(select(tmp_path), NAMES, tmp_path / "store")
    assert not (tmp_path / "store").exists()


def test_a_file_that_changes_between_the_two_readings_is_an_error(folder):
    selection = select(folder)
    write_tfrecord(folder / "validate0011.tfrecord", [video_record("hhhh", [9])])
    with pytest.raises(ViMLError, match=r"validate0011\.tfrecord: 1 videos are gone"):
        list(selected_videos(selection, NAMES))


@pytest.mark.skipif(not REAL.is_dir(), reason="no folder ../shared/data/yt8m_video_level beside the repository")
def test_all_80_files_of_the_real_set_are_read():
    vocabulary = read_vocabulary(REAL / "vocabulary.csv")
    splits = [Split("train", "0-49"), Split("validation", "50-59"), Split("test", "60-79")]
    start = time.process_time()
    selection = select_videos(find_files([REAL]), vocabulary, labels=MUSIC_LABELS, splits=splits)
    assert time.process_time() - start < 30
    assert len(vocabulary) == 3862
    assert (len(selection.splits), selection.videos, selection.problems) == (80, 23091, {})
    assert selection.left_out == {SHARED_AUDIO: 352, OTHER_LABELS: 18776}
    counts = dict.fromkeys(("train", "validation", "test"), 0)
    pools = [0] * 8
    for path, ids in selection.wanted.items():
        counts[selection.splits[path]] += len(ids)
        pools[(shard_number(path) or 0) // 10] += len(ids)
    assert counts == {"train": 2523, "validation": 522, "test": 918}
    assert pools == [510, 510, 544, 507, 452, 522, 459, 459]
