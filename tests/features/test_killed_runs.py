"""Extraction runs that are killed again and again, and stores with a flipped byte."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from tests.features.test_workers import ROOT, alive, children, wait_until
from tests.media import numbered_frame, sine, write_audio, write_video
from viml_hf import MediaItem, Store, StoreSpec, StoreWriter, ViMLError
from viml_hf.encoders.encoder_settings import EncoderSettings
from viml_hf.features.atomic_files import lock_folder, unlock_folder
from viml_hf.features.checksums import damaged_file
from viml_hf.features.extraction import Run, run_extraction, store_spec
from viml_hf.features.store_format import JOURNAL_FILE, MODALITIES, RowRange, read_journal
from viml_hf.features.store_writer import OWN_FILE

FILES, SEED = 200, 0
MOMENTS = ("reading", "starting", "reading", "committing") * 5

DRIVER = "import sys; from tests.features.test_killed_runs import run_slowly; run_slowly(*sys.argv[1:])"


@dataclass
class SlowEncoders:
    """Encoders that take their time over each file, and note when they read it."""

    log: str
    seconds: float

    def load(self, *, threads=None, device="cpu"):
        encoder = EncoderSettings().load(threads=threads, device=device)
        encode_audio = encoder.encode_audio

        def slowly(path, **excerpt):
            with open(self.log, "a") as file:
                file.write(os.path.basename(path) + "\n")
            time.sleep(self.seconds)
            return encode_audio(path, **excerpt)

        encoder.encode_audio = slowly
        return encoder


def run_slowly(items, folder, log, seconds):
    encoder = EncoderSettings().load()
    spec = store_spec(EncoderSettings().names, encoder)
    media = [MediaItem(**record) for record in json.loads(Path(items).read_text())]
    run = Run(workers=2, shard_items=8, progress=False)
    run_extraction(media, folder, encoder, spec, SlowEncoders(log, float(seconds)), run)


def write_library(folder):
    """Media of a second or so, each with its own picture and pitch, and five broken files among them."""
    items = []
    for index in range(FILES):
        sound = sine(200 + 5 * index, 0.5 + index % 4 / 4, 22050)
        path = folder / f"{index:03d}.{'wav' if index % 3 else 'mp4'}"
        if index % 40 == 20:
            path.write_bytes(b"nothing to see" * (index + 1))
        elif path.suffix == ".wav":
            write_audio(path, sound, 22050)
        else:
            pictures = (np.roll(numbered_frame(index), shift, axis=1) for shift in range(12))
            write_video(path, pictures, 12, audio=sound, sampling_rate=22050)
        video = str(path) if path.suffix == ".mp4" else None
        items.append(MediaItem(path.name, video, str(path), (f"text {index}",), {"number": index}))
    return items


class Driver:
    """A run in a process of its own."""

    def __init__(self, script, items, folder, log, seconds):
        self.log, self.read_before = log, len(log.read_text().split())
        words = [sys.executable, script, items, folder, log, str(seconds)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(words, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)

    def workers(self):
        found = []
        for pid in children(self.process.pid):
            with suppress(OSError):
                if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.append(pid)
        return found

    def reads(self):
        return self.log.read_text().split()[self.read_before :]

    def until(self, condition):
        """Wait for something while the run goes on; a run that ends before is of no use here."""
        deadline = time.monotonic() + 60
        while not condition():
            assert self.process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.001)

    def kill(self):
        """Kill it; the workers that it had. Stopped before, it starts no more of them."""
        assert self.process.poll() is None
        self.process.send_signal(signal.SIGSTOP)
        workers = self.workers()
        self.process.kill()
        self.process.wait()
        return workers


def kill_at(moment, driver, folder, chance):
    """Kill a worker and a little later the driver, and wait for the workers' end."""
    driver.until(lambda: len(driver.workers()) == 2)
    if moment != "starting":
        driver.until(driver.reads)
    time.sleep(chance.uniform(0, 2))
    os.kill(chance.choice(driver.workers()), signal.SIGKILL)
    if moment == "committing":
        before = temporaries(folder)
        driver.until(lambda: temporaries(folder) - before)
    time.sleep(chance.uniform(0, 0.01 if moment == "committing" else 1))
    workers = driver.kill()
    wait_until(lambda: not any(map(alive, workers)))
    assert workers


def temporaries(folder):
    """Files that are being written, by name and time."""
    found = set()
    for path in folder.glob("*.tmp"):
        with suppress(OSError):
            found.add((path.name, path.stat().st_mtime_ns))
    return found


def uncommitted(folder):
    """Files of shards that the journal does not name, by name and time."""
    named = {name for entry in read_journal(folder) if entry is not None for name in entry["files"]}
    own = [path for path in folder.iterdir() if OWN_FILE.fullmatch(path.name) and path.name not in named]
    return {(path.name, path.stat().st_mtime_ns) for path in own}


def committed(folder):
    """How often each item that could be read is in the journal; the shards that it names are whole."""
    entries = list(read_journal(folder))
    assert None not in entries
    assert all(damaged_file(folder, entry["files"]) is None for entry in entries)
    return Counter(record["id"] for entry in entries for record in entry["items"] if record["error"] is None)


