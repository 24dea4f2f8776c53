"""Searching a large index: against faiss, against reading the rows once, and what loading, filters and growth cost.

Random rows of 512 numbers, 18 windows a track, one thread; the two sides of each ratio run in turn, and medians are
printed. Numbers in brackets are limits.

    python benchmarks/search.py [--windows 1000000] [--tracks 100000] [--rounds 9]

It needs the package `faiss-cpu`, and 5 GB of memory.
"""

import argparse
import itertools
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import torch

from viml_hf import MusicIndex
from viml_hf.retrieval.index_blocks import Block, make_block
from viml_hf.retrieval.index_changes import added_to, change_index
from viml_hf.retrieval.index_tracks import StoredTracks

DIM, WINDOWS, K, BATCH = 512, 18, 10, 64


def unit_rows(count: int, seed: int) -> np.ndarray:
    generator, rows = torch.Generator().manual_seed(seed), torch.empty(count, DIM, dtype=torch.float16)
    for part in rows.split(50_000):
        part.copy_(torch.nn.functional.normalize(torch.randn(part.shape, generator=generator), dim=1))
    return rows.numpy()


def make_index(tracks: int, seed: int = 0, rows: np.ndarray | None = None) -> MusicIndex:
    """Every hundredth track is CC0."""
    numbers = range(tracks)
    columns = {
        "track": [f"{seed}/{number}.mp3" for number in numbers],
        "path": [f"/music/{seed}/{number}.mp3" for number in numbers],
        "sha256": [np.random.default_rng(number).bytes(32).hex() for number in numbers],
        "duration": pa.array([203.0] * tracks),
        "error": pa.nulls(tracks, pa.string()),
        "licence": ["CC0" if number % 100 == 0 else "CC-BY-4.0" for number in numbers],
        "start": pa.array([0.0] * tracks),
        "hop": pa.array([10.0] * tracks),
        "windows": pa.array([WINDOWS] * tracks, pa.int32()),
    }
    block = make_block(unit_rows(WINDOWS * tracks, seed) if rows is None else rows, StoredTracks(pa.table(columns)))
    return MusicIndex.of_blocks((block,), "model", "fingerprint", {}, DIM)


def in_turn(rounds: int, *calls: Callable[[], object]) -> list[float]:
    """Median seconds of calls that run in turn; a first round does not count."""
    times: list[list[float]] = [[] for _ in calls]
    for turn in range(rounds + 1):
        for call, found in zip(calls, times, strict=True):
            before = time.perf_counter()
            call()
            if turn:
                found.append(time.perf_counter() - before)
    return [statistics.median(found) for found in times]


