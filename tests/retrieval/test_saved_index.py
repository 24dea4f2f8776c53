"""A saved index is the old one or the new one, never a mix, and what was damaged is told and built again."""

import json
import multiprocessing
import os
import signal
import stat
import threading
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save

from viml_hf import MusicIndex, ViMLError
from viml_hf.features import atomic_files
from viml_hf.features.checksums import sealed, sha256_of, unsealed
from viml_hf.retrieval import index_folder
from viml_hf.retrieval.index import INDEX_FILE, Track, Window
from viml_hf.retrieval.index_folder import verify_index

DIM = 8


def make_index(seed: int, count: int = 6) -> MusicIndex:
    """An index whose every part tells its seed."""
    generator = np.random.default_rng(seed)
    rows = generator.standard_normal((count, DIM)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    tracks = [Track(f"{seed}-{n}.wav", f"/music/{seed}", f"{seed}", 30.0, (Window(0, 30),)) for n in range(count)]
    return MusicIndex(rows, tuple(tracks), f"model-{seed}", f"fingerprint-{seed}", {"audio": "a"})


def seed_of(index: MusicIndex) -> int:
    """The seed of a loaded index; fails where its parts are of several."""
    seed = int(index.model.rpartition("-")[2])
    expected = make_index(seed, len(index.embeddings))
    assert np.array_equal(index.embeddings, expected.embeddings), "mixed"
    assert index.tracks[0].name == expected.tracks[0].name
    assert index.fingerprint == expected.fingerprint
    return seed


def save_and_die(folder, step: int) -> None:
    """Save in this process, which dies before its `step`-th system call that changes a file."""
    calls = 0

    def dying(function):
        def call(*arguments, **options):
            nonlocal calls
            calls += 1
            if calls == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call

    for name in ("open", "fsync", "replace", "rename", "unlink", "chmod", "close"):
        setattr(os, name, dying(getattr(os, name)))
    make_index(2).save(folder)
    os._exit(0)


def test_a_save_that_is_killed_leaves_the_old_index_or_the_new(tmp_path):
    context, ended = multiprocessing.get_context("fork"), []
    for step in range(1, 60):
        make_index(1).save(tmp_path)
        process = context.Process(target=save_and_die, args=(tmp_path, step))
        process.start()
        process.join()
        ended.append(process.exitcode)
        assert seed_of(MusicIndex.load(tmp_path)) in (1, 2), step
        make_index(3).save(tmp_path)
        assert seed_of(MusicIndex.load(tmp_path)) == 3
        names = {path.name.partition("-")[0] for path in tmp_path.iterdir()}
        assert names == {"embeddings", "tracks", INDEX_FILE, "lock"}, step
        if process.exitcode == 0:
            break
    assert ended[-1] == 0
    assert ended.count(-signal.SIGKILL) >= 10


def write_in_a_loop(folder, seeds: tuple[int, ...], stop) -> None:
    while not stop.is_set():
        for seed in seeds:
            make_index(seed).save(folder)


@pytest.mark.parametrize("loads", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_readers_beside_two_writers_never_see_a_mix(tmp_path, loads):
    context = multiprocessing.get_context("fork")
    stop = context.Event()
    make_index(1).save(tmp_path)
    writers = [context.Process(target=write_in_a_loop, args=(tmp_path, seeds, stop)) for seeds in ((1, 2), (3, 4))]
    for writer in writers:
        writer.start()
    try:
        seen = {seed_of(MusicIndex.load(tmp_path)) for _ in range(loads)}
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert len(seen) > 1


def test_every_mutation_of_a_file_is_one_line_or_the_right_answer(tmp_path):
    generator = np.random.default_rng(0)
    make_index(1).save(tmp_path)
    files = {path: path.read_bytes() for path in tmp_path.iterdir() if path.name != "lock"}
    assert len(files) == 3
    refused = 0
    for round_ in range(300):
        path, content = list(files.items())[round_ % 3]
        changed = bytearray(content)
        kind = generator.integers(3)
        if kind == 0:
            changed[generator.integers(len(changed))] ^= 1 << generator.integers(8)
        elif kind == 1:
            del changed[generator.integers(len(changed)) :]
        else:
            changed[: len(changed) // 2] = generator.bytes(len(changed) // 2)
        path.write_bytes(bytes(changed))
        try:
            assert seed_of(MusicIndex.load(tmp_path)) == 1
        except ViMLError as error:
            refused += len(str(error).splitlines()) == 1
        path.write_bytes(content)
    assert refused > 290


@pytest.mark.parametrize("text", ["[1]", "{}", '{"schema_version": 4}', "[" * 100_000, "null", '"x"', "", "\xff"])
def test_an_index_file_that_is_none_is_refused_and_written_over(tmp_path, text):
    make_index(1).save(tmp_path)
    (tmp_path / INDEX_FILE).write_text(text, encoding="latin-1")
    with pytest.raises(ViMLError, match=r"the index is damaged .*build it again with `viml index`"):
        MusicIndex.load(tmp_path)
    make_index(2).save(tmp_path)
    assert seed_of(MusicIndex.load(tmp_path)) == 2


def test_an_index_of_an_older_schema_is_refused(tmp_path):
    make_index(1).save(tmp_path)
    (tmp_path / INDEX_FILE).write_text(json.dumps({"schema_version": 1}))
    with pytest.raises(ViMLError, match="schema 1, and 4 can be read here; build it again with `viml index`"):
        MusicIndex.load(tmp_path)
    with pytest.raises(ViMLError, match="not an index"):
        MusicIndex.load(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    "change",
    [
        {"blocks": None},
        {"blocks": [1]},
        {"blocks": [{"files": {"embeddings.safetensors": 5}, "deleted": [], "sketch_error": 0.1}]},
        {"blocks": [{"files": {}, "deleted": [], "sketch_error": 0.1}]},
        {"width": "8"},
        {"model": 5},
        {"fingerprint": None},
        {"encoders": [5]},
    ],
)
def test_a_sealed_description_with_a_wrong_value_is_refused(tmp_path, change):
    make_index(1).save(tmp_path)
    description = unsealed((tmp_path / INDEX_FILE).read_bytes())
    (tmp_path / INDEX_FILE).write_text(json.dumps(sealed(description | change)))
    with pytest.raises(ViMLError, match=r"the index is damaged .*build it again with `viml index`"):
        MusicIndex.load(tmp_path)
    (tmp_path / INDEX_FILE).write_text(json.dumps(sealed({k: v for k, v in description.items() if k not in change})))
    with pytest.raises(ViMLError, match=r"the index is damaged .*build it again with `viml index`"):
        MusicIndex.load(tmp_path)


def forge(folder, **changed: torch.Tensor) -> None:
    """Other tensors, with the right checksums."""
    make_index(1).save(folder)
    (path,) = folder.glob("embeddings-*")
    path.write_bytes(save({**load_file(path), **changed}))
    checksum = sha256_of(path)
    path.rename(folder / f"embeddings-{checksum[:16]}.safetensors")
    description = unsealed((folder / INDEX_FILE).read_bytes())
    description["blocks"][0]["files"]["embeddings.safetensors"] = checksum
    (folder / INDEX_FILE).write_text(json.dumps(sealed(description)))


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"embeddings": torch.full((6, DIM), float("nan")).half()}, "not of length 1"),
        ({"embeddings": torch.full((6, DIM), 1191.0).half()}, "not of length 1"),
        ({"embeddings": torch.zeros(6, DIM, dtype=torch.int8)}, "int8"),
        ({"embeddings": torch.zeros(5, DIM).half()}, "for 6 windows"),
        ({"sketch": torch.zeros(6, DIM, dtype=torch.int8)}, "a sketch that is not of the embeddings"),
        ({"scales": torch.full((6,), float("nan")).bfloat16()}, "a sketch that is not of the embeddings"),
        ({"sketch": torch.zeros(5, DIM, dtype=torch.int8)}, "a sketch that is not of the embeddings"),
        ({"corrections": torch.full((6, 2), float("nan"))}, "corrections that are not finite"),
        ({"corrections": torch.zeros(6, 1)}, "corrections that are not two numbers"),
    ],
)
def test_tensors_that_cannot_be_ranked_by_are_refused(tmp_path, changed, reason):
    forge(tmp_path, **changed)
    with pytest.raises(ViMLError, match=reason):
        MusicIndex.load(tmp_path)


