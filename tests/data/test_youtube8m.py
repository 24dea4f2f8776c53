import random
from pathlib import Path

import numpy as np
import pytest

from tests.tfrecords import example, frame_record, sequence_example, video_record, write_tfrecord
from viml_hf import ViMLError
from viml_hf.data import youtube8m
from viml_hf.data.youtube8m import (
    MUSIC_LABELS,
    YouTube8MVideo,
    find_files,
    label_text,
    parse_labels,
    parse_video,
    read_videos,
    read_vocabulary,
)

NAMES = {0: "Game", 3: "Concert", 4: "Musician", 7: "", 9: "Guitar"}


@pytest.fixture
def narrow(monkeypatch):
    """Features of 6 and 3 numbers, so that every byte of a file can be tried."""
    monkeypatch.setitem(youtube8m.WIDTHS, "video", 6)
    monkeypatch.setitem(youtube8m.WIDTHS, "audio", 3)


def narrow_record(video_id, labels):
    rng = np.random.default_rng(list(video_id.encode()))
    rgb, audio = rng.normal(size=6).astype(np.float32), rng.normal(size=3).astype(np.float32)
    return example({"id": video_id.encode(), "labels": labels, "mean_rgb": rgb, "mean_audio": audio})


def test_a_video_level_record_is_one_row():
    audio = np.linspace(-2, 2, 128, dtype=np.float32)
    video = parse_video(video_record("02aa", [9, 3, 9], audio=audio))
    assert (video.id, video.labels, video.seconds) == ("02aa", (3, 9), {})
    assert np.array_equal(video.features["audio"], audio[None])
    assert video.features["video"].shape == (1, 1024)


def test_a_frame_level_record_is_one_row_per_ten_seconds_by_the_published_rule():
    rng = np.random.default_rng(0)
    rgb, audio = rng.integers(0, 256, (23, 1024), np.uint8), rng.integers(0, 256, (21, 128), np.uint8)
    video = parse_video(frame_record("02aa", [3], rgb, audio))
    assert video.seconds == {"video": 23.0, "audio": 21.0}
    # Dequantize of YouTube-8M's starter code, frame by frame.
    scalar, bias = 4 / 255.0, 4 / 512.0 - 2
    frames, sound = rgb * scalar + bias, audio * scalar + bias
    expected = [frames[:10].mean(0), frames[10:20].mean(0), frames[20:].mean(0)]
    np.testing.assert_allclose(video.features["video"], expected, atol=1e-6)
    np.testing.assert_allclose(video.features["audio"], [sound[:10].mean(0), sound[10:].mean(0)], atol=1e-6)


RGB, AUDIO = np.zeros(1024, np.float32), np.zeros(128, np.float32)
FRAME, SOUND = [bytes(1024)], [bytes(128)]


@pytest.mark.parametrize(
    ("record", "cause"),
    [
        (example({"labels": [1], "mean_rgb": RGB, "mean_audio": AUDIO}), "`id` is missing"),
        (example({"id": b"", "mean_rgb": RGB, "mean_audio": AUDIO}), "`id` is 1 texts of 0 bytes, not one text"),
        (example({"id": [5], "mean_rgb": RGB, "mean_audio": AUDIO}), r"`id` is 1 numbers \(int64\)"),
        (example({"id": b"a", "labels": AUDIO, "mean_rgb": RGB, "mean_audio": AUDIO}), "not integers"),
        (example({"id": b"a", "mean_rgb": RGB}), "`mean_audio` is missing, not 128 floats"),
        (example({"id": b"a", "mean_rgb": RGB[:1000], "mean_audio": AUDIO}), r"`mean_rgb` is 1000 numbers \(float32\)"),
        (example({"id": b"a", "mean_rgb": RGB, "mean_audio": [0] * 128}), r"128 numbers \(int64\), not 128 floats"),
        (example({"id": b"a", "mean_rgb": RGB, "mean_audio": AUDIO + 1e5}), "`mean_audio` is not finite"),
        (sequence_example({"id": b"a"}, {"rgb": FRAME}), "`audio` is missing or empty"),
        (sequence_example({"id": b"a"}, {"rgb": [*FRAME, bytes(9)], "audio": SOUND}), "1 texts of 9 bytes, not one"),
        (sequence_example({"id": b"a"}, {"rgb": [RGB], "audio": SOUND}), r"a frame that is 1024 numbers \(float32\)"),
        (b"\x0a\x05ab", "not a tf.train.Example"),
    ],
)
def test_a_record_without_the_right_features_is_refused_in_one_line(record, cause):
    with pytest.raises(ViMLError, match=cause) as error:
        parse_video(record)
    assert "\n" not in str(error.value)


