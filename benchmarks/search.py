"""Searching a large index: against faiss, against reading the rows once, and what loading, filters and growth cost.

Random rows of 512 numbers, 18 windows a track, one thread; the two sides of each ratio run in turn, and medians are
printed. Numbers in brackets are limits.

    python benchmarks/search.py [--windows 1000000] [--tracks 100000] [--rounds 9]

It needs the package `faiss-cpu`, and 5 GB of memory.
"""

import argparse
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


def make_index(tracks: int, seed: int = 0) -> MusicIndex:
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
    block = make_block(unit_rows(WINDOWS * tracks, seed), StoredTracks(pa.table(columns)))
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


LOADING = """
import json, resource, sys, time
import numpy as np
from viml_hf import MusicIndex
import viml_hf.retrieval.where
before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
index = MusicIndex.load(sys.argv[1])
print(json.dumps([time.perf_counter() - start, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024]))
"""


def growing(tracks: int, rounds: int, queries: np.ndarray, folder: Path) -> None:
    make_index(tracks).save(folder / "large")
    loaded = [subprocess.run([sys.executable, "-c", LOADING, folder / "large"], capture_output=True) for _ in range(3)]
    seconds, megabytes = zip(*(json.loads(done.stdout) for done in loaded), strict=True)
    print(f"{tracks} tracks, load: {statistics.median(seconds):.2f} s [1], {statistics.median(megabytes):.0f} MB [200]")
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
    with tempfile.TemporaryDirectory() as folder:
        growing(options.tracks, options.rounds, queries, Path(folder))
    print(f"largest memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GB")


if __name__ == "__main__":
    main()