@pytest.mark.parametrize("name", ["embeddings", "sketch"])
def test_damaged_rows_that_are_not_read_at_load_are_told_later(tmp_path, monkeypatch, name):
    """Two bytes of a row, or of its sketch."""
    monkeypatch.setattr(index_folder, "VERIFIED_AT_LOAD", 0)
    make_index(1).save(tmp_path)
    query = MusicIndex.load(tmp_path).embeddings[3:4].astype(np.float32)
    (path,) = tmp_path.glob("embeddings-*")
    header = json.loads(path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")])
    place = path.stat().st_size - max(one["data_offsets"][1] for one in header.values())
    entry = header[name]["data_offsets"]
    content = bytearray(path.read_bytes())
    row = place + entry[0] + 3 * (entry[1] - entry[0]) // 6
    content[row + 1] ^= 0x7C
    content[row + 3] ^= 0x7C
    path.write_bytes(content)
    index = MusicIndex.load(tmp_path)
    if name == "embeddings":
        with pytest.raises(ViMLError, match="the index is damaged"):
            index.search(query)
    with pytest.raises(ViMLError, match="another checksum"):
        verify_index(tmp_path)


def with_tracks(index: MusicIndex, *tracks: Track) -> MusicIndex:
    rows = index.embeddings[: sum(len(track.windows) for track in tracks)]
    return MusicIndex(rows, tracks, index.model, index.fingerprint)


def test_two_tracks_of_one_name_stay_two(tmp_path):
    index = make_index(1, 2)
    first, second = index.tracks
    with_tracks(index, first, replace(second, name=first.name, path="/elsewhere")).save(tmp_path)
    assert [track.path for track in MusicIndex.load(tmp_path).tracks] == ["/music/1", "/elsewhere"]


@pytest.mark.parametrize("error", [None, "broken"])
def test_two_tracks_of_one_name_and_path_stay_two(tmp_path, error):
    index = make_index(1, 2)
    windows = () if error else (Window(0, 30),)
    track = replace(index.tracks[0], windows=windows, error=error)
    with_tracks(index, track, track).save(tmp_path)
    assert [vars(one) for one in MusicIndex.load(tmp_path).tracks] == [vars(track)] * 2


def test_files_and_folders_of_others_stay(tmp_path):
    others = [tmp_path / name for name in ("tracks-of-mine.tmp", "index.html.tmp", "embeddings-2.safetensors")]
    for path in others:
        path.touch()
    (tmp_path / "tracks-0123456789abcdef.parquet").mkdir()
    left = [tmp_path / name for name in ("index.json.tmp", "index.json.0123abcd.tmp", "embeddings.safetensors")]
    for path in left:
        path.touch()
    make_index(1).save(tmp_path)
    assert all(path.is_file() for path in others)
    assert not any(path.exists() for path in left)


def test_a_planted_lock_makes_no_file_elsewhere(tmp_path):
    folder = tmp_path / "index"
    folder.mkdir()
    (folder / "lock").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic link"):
        make_index(1).save(folder)
    assert not (tmp_path / "victim").exists()


def test_a_save_that_waits_says_for_whom(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(atomic_files, "PATIENCE", 0.05)
    lock = atomic_files.lock_folder(tmp_path)
    threading.Timer(0.5, atomic_files.unlock_folder, [lock]).start()
    make_index(1).save(tmp_path)
    (said,) = caplog.messages
    assert said.startswith(f"{tmp_path}: another run is writing here: waiting for it")
    assert f"stop it (process {os.getpid()} on " in said
    assert seed_of(MusicIndex.load(tmp_path)) == 1


def test_all_files_have_the_mode_that_others_have(tmp_path):
    make_index(1).save(tmp_path)
    (tmp_path / "other").touch()
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert len(modes) == 1
    (tracks,) = tmp_path.glob("tracks-*.parquet")
    assert len(pq.read_table(tracks)) == 6


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_of_another_user_is_no_damage(tmp_path):
    make_index(1).save(tmp_path)
    (tmp_path / INDEX_FILE).chmod(0)
    with pytest.raises(ViMLError, match="permission denied"):
        MusicIndex.load(tmp_path)


def test_planted_links_are_not_written_through(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    folder = tmp_path / "index"
    folder.mkdir()
    for name in ("index.json.tmp", INDEX_FILE, "embeddings.safetensors.tmp", "tracks.parquet"):
        (folder / name).symlink_to(victim)
    make_index(1).save(folder)
    assert victim.read_text() == "mine"
    assert seed_of(MusicIndex.load(folder)) == 1
