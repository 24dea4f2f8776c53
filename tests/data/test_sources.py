import logging
import os

import pytest

from tests.data.test_manifests import ids, write, write_rows
from tests.media import sine, write_audio, write_video
from viml_hf import ViMLError, extract
from viml_hf.data.sources import Sources, find_media_files, read_sources
from viml_hf.features.media_item import MediaItem


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


# Folders


def test_a_folder_gives_its_media_files_by_path(tmp_path):
    names = ["b.wav", "a/song 1.MP3", "a/ü 映画.mp4", "notes.txt", "a/c.webm"]
    folder = touch(tmp_path, *names)
    found = read_sources([folder])
    assert found == Sources(
        tuple(
            MediaItem(name, str(folder / name) if picture else None, str(folder / name))
            for name, picture in (("a/c.webm", True), ("a/song 1.MP3", False), ("a/ü 映画.mp4", True), ("b.wav", False))
        )
    )
    assert read_sources(str(folder)) == read_sources([str(folder)]) == found


def test_hidden_files_and_folders_are_left_out(tmp_path):
    touch(tmp_path, ".cache/kept/a.mp4", ".cache/kept/.b.mp4", ".cache/kept/.git/c.mp4", ".cache/kept/._a.mp4")
    assert ids(read_sources([tmp_path / ".cache/kept"])) == ["a.mp4"]


def test_a_file_name_that_is_not_utf8_gives_an_id_that_is(tmp_path):
    name = os.fsdecode(b"caf\xe9.wav")
    touch(tmp_path, name)
    (item,) = read_sources([tmp_path]).items
    assert item == MediaItem("caf\\udce9.wav", None, str(tmp_path / name))
    assert os.path.exists(item.audio)


def test_links_to_files_count_and_links_to_folders_are_named_in_a_warning(tmp_path, caplog):
    folder = touch(tmp_path / "media", "a/b.mp4")
    (folder / "a" / "loop").symlink_to(folder)
    (folder / "link.mp4").symlink_to(folder / "a" / "b.mp4")
    (folder / "gone.mp4").symlink_to(tmp_path / "nowhere")
    (tmp_path / "source").symlink_to(folder)
    assert ids(read_sources([tmp_path / "source"])) == ["a/b.mp4", "gone.mp4", "link.mp4"]
    (record,) = caplog.records
    assert "not read: 1, such as" in record.getMessage()
    assert str(tmp_path / "source" / "a" / "loop") in record.getMessage()


def test_what_is_no_file_is_left_out_whatever_its_name(tmp_path):
    touch(tmp_path, "folder.mp4/a.mp4")
    os.mkfifo(tmp_path / "pipe.mp4")
    assert find_media_files(tmp_path) == [tmp_path / "folder.mp4" / "a.mp4"]


def test_files_of_several_folders_are_named_after_their_folder(tmp_path, monkeypatch):
    touch(tmp_path, "one/a.mp4", "two/a.mp4", "a.mp4")
    monkeypatch.chdir(tmp_path / "one")
    found = read_sources([".", "../two/", "../a.mp4"])
    assert ids(found) == ["one/a.mp4", "two/a.mp4", "a.mp4"]
    assert [os.path.realpath(item.video) for item in found.items] == [str(tmp_path / name) for name in ids(found)]


def test_a_single_file_is_an_item(tmp_path):
    touch(tmp_path, "a b.m4a", "c.MOV")
    found = read_sources([tmp_path / "a b.m4a", tmp_path / "c.MOV"])
    video = str(tmp_path / "c.MOV")
    assert found.items == (MediaItem("a b.m4a", None, str(tmp_path / "a b.m4a")), MediaItem("c.MOV", video, video))


# Folders with metadata


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl", "metadata.parquet"])
def test_a_folder_is_read_by_its_metadata(tmp_path, caplog, name):
    folder = touch(tmp_path / "train", "a.mp4", "in/b.mp4", "c.mp4", "d.wav", ".hidden.mp4")
    rows = [{"file_name": "a.mp4", "audio": "d.wav"}, {"file_name": "in/../in/b.mp4", "audio": "in/b.mp4"}]
    if name.endswith("csv"):
        write(folder / name, "file_name,audio\na.mp4,d.wav\nin/../in/b.mp4,\n")
    else:
        write_rows(folder / name, *rows)
    found = read_sources([folder])
    assert ids(found) == ["a.mp4", "in/../in/b.mp4"]
    (record,) = caplog.records
    assert (record.levelno, record.args) == (logging.WARNING, (str(folder), 1, name))


