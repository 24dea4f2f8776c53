"""Adding, replacing, removing and moving tracks of a saved index: what it costs, and that nothing is lost."""

import itertools
import json
import multiprocessing
import os
import signal
import time
import zlib

import numpy as np
import pyarrow.parquet as pq
import pytest

from viml_hf import MusicIndex, ViMLError
from viml_hf.features.checksums import sealed, sha256_of
from viml_hf.retrieval.index import INDEX_FILE, MOST_BLOCKS, Track, Window
from viml_hf.retrieval.index_changes import added_to, change_index, convert_index, moved_to, without_tracks

DIM = 64


def make_index(names, windows: int = 2, fingerprint: str = "f") -> MusicIndex:
    """Tracks whose rows follow from their names."""
    names = list(names)
    rows = [rows_of(name, windows) for name in names]
    spans = tuple(Window(10.0 * at, 10.0 * at + 30) for at in range(windows))
    tracks = [Track(name, f"/music/{name}", f"sha of {name}", spans[-1].end, spans) for name in names]
    return MusicIndex(np.concatenate(rows), tracks, "model", fingerprint)


def rows_of(name: str, windows: int = 2) -> np.ndarray:
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    rows = generator.standard_normal((windows, DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def check(index: MusicIndex) -> list[str]:
    """The names of the tracks, each of which is there once, with its own rows, and is found by them."""
    names = index.names
    assert len(set(names)) == len(names)
    assert [track.name for track in index.tracks] == names
    asked = names[:: 1 + len(names) // 40]
    found = index.search(np.stack([rows_of(name)[1] for name in asked]), 1)
    assert [(names[hit.track], hit.window) for (hit,) in found] == [(name, 1) for name in asked]
    assert index.windows == len(index.embeddings) == 2 * len(names)
    return names


def sizes(folder) -> dict[str, int]:
    return {path.name: path.stat().st_size for path in folder.iterdir()}


def test_adding_and_removing_write_what_changed(tmp_path):
    make_index(f"a{n}" for n in range(2000)).save(tmp_path)
    before = sizes(tmp_path)
    added = make_index(f"b{n}" for n in range(50))
    index = change_index(tmp_path, lambda index: added_to(index, added))
    after = sizes(tmp_path)
    assert before.items() - after.items() == {(INDEX_FILE, before[INDEX_FILE])}
    added.save(tmp_path / "alone")
    written = sum(after.values()) - sum(before.values()) + before[INDEX_FILE]
    assert written <= 1.2 * sum(sizes(tmp_path / "alone").values())
    expected = [f"a{n}" for n in range(2000)] + [f"b{n}" for n in range(50)]
    assert check(index) == check(MusicIndex.load(tmp_path)) == expected
    change_index(tmp_path, lambda index: without_tracks(index, ["a7", "b3"]))
    assert sizes(tmp_path).keys() - {"alone"} == after.keys()
    names = check(MusicIndex.load(tmp_path))
    assert len(names) == 2048
    assert not {"a7", "b3"} & set(names)


def test_a_track_of_the_same_name_is_replaced(tmp_path):
    make_index("abc").save(tmp_path)
    change_index(tmp_path, lambda index: added_to(index, make_index("bd")))
    assert check(MusicIndex.load(tmp_path)) == ["a", "c", "b", "d"]
    with pytest.raises(ViMLError, match="another model"):
        change_index(tmp_path, lambda index: added_to(index, make_index("e", fingerprint="g")))
    assert check(MusicIndex.load(tmp_path)) == ["a", "c", "b", "d"]


def test_much_that_is_deleted_goes_and_blocks_stay_few(tmp_path):
    make_index(f"a{n}" for n in range(100)).save(tmp_path)
    size = sum(sizes(tmp_path).values())
    change_index(tmp_path, lambda index: without_tracks(index, [f"a{n}" for n in range(40)]))
    assert sum(sizes(tmp_path).values()) < 0.8 * size
    for number in range(3 * MOST_BLOCKS):
        change_index(tmp_path, lambda index, number=number: added_to(index, make_index([f"b{number}"])))
    index = MusicIndex.load(tmp_path)
    assert len(index.blocks) <= MOST_BLOCKS
    expected = [f"a{n}" for n in range(40, 100)] + [f"b{n}" for n in range(3 * MOST_BLOCKS)]
    assert check(index) == expected
    change_index(tmp_path, MusicIndex.compacted)
    assert len(list(tmp_path.glob("embeddings-*"))) == 1
    assert check(MusicIndex.load(tmp_path)) == expected


def test_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(ViMLError, match="not an index"):
        change_index(tmp_path / "none", MusicIndex.compacted)
    assert not (tmp_path / "none").exists()
    make_index("ab").save(tmp_path)
    for names, message in ((["a", "x"], "x: no such track in the index"), (["a", "b"], "delete its folder")):
        with pytest.raises(ViMLError, match=message):
            change_index(tmp_path, lambda index, names=names: without_tracks(index, names))
    assert check(MusicIndex.load(tmp_path)) == ["a", "b"]


def test_a_library_that_was_moved(tmp_path):
    make_index(["one/a.wav", "b.wav"]).save(tmp_path / "index")
    before = sizes(tmp_path / "index")
    with pytest.raises(ViMLError, match=r"none of the 2 tracks is there; give the folder that holds one/a\.wav"):
        change_index(tmp_path / "index", lambda index: moved_to(index, tmp_path / "new"))
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "b.wav").touch()
    change_index(tmp_path / "index", lambda index: moved_to(index, tmp_path / "new"))
    assert sizes(tmp_path / "index").items() - before.items() == {(INDEX_FILE, sizes(tmp_path / "index")[INDEX_FILE])}
    index = MusicIndex.load(tmp_path / "index").compacted()
    assert [track.path for track in index.tracks] == [f"{tmp_path}/new/one/a.wav", f"{tmp_path}/new/b.wav"]


def save_as_old(index: MusicIndex, folder, schema) -> None:
    """As earlier versions wrote it."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    save_file({"embeddings": torch.from_numpy(index.embeddings.astype(np.float32))}, folder / "embeddings.safetensors")
    rows = [
        {
            **{"track": track.name, "start": window and window.start, "end": window and window.end},
            **{"path": track.path, "sha256": track.sha256, "duration": track.duration},
            **{"error": track.error, "licence": track.licence},
        }
        for track in index.tracks
        for window in track.windows or (None,)
    ]
    import pyarrow as pa

    pq.write_table(pa.Table.from_pylist(rows), folder / "tracks.parquet")
    facts = {"schema_version": schema, "model": index.model, "fingerprint": index.fingerprint}
    facts["encoders"] = index.encoders
    if schema == 2:
        (folder / INDEX_FILE).write_text(json.dumps(facts | {"width": index.width, "dtype": "float32"}, indent=1))
        return
    files = {}
    for name in ("embeddings.safetensors", "tracks.parquet"):
        files[name] = sha256_of(folder / name)
        stem, _, suffix = name.rpartition(".")
        (folder / name).rename(folder / f"{stem}-{files[name][:16]}.{suffix}")
    (folder / INDEX_FILE).write_text(json.dumps(sealed(facts | {"files": files})))


@pytest.mark.parametrize("schema", [2, 3])
def test_an_old_schema_is_converted_when_asked_for(tmp_path, schema):
    index = make_index(["one/a.wav", "b.wav"])
    broken = Track("c", "/music/c", "", 0.0, (), "c: broken", "CC0")
    index = MusicIndex(index.embeddings, [*index.tracks, broken], "model", "f")
    save_as_old(index, tmp_path / "old", schema)
    before = sizes(tmp_path / "old")
    with pytest.raises(ViMLError, match="convert it with `viml index --convert -o "):
        MusicIndex.load(tmp_path / "old")
    assert sizes(tmp_path / "old") == before
    convert_index(tmp_path / "old")
    assert not before.keys() & sizes(tmp_path / "old").keys() - {INDEX_FILE}
    loaded = MusicIndex.load(tmp_path / "old")
    assert [vars(track) for track in loaded.tracks] == [vars(track) for track in index.tracks]
    assert np.array_equal(loaded.embeddings, index.embeddings)
    with pytest.raises(ViMLError, match="an index of schema 4, and 2 and 3 can be read here"):
        convert_index(tmp_path / "old")


def write(folder, seed: int) -> None:
    """Add, remove and compact without end; each track's number says which change it came with."""
    generator = np.random.default_rng(seed)
    for number in itertools.count():
        kind = generator.integers(4)

        def change(index: MusicIndex, kind=kind, number=number) -> MusicIndex:
            names = index.names
            if kind < 2 or len(names) < 20:
                return added_to(index, make_index([f"{seed}-{number}-{n}" for n in range(5)]))
            if kind == 2:
                return without_tracks(index, list(generator.choice(names[2:], 5, replace=False)))
            return index.compacted()

        change_index(folder, change)


def read(folder, stop, failures) -> None:
    """Ask all the time."""
    while not stop.is_set():
        try:
            assert {"first", "second"} <= set(check(MusicIndex.load(folder)))
        except BaseException as error:
            failures.put(repr(error))
            return


@pytest.mark.parametrize("kills", [8, pytest.param(200, marks=pytest.mark.slow)])
def test_writers_that_are_killed_leave_the_older_state_or_the_newer(tmp_path, kills):
    context = multiprocessing.get_context("fork")
    make_index(["first", "second"]).save(tmp_path)
    stop, failures = context.Event(), context.Queue()
    reader = context.Process(target=read, args=(tmp_path, stop, failures))
    reader.start()
    generator = np.random.default_rng(0)
    for seed in range(kills):
        writer = context.Process(target=write, args=(tmp_path, seed))
        writer.start()
        time.sleep(generator.uniform(0.05, 0.3))
        os.kill(writer.pid, signal.SIGKILL)
        writer.join()
        names = check(MusicIndex.load(tmp_path))
        changes = [name.rpartition("-")[0] for name in names[2:]]
        assert all(len(list(group)) <= 5 for _, group in itertools.groupby(changes))
    stop.set()
    reader.join()
    assert failures.empty(), failures.get()
    assert len(names) > 2
    # What killed writers left is removed by the next one.
    index = change_index(tmp_path, MusicIndex.compacted)
    assert check(index) == names
    assert len(list(tmp_path.iterdir())) == 4


def test_two_writers_lose_nothing(tmp_path):
    context = multiprocessing.get_context("fork")
    make_index(["first", "second"]).save(tmp_path)

    def add(seed: int) -> None:
        for number in range(15):
            added = make_index([f"{seed}-{number}"])
            change_index(tmp_path, lambda index, added=added: added_to(index, added))

    writers = [context.Process(target=add, args=(seed,)) for seed in range(2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    expected = {"first", "second"} | {f"{seed}-{number}" for seed in range(2) for number in range(15)}
    assert set(check(MusicIndex.load(tmp_path))) == expected
