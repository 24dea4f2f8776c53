"""One table of all benchmarks that can run on this machine: name, what is measured, figure, limit.

    python benchmarks/run_all.py [--quick] [--only NAME ...] [--musiccaps CSV] [--youtube8m STORE]

Each script runs in a process of its own, one after the other. One whose package or data is absent is skipped, with the
reason. `--quick` takes the fewest repeats: the figures then show that the scripts run, not how fast they are.
Limits are those that the scripts state; only shared_prefix checks its own. The exit status is 1 if a script failed.
"""

import argparse
import importlib.util
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Benchmark:
    """A script, what its figure means, and the line of its output that holds the figure."""

    measures: str
    figure: str  # the last line that contains this
    limit: str = "none set"
    quick: tuple[str, ...] = ()
    package: str | None = None  # needed beyond the package's own requirements
    data: str | None = None  # option of this script that names the data


BENCHMARKS = {
    "training_step": Benchmark("Trainer over a loop", "median ratio", quick=("--rounds=1", "--steps=1")),
    "reading_a_store": Benchmark(
        "store against Arrow", "medians:", quick=("--rounds=1", "--batches=1"), package="datasets"
    ),
    "decoding": Benchmark("CPU time over decoding alone, last clip", "×", quick=("--repeats=1",)),
    "bulk_extraction": Benchmark("pool over one file at a time", "pool, fast", quick=("--files=2", "--repeats=1")),
    "joint_models": Benchmark("joint model over transformers", "music:", limit="0.6", quick=("--repeats=1",)),
    "clip_path": Benchmark("video to CLIP over transformers", "bfloat16  ", quick=("--repeats=1",)),
    "long_files": Benchmark("memory of long files", "real time", "no growth", quick=("--hours=0.2",)),
    "search": Benchmark(
        "searching a large index",
        "over faiss",
        "1.1 × reading it once",
        quick=("--windows=50000", "--tracks=5000", "--rounds=1"),
        package="faiss",
    ),
    "serving": Benchmark("p95 of 32 clients", "p95", "4 × single", quick=("--seconds=3",), package="fastapi"),
    "shared_prefix": Benchmark(
        "plain time over shared prefix", "end to end", "same text", quick=("--batches=1", "--repeats=1")
    ),
    "describing_musiccaps": Benchmark("quality of descriptions", "|", quick=("--tracks=20",), data="musiccaps"),
    "analysis": Benchmark("tempo and key of generated tracks", "generated:", quick=("--tracks=5",)),
    "youtube8m_results": Benchmark("R@10 on YouTube-8M music", "R@10", quick=("--seeds=1",), data="youtube8m"),
}


def run_benchmark(name: str, options: argparse.Namespace) -> tuple[str, bool]:
    """The figure of one benchmark, or why there is none, and whether it failed."""
    benchmark = BENCHMARKS[name]
    if benchmark.package and importlib.util.find_spec(benchmark.package) is None:
        return f"skipped: the package {benchmark.package} is not installed", False
    words = list(benchmark.quick) if options.quick else []
    if benchmark.data:
        path = getattr(options, benchmark.data)
        if path is None:
            return f"skipped: no data, give --{benchmark.data}", False
        words.insert(0, path)
    with tempfile.TemporaryDirectory() as output:
        if name == "youtube8m_results":
            words += ["-o", output]
        command = [sys.executable, str(FOLDER / f"{name}.py"), *words]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        return f"failed: {(done.stderr.strip().splitlines() or ['no message'])[-1]}", True
    lines = [line for line in done.stdout.splitlines() if benchmark.figure in line]
    return (" ".join(lines[-1].split()), False) if lines else (f"failed: no line with {benchmark.figure!r}", True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the fewest repeats")
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS), metavar="NAME")
    parser.add_argument("--musiccaps", help="musiccaps-public.csv")
    parser.add_argument("--youtube8m", help="store made by viml import-yt8m")
    options = parser.parse_args()
    print("| benchmark | measures | figure | limit |\n|---|---|---|---|")
    failures = 0
    for name in options.only:
        figure, failed = run_benchmark(name, options)
        failures += failed
        figure = figure.replace("|", "/")  # would end the cell
        print(f"| {name} | {BENCHMARKS[name].measures} | {figure} | {BENCHMARKS[name].limit} |", flush=True)
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
