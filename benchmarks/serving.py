"""`viml serve` under load: errors, latency and memory with many clients at once.

    python benchmarks/serving.py [--clients 32] [--seconds 60] [--workers 2]

Each client asks again as soon as it is answered, by a video of 10 s and a text, or by a text alone, in turn. The limit
is 4 × the time of a single query × (clients / workers) for the 95th percentile.
"""

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import torch
from clips import make_clip

from viml_hf import MediaEncoder, ViMLForMusicRetrieval, ViMLProcessor, build_index, find_music

SAMPLING_RATE = 22050


def make_library(folder: Path, tracks: int = 40) -> Path:
    """An index of noise by an untrained model."""
    import wave

    (folder / "music").mkdir()
    for number in range(tracks):
        sound = np.random.default_rng(number).normal(0, 3000, SAMPLING_RATE * 40).astype("<i2")
        with wave.open(str(folder / "music" / f"{number}.wav"), "wb") as file:
            file.setparams((1, 2, SAMPLING_RATE, 0, "NONE", ""))
            file.writeframes(sound.tobytes())
    torch.manual_seed(0)
    encoder = MediaEncoder(ViMLForMusicRetrieval.from_encoders(), processor := ViMLProcessor.from_encoders())
    encoder.model.save_pretrained(folder / "model")
    processor.save_pretrained(folder / "model")
    index = build_index(find_music(folder / "music"), encoder, model=str(folder / "model"), progress=False)
    index.save(folder / "index")
    return folder / "index"


def resident_megabytes(process: int) -> float:
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * 4096 / 1e6


def ask(client: httpx.Client, number: int, video: str) -> float:
    """Seconds of one query."""
    form = {"text": f"slow piano {number}"} | ({"path": video} if number % 2 else {})
    began = time.perf_counter()
    client.post("/recommend", data=form).raise_for_status()
    return time.perf_counter() - began


def under_load(
    address: str, video: str, server: int, options: argparse.Namespace
) -> tuple[list[float], list[str], list[float]]:
    """The seconds of all queries, the errors, and the server's memory second by second."""
    times: list[float] = []
    errors: list[str] = []
    memory: list[float] = []
    end = time.monotonic() + options.seconds

    def one_client(first: int) -> None:
        with httpx.Client(base_url=address, timeout=300) as client:
            number = first
            while time.monotonic() < end:
                try:
                    times.append(ask(client, number, video))
                except httpx.HTTPError as error:
                    errors.append(str(error))
                number += 1

    threads = [threading.Thread(target=one_client, args=(first,)) for first in range(options.clients)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        memory.append(resident_megabytes(server))
        time.sleep(1)
    return times, errors, memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        index = make_library(folder)
        video = make_clip(folder, "h264", "720p", seconds=10).name
        command = [sys.executable, "-m", "viml_hf.cli.main", "serve", str(index), "--port", "0", "--root", str(folder)]
        command += ["--workers", str(options.workers), "--waiting", str(options.clients)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
            address = re.search(r"http://\S+:\d+", server.stderr.readline()).group()
            threading.Thread(target=lambda: list(server.stderr), daemon=True).start()
            with httpx.Client(base_url=address, timeout=60) as client:
                single = statistics.fmean(ask(client, number, video) for number in range(12))
            times, errors, memory = under_load(address, video, server.pid, options)
            server.terminate()
    p95 = float(np.percentile(times, 95))
    limit = 4 * single * options.clients / options.workers
    print(
        f"{options.clients} clients, {options.workers} workers: {len(times)} answers, {len(errors)} errors {errors[:1]}"
    )
    print(f"single query {single:.3f} s, median {statistics.median(times):.3f} s")
    thirds = [max(part) for part in np.array_split(memory, 3)]
    print("memory in MB, most in each third: " + " ".join(f"{most:.0f}" for most in thirds))
    print(f"p95 {p95:.3f} s of {limit:.3f} s allowed")


if __name__ == "__main__":
    main()