def test_metadata_of_several_folders_may_name_the_same_files(tmp_path):
    for folder in ("train", "test"):
        rows = f"a.mp4,0,1,\na.mp4,1,2,\nb.mp4,,,b-of-{folder}"
        write(tmp_path / folder / "metadata.csv", f"file_name,start,end,id\n{rows}")
    found = read_sources([tmp_path / "train", tmp_path / "test"])
    assert ids(found)[:3] == ["train/a.mp4#0-1", "train/a.mp4#1-2", "b-of-train"]
    assert ids(found)[3:] == ["test/a.mp4#0-1", "test/a.mp4#1-2", "b-of-test"]
    assert found.items[3].video == str(tmp_path / "test/a.mp4")


def test_an_id_may_be_taken_by_another_source(tmp_path):
    touch(tmp_path, "one/a.mp4", "two/a.mp4")
    found = read_sources([tmp_path / "one/a.mp4", tmp_path / "two/a.mp4"])
    assert ids(found) == ["a.mp4"]
    assert "one/a.mp4; give each item an id" in found.problems[0]


# Refusals


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("empty", None, "no media file in this folder"),
        ("missing.csv", None, "no such file or folder"),
        ("notes.txt", "", "neither a manifest"),
        ("m.csv", "path,start\na.mp4,x\n", "no item to extract; the first of 1 problems: .*line 2: start='x'"),
    ],
)
def test_what_cannot_be_read_is_refused(tmp_path, name, content, message):
    if content is not None:
        write(tmp_path / name, content)
    elif name == "empty":
        touch(tmp_path / name, "notes.txt", ".hidden.mp4")
    with pytest.raises(ViMLError, match=message) as caught:
        read_sources([tmp_path / name])
    assert "\n" not in str(caught.value)


def test_what_is_ambiguous_is_refused(tmp_path):
    with pytest.raises(ViMLError, match="no source; give"):
        read_sources([])
    touch(tmp_path, "a.csv", "one/clips/a.mp4", "two/clips/b.mp4", "meta/metadata.csv", "meta/metadata.parquet")
    (tmp_path / "link.csv").symlink_to(tmp_path / "a.csv")
    with pytest.raises(ViMLError, match="give it once"):
        read_sources([tmp_path / "a.csv", tmp_path / "link.csv"])
    with pytest.raises(ViMLError, match=r"two/clips: .*one/clips has the same name; rename one"):
        read_sources([tmp_path / "one/clips", tmp_path / "two/clips"])
    with pytest.raises(ViMLError, match=r"holds metadata\.csv and metadata\.parquet; keep one"):
        read_sources([tmp_path / "meta"])


# The whole


def test_what_is_read_can_be_extracted(tmp_path):
    folder = tmp_path / "clips"
    folder.mkdir()
    write_video(folder / "a.mp4", 48, audio=sine(220, 2, 22050), sampling_rate=22050)
    write_audio(folder / os.fsdecode(b"caf\xe9.wav"), sine(440, 2, 22050), 22050)
    write_rows(
        folder / "metadata.jsonl",
        {"file_name": "a.mp4", "text": "calm \ud83d", "mood": "\ud83d"},
        {"file_name": os.fsdecode(b"caf\xe9.wav"), "license": "CC0"},
        {"file_name": "gone.mp4"},
    )
    store = extract(read_sources([folder]).items, tmp_path / "store", workers=1, progress=False)
    found = {item.id: item for item in store.items}
    assert [(item.id, len(item.video), len(item.audio), len(item.texts)) for item in store.usable()] == [
        ("a.mp4", 1, 1, 1)
    ]
    assert (len(found["caf\\udce9.wav"].audio), found["caf\\udce9.wav"].fields["licence"]) == (1, "CC0")
    assert "gone.mp4" in found["gone.mp4"].error
