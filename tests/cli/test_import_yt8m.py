import numpy as np
import pytest

from tests.tfrecords import example, video_record, write_tfrecord
from viml_hf import Store


@pytest.fixture
def yt8m(tmp_path):
    """A folder of two files with one record without audio, and the vocabulary."""
    folder = tmp_path / "yt8m"
    folder.mkdir()
    (folder / "vocabulary.csv").write_text("Index,Name\n0,Game\n3,Concert\n9,Guitar\n")
    bad = example({"id": b"bad1", "labels": [3], "mean_rgb": np.zeros(1024, np.float32)})
    write_tfrecord(folder / "validate0000.tfrecord", [video_record("aaaa", [3]), bad, video_record("bbbb", [0])])
    write_tfrecord(folder / "validate0001.tfrecord", [video_record("cccc", [3, 9])])
    return folder


def arguments(folder, *more):
    return ["import-yt8m", folder, "--vocabulary", folder / "vocabulary.csv", "--quiet", *more]


def test_a_folder_becomes_a_store_and_bad_records_are_named(viml, yt8m, tmp_path):
    store, bad = tmp_path / "store", f"{yt8m / 'validate0000.tfrecord'} record 2"
    words = ["-o", store, "--labels", "music", "--split", "train=0", "--split", "test=1"]
    status, out, err = viml(*arguments(yt8m, *words))
    assert status == 0
    assert out == [
        "2 files, 3 videos (video level), of which 2 are taken",
        "left out: 1 without a wanted label",
        "split train: 1",
        "split test: 1",
        f"2 items in {store}, rows: video 2, audio 2, text 2; 2 distinct texts",
    ]
    assert err == [
        f"left out: {bad}: `mean_audio` is missing, not 128 floats; give files with RGB and audio features",
        "left out: 1 records that could not be read",
    ]
    assert [(item.id, item.fields["split"]) for item in Store(store).items] == [("aaaa", "train"), ("cccc", "test")]
    status, out, _ = viml("verify", store)
    assert status == 0
    assert "video: features:youtube8m-inception-pca (width 1024, cc-by-4.0)" in out


def test_a_dry_run_counts_and_writes_nothing(viml, yt8m, tmp_path):
    status, out, _ = viml(*arguments(yt8m, "-o", tmp_path / "store", "--dry-run"))
    assert (status, out) == (0, ["2 files, 3 videos (video level), of which 3 are taken"])
    assert not (tmp_path / "store").exists()


def test_of_many_problems_of_a_file_some_are_shown_and_all_are_counted(viml, yt8m, tmp_path):
    path = write_tfrecord(yt8m / "validate0002.tfrecord", [b""] * 30)
    status, _, err = viml(*arguments(yt8m, "-o", tmp_path / "store", "--dry-run"))
    assert (status, len(err)) == (0, 1 + 10 + 1 + 1)
    assert err[-2:] == [f"left out: {path}: 20 more records", "left out: 31 records that could not be read"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--labels", "jazz"], "label 'jazz': not in the vocabulary"),
        (["--split", "train=7"], "no file is in a split"),
        (["--labels", "Guitar", "--split", "train=0"], "no video to import of 2 that could be read"),
        (["--text-encoder", "clop"], "'clop' names no encoder"),
        (["--vocabulary", "none.csv"], "none.csv: cannot be read"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(viml, yt8m, tmp_path, words, message):
    status, _, err = viml(*arguments(yt8m, "-o", tmp_path / "store", *words))
    assert status == 2
    assert [line for line in err if line.startswith("viml: ")] == [err[-1]]
    assert message in err[-1]
    assert not (tmp_path / "store").exists()


def test_a_store_of_files_is_not_written_into(viml, yt8m, tmp_path):
    from tests.media import sine, write_audio

    music = write_audio(tmp_path / "a.wav", sine(220, 2, 8000), 8000)
    assert viml("extract", music, "-o", tmp_path / "store", "--workers", 1, "--quiet")[0] == 0
    status, _, err = viml(*arguments(yt8m, "-o", tmp_path / "store"))
    assert status == 2
    assert "holds features with" in err[-1]
    assert [item.id for item in Store(tmp_path / "store").items] == ["a.wav"]
