"""CPU time of decoding, sampling at 6 frames per second and scaling to a short side of 224, against decoding alone.

    python benchmarks/decoding.py [--folder FOLDER] [--repeats 3]

Decoding threads are FFmpeg's choice on both sides; runs alternate, medians are printed.
"""

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import av
from clips import CODECS, SIZES, make_clip

from viml_hf.processing.video_decoding import iter_frames


def decode_only(path: Path) -> int:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        return sum(1 for _ in container.decode(stream))


def sample(path: Path, fast: bool = False) -> int:
    return sum(1 for _ in iter_frames(path, fast=fast))


def cpu_seconds(run: Callable[[Path], int], path: Path) -> float:
    before = os.times()
    run(path)
    after = os.times()
    return after.user + after.system - before.user - before.system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "viml-bench")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    runs: dict[str, Callable[[Path], int]] = {
        "decode": decode_only,
        "sample": sample,
        "fast": lambda path: sample(path, fast=True),
    }
    print("clip          decode only   sampled   sampled, fast")
    for codec in CODECS:
        for size in SIZES:
            path = make_clip(options.folder, codec, size)
            seconds: dict[str, list[float]] = {name: [] for name in runs}
            for _ in range(options.repeats):
                for name, run in runs.items():
                    seconds[name].append(cpu_seconds(run, path))
            median = {name: statistics.median(values) for name, values in seconds.items()}
            ratios = [median[name] / median["decode"] for name in ("sample", "fast")]
            print(f"{codec:5s} {size:6s} {median['decode']:9.2f} s {ratios[0]:8.2f} × {ratios[1]:11.2f} ×", flush=True)


if __name__ == "__main__":
    main()