def content(store):
    """Everything a store holds but the places of its rows."""
    nowhere = dict.fromkeys(MODALITIES, RowRange())
    rows = [store.rows(name, getattr(item, name)).numpy().tobytes() for item in store.items for name in MODALITIES]
    return store.spec, store.null_text.tolist(), [replace(item, **nowhere) for item in store.items], rows


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads /proc")
def test_after_twenty_kills_every_good_file_is_there_once_and_no_bit_is_another(tmp_path):
    (tmp_path / "media").mkdir()
    items = write_library(tmp_path / "media")
    good = {item.id for item in items if int(item.id[:3]) % 40 != 20}
    script, records, log, folder = (tmp_path / name for name in ("driver.py", "items.json", "log", "store"))
    script.write_text(DRIVER)
    records.write_text(json.dumps([asdict(item) for item in items]))
    log.touch()
    assert Driver(script, records, tmp_path / "undisturbed", log, 0).process.wait() == 0
    chance, hits, kept = random.Random(SEED), Counter(), []
    for moment in MOMENTS:
        left, there = uncommitted(folder) if folder.exists() else set(), set(kept[-1]) if kept else set()
        # So slow that on any machine twenty rounds do not reach the end.
        driver = Driver(script, records, folder, log, 0.4)
        kill_at(moment, driver, folder, chance)
        reads = driver.reads()
        hits["committing" if uncommitted(folder) - left else "reading" if reads else "starting"] += 1
        kept.append(committed(folder))
        assert there <= set(kept[-1]) <= good
        assert set(kept[-1].values()) <= {1}
        assert not there & set(reads)
    before_last = len(log.read_text().split())
    assert Driver(script, records, folder, log, 0).process.wait() == 0
    last = log.read_text().split()[before_last:]
    print(f"kills {dict(hits)}; files committed after each {[len(ids) for ids in kept]}; read last {len(last)}")

    store = Store(folder)
    store.verify()
    assert content(store) == content(Store(tmp_path / "undisturbed"))
    assert [item.id for item in store.items] == sorted(item.id for item in items)
    assert {item.id for item in store.items if item.error is None} == good
    assert committed(folder) == dict.fromkeys(good, 1)
    assert sorted(last) == sorted({item.id for item in items} - set(kept[-1]))
    assert hits.keys() == set(MOMENTS)
    whole = {"store.json", "spec.json", "items.parquet", JOURNAL_FILE, "lock", "verified.json", "text-null.safetensors"}
    assert {path.name for path in folder.iterdir()} == whole | store.checksums.keys()
    unlock_folder(lock_folder(folder))


# A flipped byte


WIDTHS = {"video": 4, "audio": 3, "text": 2}


@pytest.fixture(scope="module")
def small_store(tmp_path_factory):
    folder, random_rows = tmp_path_factory.mktemp("small"), np.random.default_rng(0)
    with StoreWriter(folder, StoreSpec(dict.fromkeys(WIDTHS, "x"), WIDTHS), np.ones(2), shard_items=2) as writer:
        for name in "abc":
            features = {modality: random_rows.normal(size=(2, width)) for modality, width in WIDTHS.items()}
            writer.add(name, **features, texts=["pop", "rock"], split="train")
    return folder


def flips(path, step):
    """The content of a file with one byte flipped, for every so many bytes."""
    content = path.read_bytes()
    for index in range(0, len(content), step):
        yield content[:index] + bytes([content[index] ^ 1 << index % 8]) + content[index + 1 :]


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("video-00000.safetensors", 1),
        ("audio-00001.safetensors", 1),
        ("text-00000.safetensors", 1),
        ("text-null.safetensors", 1),
        ("journal.jsonl", 5),
        ("store.json", 3),
        ("items.parquet", 11),
    ],
)
def test_a_store_with_a_flipped_byte_is_refused_by_the_name_of_the_file(small_store, tmp_path, name, step):
    folder = shutil.copytree(small_store, tmp_path / "store")
    whole, refusals = content(Store(folder)), []
    for damaged in flips(folder / name, step):
        (folder / name).write_bytes(damaged)
        try:
            store = Store(folder)
        except ViMLError as error:
            refusals.append(str(error))
        else:  # in Parquet there are bytes that nobody reads
            assert name == "items.parquet"
            assert content(store) == whole
    assert refusals
    assert all(str(folder / name) in refusal and "\n" not in refusal for refusal in refusals)


def test_a_flipped_byte_of_what_a_reader_does_not_need_changes_nothing(small_store, tmp_path):
    folder = shutil.copytree(small_store, tmp_path / "store")
    whole = content(Store(folder))
    for damaged in flips(folder / "spec.json", 10):
        (folder / "spec.json").write_bytes(damaged)
        assert content(Store(folder)) == whole


def test_a_flip_that_keeps_size_and_time_is_found_by_verify(small_store, tmp_path):
    folder = shutil.copytree(small_store, tmp_path / "store")
    Store(folder)
    shard = folder / "audio-00000.safetensors"
    time_before = shard.stat().st_mtime_ns
    shard.write_bytes(list(flips(shard, 1))[-1])
    os.utime(shard, ns=(time_before, time_before))
    store = Store(folder)
    with pytest.raises(ViMLError, match=r"audio-00000\.safetensors: the file is damaged"):
        store.verify()