def test_bad_records_are_named_and_the_others_are_read(tmp_path):
    bad = example({"id": b"bad1", "mean_rgb": RGB})
    path = write_tfrecord(
        tmp_path / "a.tfrecord", [video_record("aaaa", [3]), bad, video_record("cccc", [5]), video_record("dddd", [0])]
    )
    found = dict(read_videos(str(path), NAMES))
    assert [v.id for v in found.values() if isinstance(v, YouTube8MVideo)] == ["aaaa", "dddd"]
    assert "mean_audio" in str(found[f"{path} record 2"])
    assert str(found[f"{path} record 3"]).startswith("label 5 is not in the vocabulary")


def same(one, other):
    return (one.id, one.labels, one.seconds) == (other.id, other.labels, other.seconds) and all(
        one.features[m].tobytes() == other.features[m].tobytes() for m in one.features
    )


def test_a_flipped_byte_anywhere_is_reported_and_never_changes_a_video(tmp_path, narrow):
    frames = sequence_example({"id": b"cc", "labels": [3]}, {"rgb": [bytes(6)] * 2, "audio": [b"abc"] * 2})
    path = write_tfrecord(tmp_path / "a.tfrecord", [narrow_record("aa", [3]), frames, narrow_record("bb", [4, 9])])
    whole = path.read_bytes()
    originals = {video.id: video for _, video in read_videos(str(path), NAMES)}
    assert list(originals) == ["aa", "cc", "bb"]
    for position in range(len(whole)):
        for flip in (1, 255):
            content = bytearray(whole)
            content[position] ^= flip
            path.write_bytes(content)
            found = [video for _, video in read_videos(str(path), NAMES)]
            kept = [video for video in found if isinstance(video, YouTube8MVideo)]
            assert len(kept) < 3
            assert any(isinstance(video, ViMLError) for video in found)
            assert all(same(video, originals[video.id]) for video in kept)


def test_behind_a_right_checksum_whatever_bytes_give_a_video_or_one_error(narrow):
    draws = random.Random(0)
    frames = sequence_example({"id": b"cc", "labels": [3]}, {"rgb": [bytes(6)] * 2, "audio": [b"abc"] * 2})
    refused = 0
    for record in (narrow_record("aa", [3, 300]), frames):
        for _ in range(1500):
            mutant = bytearray(record[: draws.randrange(len(record) + 1)] if draws.random() < 0.2 else record)
            for _ in range(draws.randrange(4)):
                if mutant:
                    mutant[draws.randrange(len(mutant))] = draws.randrange(256)
            try:
                video = parse_video(bytes(mutant))
            except ViMLError:
                refused += 1
            else:
                assert [rows.shape[1] for rows in video.features.values()] == [6, 3]
    assert 500 < refused < 2500


def test_the_vocabulary_is_read_by_its_columns(tmp_path):
    path = tmp_path / "vocabulary.csv"
    path.write_text('Index,TrainVideoCount,Name,Text\n3,10,Concert,"a, b\nc"\n7,2,,\n8,1,"Nike, Inc.",\n')
    assert read_vocabulary(path) == {3: "Concert", 7: "", 8: "Nike, Inc."}


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"Index,Label\n1,a\n", "no column 'Name'"),
        (b"", "no column 'Index'"),
        (b"Index,Name\nx,a\n", "line 2: index 'x' is not a number"),
        (b'Index,Name\n1,"a\n', "unexpected end of data"),
    ],
)
def test_what_is_no_vocabulary_is_refused_in_one_line(tmp_path, content, cause):
    path = tmp_path / "vocabulary.csv"
    path.write_bytes(content)
    with pytest.raises(ViMLError, match=cause) as error:
        read_vocabulary(path)
    assert "\n" not in str(error.value)


def test_labels_are_named_by_name_or_index():
    assert parse_labels(" concert,9, ", NAMES) == {3, 9}
    assert parse_labels("music", NAMES) == MUSIC_LABELS == {3, 4, 9, 10, 13, 14}
    with pytest.raises(ViMLError, match="label 'jazz': not in the vocabulary"):
        parse_labels("concert,jazz", NAMES)
    with pytest.raises(ViMLError, match="none; give names"):
        parse_labels(" , ", NAMES)


def test_the_order_of_names_depends_on_seed_and_id_alone():
    names = ["a", "b", "c", "d"]
    assert label_text("02aa", ["Concert", "Guitar", "Musician"]) == "Musician, Guitar, Concert"  # of every version
    assert len({label_text(f"{n}", names) for n in range(50)}) > 15
    assert len({label_text("x", names, seed=seed) for seed in range(50)}) > 15


def test_folders_give_their_files_in_order(tmp_path):
    for name in ("b.tfrecord", "a.tfrecord", "vocabulary.csv"):
        (tmp_path / name).touch()
    assert [Path(path).name for path in find_files([tmp_path / "b.tfrecord", tmp_path])] == ["b.tfrecord", "a.tfrecord"]
    (tmp_path / "empty").mkdir()
    for missing in ("none.tfrecord", "empty"):
        with pytest.raises(ViMLError, match=f"{missing}: no such file, or a folder without"):
            find_files([tmp_path / missing])
