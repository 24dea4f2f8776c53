import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.features.test_workers import alive, children, wait_until
from tests.media import sine, write_audio, write_video
from viml_hf import Store
from viml_hf.cli.main import main
from viml_hf.features import extraction
from viml_hf.features.atomic_files import LOCK_FILE, lock_folder, unlock_folder

RATE = 22050


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """A good video, one without sound, a music file, a broken file, and a file of another kind."""
    folder = tmp_path_factory.mktemp("cli") / "media"
    folder.mkdir()
    write_video(folder / "good.mp4", 48, audio=sine(220, 2, RATE), sampling_rate=RATE)
    write_video(folder / "silent.mp4", 48)
    write_audio(folder / "music.wav", sine(440, 3, RATE), RATE)
    (folder / "broken.mp4").write_bytes(b"nothing to see" * 100)
    (folder / "notes.txt").write_text("not media")
    return folder


def extract(viml, *arguments):
    return viml("extract", *arguments, "--workers", 1, "--quiet")


def files_of(folder):
    """All but the lock, in which every run notes its process."""
    files = [path for path in folder.iterdir() if path.name != LOCK_FILE]
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def found(store):
    return {item.id: (len(item.video), len(item.audio), item.error is None) for item in Store(store).items}


def test_a_folder_becomes_a_store_and_what_could_not_be_read_is_said_by_file(viml, media, tmp_path):
    store = tmp_path / "store"
    status, out, err = extract(viml, media, "-o", store)
    assert (status, out) == (0, [f"3 items in {store}, rows: video 2, audio 2, text 0"])
    skipped, partial, summary = err
    assert skipped.startswith(f"skipped: {media / 'broken.mp4'}: not a video or music file")
    assert partial.startswith(f"only video kept: {media / 'silent.mp4'}: no audio stream; ")
    assert summary == f"1 could not be read, 1 only in part: see column error of {store / 'items.parquet'}"
    assert found(store) == {
        "broken.mp4": (0, 0, False),
        "good.mp4": (1, 1, True),
        "music.wav": (0, 1, True),
        "silent.mp4": (1, 0, False),
    }


def test_a_rerun_says_that_there_is_nothing_to_read(viml, media, tmp_path, monkeypatch):
    words = ["extract", media / "good.mp4", media / "music.wav", "-o", tmp_path / "store", "--workers", 1]
    assert viml(*words)[0] == 0
    monkeypatch.setattr(extraction, "extract_one", lambda item, encoder: pytest.fail(f"{item.id} was read again"))
    status, out, err = viml(*words)
    assert (status, out) == (0, [f"2 items in {tmp_path / 'store'}, rows: video 1, audio 2, text 0"])
    assert err == [f"nothing to read: the features of all 2 items are in {tmp_path / 'store'}"]


def test_a_manifest_gives_excerpts_texts_and_licences(viml, media, tmp_path):
    manifest = media.parent / "list.csv"
    manifest.write_text(
        "video,start,end,text,license,mood\n"
        "media/good.mp4,0.5,0:02,slow blues,CC0,calm\n"
        "media/music.wav,,,,,\n"
        "media/good.mp4,3,2,,,\n"
    )
    status, out, err = extract(viml, manifest, "-o", tmp_path / "store")
    assert (status, out) == (0, [f"2 items in {tmp_path / 'store'}, rows: video 1, audio 2, text 1"])
    assert err == [f"left out: {manifest} line 4: end=2: not after start=3; give the end of the excerpt in seconds"]
    first, second = Store(tmp_path / "store").items
    assert (first.id, first.texts) == ("media/good.mp4", ("slow blues",))
    expected = {"start": 0.5, "end": 2.0, "licence": "CC0", "mood": "calm", "video_seconds": 1.5}
    assert {name: first.fields[name] for name in expected} == expected
    assert (second.id, len(second.video), len(second.audio)) == ("media/music.wav", 0, 1)


def test_a_folder_with_metadata_is_read_by_it(viml, media, tmp_path, caplog):
    folder = tmp_path / "train"
    folder.mkdir()
    for name in ("good.mp4", "music.wav", "silent.mp4"):
        (folder / name).symlink_to(media / name)
    (folder / "metadata.csv").write_text("file_name,audio,text\ngood.mp4,music.wav,fast rock\n")
    status, out, _ = extract(viml, folder, "-o", tmp_path / "store")
    assert (status, out) == (0, [f"1 items in {tmp_path / 'store'}, rows: video 1, audio 1, text 1"])
    (item,) = Store(tmp_path / "store").items
    assert (item.id, item.fields["audio_path"]) == ("good.mp4", str(folder / "music.wav"))
    assert "1 media files are in no item of metadata.csv" in caplog.text


@pytest.mark.parametrize(
    ("modality", "rows", "left_out"), [("audio", "video 0, audio 2", 0), ("video", "video 2, audio 0", 1)]
)
def test_the_pictures_or_the_sound_can_be_read_alone(viml, media, tmp_path, modality, rows, left_out):
    status, out, err = extract(viml, media, "-o", tmp_path / "store", "--only", modality)
    assert (status, out) == (0, [f"2 items in {tmp_path / 'store'}, rows: {rows}, text 0"])
    assert [line for line in err if line.startswith("left out")] == ["left out, as without video: 1 items"] * left_out


