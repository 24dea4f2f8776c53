"""Wall time of extracting many videos by a pool of workers, against one file at a time.

    python benchmarks/bulk_extraction.py [--folder FOLDER] [--files 8] [--repeats 3]

One file at a time: decoding on as many threads as FFmpeg chooses, features of each segment as it comes, torch on all
cores. The pool: one worker per core, as `viml extract` runs them. The encoders are the descriptors, so that decoding is
what counts; with a large image encoder on a CPU both are bound by it. The workers' start, some seconds once per run, is
printed apart: it does not grow with the number of files.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from clips import make_clip

from viml_hf import MediaEncoder, MediaItem
from viml_hf.encoders.encoder_settings import EncoderSettings
from viml_hf.features.extraction import default_workers
from viml_hf.features.workers import extract_in_processes
from viml_hf.processing.video_decoding import iter_video_segments


@torch.inference_mode()
def one_at_a_time(paths: Sequence[Path], encoder: MediaEncoder) -> None:
    for path in paths:
        for segment in iter_video_segments(path, short_side=64, threads=0):
            pixel_values = encoder.processor.prepare_frames(segment.data)[None, None]
            encoder.model.get_video_base_features(pixel_values)


def pool_seconds(paths: Sequence[Path], fast: bool) -> tuple[float, float]:
    """Seconds for the files, and for the workers' start: the time to the first result of a tiny one."""
    workers = default_workers(gpus=0)
    warm = [MediaItem(f"warm {index}", texts=("warm",)) for index in range(workers)]
    items = [*warm, *(MediaItem(f"{index}", video=str(path)) for index, path in enumerate(paths))]
    begin = time.perf_counter()
    results = extract_in_processes(items, EncoderSettings(fast=fast), workers)
    next(results)  # the first worker is ready: what the others take longer counts
    started = time.perf_counter()
    for extracted in results:
        assert extracted.error is None, extracted.error
        end = time.perf_counter()
    return end - started, started - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "viml-bench")
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    sizes = ("720p", "1080p")
    paths = [make_clip(options.folder, "h264", sizes[index % 2], seed=index // 2) for index in range(options.files)]
    encoder = EncoderSettings().load()
    seconds: dict[str, list[float]] = {"one at a time": [], "pool": [], "pool, fast": []}
    starts = []
    for _ in range(options.repeats):
        begin = time.perf_counter()
        one_at_a_time(paths, encoder)
        seconds["one at a time"].append(time.perf_counter() - begin)
        for name, fast in (("pool", False), ("pool, fast", True)):
            spent, start = pool_seconds(paths, fast)
            seconds[name].append(spent)
            starts.append(start)
    print(f"{len(paths)} clips of 20 s, H.264, {' and '.join(sizes)}")
    print(f"{default_workers(0)} workers with 1 thread of torch each; one at a time: {torch.get_num_threads()} threads")
    base = statistics.median(seconds["one at a time"])
    for name, values in seconds.items():
        print(f"{name:14s} {statistics.median(values):6.2f} s   {statistics.median(values) / base:.2f}")
    print(f"start of the workers: {statistics.median(starts):.1f} s")


if __name__ == "__main__":
    main()