def faiss_index(rows: np.ndarray) -> faiss.Index:
    index = faiss.IndexScalarQuantizer(DIM, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    index.train(np.zeros((1, DIM), np.float32))
    for first in range(0, len(rows), 100_000):
        index.add(rows[first : first + 100_000].astype(np.float32))
    return index


def exact_tracks(block: Block, queries: np.ndarray) -> list[list[int]]:
    """The best tracks in float64, by brute force."""
    best = np.empty((len(queries), len(block.tracks)))
    for first in range(0, len(block.tracks), 5000):
        rows = block.embeddings[first * WINDOWS : (first + 5000) * WINDOWS].astype(np.float64)
        scores = queries.astype(np.float64) @ rows.T
        best[:, first : first + 5000] = scores.reshape(len(queries), -1, WINDOWS).max(2)
    return np.argsort(-best, axis=1, kind="stable")[:, :K].tolist()


def searching(windows: int, rounds: int, queries: np.ndarray) -> None:
    index = make_index(windows // WINDOWS)
    (block,) = index.blocks
    other = faiss_index(block.embeddings)
    one, eight_bytes = queries[:1], block.embeddings.view(np.int64)
    ours, theirs, reading = in_turn(
        rounds, lambda: index.search(one, K), lambda: other.search(one, K), lambda: eight_bytes.sum()
    )
    few = queries[:16]
    batch, single = in_turn(3, lambda: index.search(queries, K), lambda: [index.search(one[None], K) for one in few])
    found = [[hit.track for hit in hits] for hits in index.search(queries, K)]
    alone = [[hit.track for hit in index.search(query[None], K)[0]] for query in queries[:16]]
    wanted = exact_tracks(block, queries)
    recall = np.mean([len(set(a) & set(b)) / K for a, b in zip(found + alone, wanted + wanted[:16], strict=True)])
    print(f"{len(block.embeddings)} windows, one thread, one query: {1e3 * ours:.0f} ms")
    print(f"  over faiss fp16: {ours / theirs:.2f} [.8], over reading the fp16 rows once: {ours / reading:.2f} [1.1]")
    print(f"  {BATCH} queries at a time over one by one: {batch / (single * BATCH / 16):.2f} [.5]")
    print(f"  recall@{K} against float64: {recall:.3f} [1.000]")


def clustered_index(tracks: int, seed: int) -> tuple[MusicIndex, np.ndarray]:
    """Tracks of 300 styles, whose windows are near each other (cosine .8 in a track, .5 in a style), and queries.

    Rows without any structure cannot be searched by their neighbourhood: every row is as far away as every other.
    """
    generator = np.random.default_rng(seed)
    styles, rows = unit_rows(300, seed).astype(np.float32), unit_rows(WINDOWS * tracks, seed + 1)
    near = styles[generator.integers(300, size=tracks)] + unit_rows(tracks, seed + 2) * np.float32(0.77)
    for first in range(0, tracks, 5000):
        part = slice(first * WINDOWS, (first + 5000) * WINDOWS)
        found = np.repeat(near[first : first + 5000], WINDOWS, 0) + np.float32(0.63) * rows[part]
        rows[part] = found / np.linalg.norm(found, axis=1, keepdims=True)
    index = make_index(tracks, rows=rows)
    # As near to the music as a video is: cosine .6 to its track.
    queries = rows[generator.integers(len(rows), size=BATCH)] + 1.2 * unit_rows(BATCH, seed + 3).astype(np.float32)
    return index, queries / np.linalg.norm(queries, axis=1, keepdims=True)


def approximating(windows: int, rounds: int) -> None:
    index, queries = clustered_index(windows // WINDOWS, 20)
    start = time.perf_counter()
    index = index.approximated()
    built, one = time.perf_counter() - start, iter(itertools.cycle(queries))
    exact, fast = in_turn(
        rounds, lambda: index.search(next(one)[None], K), lambda: index.search(next(one)[None], K, approximate=True)
    )
    wanted = [{hit.track for hit in hits} for hits in index.search(queries, K)]
    found = [{hit.track for hit in hits} for hits in index.search(queries, K, approximate=True)]
    recall = np.mean([len(a & b) / K for a, b in zip(found, wanted, strict=True)])
    print(f"approximately, rows in clusters: built in {built:.0f} s, recall@{K} {recall:.3f} [.95]")
    print(f"  time over exact: {fast / exact:.3f} [.15]")


LOADING = """
import json, sys, time
import numpy as np
from viml_hf import MusicIndex

def own_memory():  # in kB, without mapped files
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon"))

MusicIndex.load(sys.argv[2])  # which imports what is needed
before, start = own_memory(), time.perf_counter()
index = MusicIndex.load(sys.argv[1])
seconds = time.perf_counter() - start
index.search(np.eye(1, index.width), 10)
print(json.dumps([seconds, (own_memory() - before) / 1024]))
"""


def growing(tracks: int, rounds: int, queries: np.ndarray, folder: Path) -> None:
    make_index(tracks).save(folder / "large")
    make_index(10).save(folder / "small")
    command = [sys.executable, "-c", LOADING, folder / "large", folder / "small"]
    loaded = [subprocess.run(command, capture_output=True, check=True) for _ in range(3)]
    seconds, megabytes = zip(*(json.loads(done.stdout) for done in loaded), strict=True)
    figures = statistics.median(seconds), statistics.median(megabytes)
    print("{} tracks, load: {:.2f} s [1], with a search {:.0f} MB [200]".format(tracks, *figures))
    index, one = MusicIndex.load(folder / "large"), queries[:1]
    whole, part = in_turn(rounds, lambda: index.search(one, K), lambda: index.search(one, K, "licence = 'CC0'"))
    print(f"  a filter that keeps 1 % over none: {part / whole:.3f} [.2]")
    before = sum(path.stat().st_size for path in (folder / "large").iterdir())
    added = make_index(100, 1)
    start = time.perf_counter()
    change_index(folder / "large", lambda index: added_to(index, added))
    wall = time.perf_counter() - start
    written = sum(path.stat().st_size for path in (folder / "large").iterdir()) - before
    start = time.perf_counter()
    make_index(100, 2).save(folder / "alone")
    alone = time.perf_counter() - start
    size = sum(path.stat().st_size for path in (folder / "alone").iterdir())
    print(f"  adding 100 tracks writes {written / size:.2f} × what they take alone [3]")
    print(f"  adding 100 tracks takes {wall:.2f} s, without embedding them; saving them alone {alone:.2f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--windows", type=int, default=1_000_000)
    parser.add_argument("--tracks", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    queries = unit_rows(BATCH, 9).astype(np.float32)
    searching(options.windows, options.rounds, queries)
    approximating(options.windows, options.rounds)
    with tempfile.TemporaryDirectory() as folder:
        growing(options.tracks, options.rounds, queries, Path(folder))
    print(f"largest memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GB")


if __name__ == "__main__":
    main()