def test_a_dry_run_says_what_would_be_done_and_writes_nothing(viml, media, tmp_path):
    store = tmp_path / "store"
    encoders = "encoders: video descriptors, text descriptors, audio descriptors"
    size = sum(path.stat().st_size for path in media.iterdir() if path.suffix != ".txt")
    status, out, err = extract(viml, media, "-o", store, "--dry-run")
    plan = [f"items: 4, of which 0 are in {store} already", f"to read: 4, from 4 files of {size / 1e3:.1f} kB"]
    assert (status, out, err) == (0, [*plan, encoders], [])
    assert not store.exists()

    extract(viml, media, "-o", store)
    before = files_of(store)
    manifest = tmp_path / "list.csv"
    manifest.write_text(f"path,id\n{media / 'good.mp4'},good.mp4\n{media / 'broken.mp4'},broken.mp4\ngone.wav,\n")
    status, out, _ = extract(viml, manifest, "-o", store, "--dry-run")
    assert (status, out) == (
        0,
        [
            f"items: 3, of which 1 are in {store} already",
            "to read: 2, from 1 files of 1.4 kB",
            f"not named by any source: 2 of {store}; renamed files are known by their content then",
            f"missing: {tmp_path / 'gone.wav'}",
            encoders,
        ],
    )
    assert files_of(store) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no such file or folder; give a folder"),
        (["media/notes.txt"], "media/notes.txt: neither a manifest"),
        (["media", "-o", "media/notes.txt"], "media/notes.txt: a file; give a folder for the store"),
        (["media", "--workers", "0"], "workers=0: give 1 or more"),
        (["media", "--audio-encoder", "clop"], "'clop'"),
        (["media/music.wav", "--only", "video"], "--only video: no item has video"),
        (["media", "--fast"], "store: holds features with fast=False, not True; take another folder"),
    ],
)
def test_what_cannot_be_used_is_refused_in_one_line(viml, media, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(media.parent)
    if arguments[-1] == "--fast":
        extract(viml, "media/music.wav", "-o", tmp_path / "store")
    before = files_of(tmp_path / "store") if arguments[-1] == "--fast" else None
    status, out, err = viml("extract", "-o", tmp_path / "store", *arguments, "--quiet")
    assert (status, out) == (2, [])
    mistakes = [line for line in err if line.startswith("viml: ")]
    assert len(mistakes) == 1
    assert message in mistakes[0]
    assert (files_of(tmp_path / "store") if (tmp_path / "store").exists() else None) == before


def test_a_store_that_another_run_writes_is_refused(viml, media, tmp_path):
    lock = lock_folder(tmp_path)
    status, _, err = extract(viml, media, "-o", tmp_path)
    unlock_folder(lock)
    assert status == 2
    assert f"another extraction is writing into {tmp_path}" in err[-1]
    assert extract(viml, media, "-o", tmp_path)[0] == 0


def test_help_names_the_columns_of_a_manifest(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["extract", "--help"])
    said = capsys.readouterr().out
    assert all(name in said for name in ("file_name", "hh:mm:ss", "texts", "licence"))


def test_verify_says_what_a_store_holds_and_names_a_damaged_file(viml, media, tmp_path):
    store = tmp_path / "store"
    extract(viml, media, "-o", store)
    status, out, err = viml("verify", store)
    assert (status, err) == (0, [])
    assert out[0] == f"{store}: 3 items and 1 without features, 2 shards, all as they were written"
    assert [line.split(": ")[0] for line in out[1:]] == ["video", "text", "audio"]
    assert "descriptors (width 160" in out[1]
    shard, times = store / "video-00000.safetensors", (store / "video-00000.safetensors").stat()
    damaged = bytearray(shard.read_bytes())
    damaged[-5] ^= 1
    shard.write_bytes(damaged)
    os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns))
    Store(store)  # the same size and time: only `verify` looks
    status, out, err = viml("verify", store)
    assert (status, out, err) == (2, [], [f"viml: {shard}: the file is damaged; run the extraction again"])
    assert extract(viml, media, "-o", store)[0] == viml("verify", store)[0] == 0


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads /proc")
@pytest.mark.parametrize("moment", ["starting", "reading"])
def test_after_ctrl_c_it_ends_at_once_and_a_rerun_goes_on(viml, media, tmp_path, moment):
    folder, store, errors = tmp_path / "media", tmp_path / "store", tmp_path / "errors"
    folder.mkdir()
    for index in range(600):
        (folder / f"{index:03d}.wav").symlink_to(media / "music.wav")
    words = [sys.executable, "-m", "viml_hf.cli.main", "extract", folder, "-o", store, "--workers", "2"]
    with errors.open("w") as file:
        # As in a terminal, the interrupt reaches the workers too.
        driver = subprocess.Popen(words, stderr=file, start_new_session=True)
    wait_until(lambda: len(children(driver.pid)) == 3)  # two workers, and multiprocessing's resource tracker
    workers = children(driver.pid)
    if moment == "reading":
        wait_until(lambda: re.search(r"[1-9]\d*/600", errors.read_text()))
    os.killpg(driver.pid, signal.SIGINT)
    start = time.monotonic()
    assert driver.wait(timeout=30) == 130
    assert time.monotonic() - start < 10
    assert errors.read_text().splitlines()[-1] == "viml: stopped"
    assert "Traceback" not in errors.read_text()
    wait_until(lambda: not any(map(alive, workers)))
    kept = (store / "journal.jsonl").read_text()
    assert (len(kept) > 0) == (moment == "reading")

    status, out, err = viml(*words[3:], "--quiet")
    assert (status, out, err) == (0, [f"600 items in {store}, rows: video 0, audio 600, text 0"], [])
    assert (store / "journal.jsonl").read_text().startswith(kept)
    assert viml("verify", store)[0] == 0
