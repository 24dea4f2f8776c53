"""Damaged and forged media files: each gives a result or a `MediaDecodeError`, in bounded time and memory."""

import hashlib
import multiprocessing
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.media import numbered_frame, sine, write_audio, write_video
from tests.mutations import gif_fields, mp4_fields, mutant, riff_fields, with_number
from viml_hf.errors import MediaDecodeError
from viml_hf.processing.audio_decoding import iter_audio
from viml_hf.processing.media import MAX_SECONDS, DecodeReport
from viml_hf.processing.video_decoding import iter_frames

if sys.platform != "linux":
    pytest.skip("limits a process's memory and reads it from /proc", allow_module_level=True)

ROOT = Path(__file__).resolve().parents[2]
MEMORY_CAP = 3 * 2**30  # bytes of address space, over what a worker has when it starts
SECONDS_CAP = 20.0  # for all that is decoded of one file
FPS, SAMPLING_RATE = 6, 22_050


@dataclass(frozen=True)
class Decoded:
    """What became of one way to decode a file.

    Args:
        seconds: Of frames or samples.
        checksum: Of all of them.
        coverage: As the report says; `None` where an error ended it.
        stage: Of the error; `None` without one.
        failure: What must not happen, in words.
    """

    seconds: float = 0.0
    checksum: str = ""
    coverage: float | None = None
    stage: str | None = None
    failure: str | None = None


def decode(content: bytes) -> dict[str, Decoded]:
    """Pictures, sound, and an excerpt of the pictures, which is sought."""
    options = {"fps": FPS, "short_side": 48, "threads": 1}
    return {
        "video": decode_one(lambda report: iter_frames(content, report=report, **options), FPS),
        "audio": decode_one(lambda report: iter_audio(content, SAMPLING_RATE, report=report), SAMPLING_RATE),
        "excerpt": decode_one(lambda report: iter_frames(content, start=0.5, end=1.5, report=report, **options), FPS),
    }


def decode_one(open_it: Callable[[DecodeReport], Iterator[np.ndarray]], rate: float) -> Decoded:
    report, checksum, count = DecodeReport(), hashlib.sha256(), 0
    coverage = stage = failure = None
    try:
        for data in open_it(report):
            count += len(data) if data.ndim == 1 else 1
            checksum.update(data)
        coverage = report.coverage
        if not count or not 0 <= coverage <= 1:
            failure = f"{count} frames or samples, coverage {coverage}"
    except MediaDecodeError as error:
        stage = error.stage
        if "\n" in str(error) or error.path != "<bytes>" or stage not in ("open", "video", "audio"):
            failure = f"error without a path, a stage or one line: {error}"
    except BaseException:
        failure = traceback.format_exc()
    if count / rate > MAX_SECONDS + 60:
        failure = f"{count / rate} s"
    return Decoded(count / rate, checksum.hexdigest(), coverage, stage, failure)


def work(connection: Connection) -> None:
    """The worker: takes files, answers with what became of them, the seconds and the address space at its peak."""
    import resource

    before = address_space()
    # Beyond the cap: what FFmpeg tries to take is seen, and not just refused.
    resource.setrlimit(resource.RLIMIT_AS, (before + 2 * MEMORY_CAP,) * 2)
    while True:
        content = connection.recv()
        begin = time.perf_counter()
        decoded = decode(content)
        connection.send((decoded, time.perf_counter() - begin, address_space() - before))


def address_space() -> int:
    """Bytes of address space of this process at its peak."""
    return 1024 * int(Path("/proc/self/status").read_text().split("VmPeak:")[1].split()[0])


class Worker:
    """A process that decodes; one that dies, hangs or takes too much is replaced."""

    def __init__(self) -> None:
        self.process: Any = None

    def __call__(self, content: bytes) -> tuple[dict[str, Decoded], float, int]:
        """What became of a file, the seconds, and the address space in bytes of the worker so far."""
        if self.process is None:
            self.start()
        try:
            self.connection.send(content)
            if self.connection.poll(SECONDS_CAP):
                decoded, seconds, peak = self.connection.recv()
                if peak > MEMORY_CAP:
                    self.stop()
                    decoded["process"] = Decoded(failure=f"took {peak / 2**20:.0f} MiB")
                return decoded, seconds, peak
            failure = f"still at it after {SECONDS_CAP:g} s"
        except (EOFError, OSError):
            self.process.join()
            failure = f"died with exit code {self.process.exitcode}"
        self.stop()
        return {"process": Decoded(failure=failure)}, SECONDS_CAP, 0

    def start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=work, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.connection.close()
            self.process = None


@dataclass
class Summary:
    """What became of many files; of seconds and bytes the most, and by which file."""

    outcomes: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")
    longest: tuple[float, str] = (0.0, "")
    peak: tuple[int, str] = (0, "")


def try_mutants(worker: Worker, files: dict[str, bytes], count: int, folder: Path) -> Summary:
    """Decodes the first mutants of some files; those that fail are kept in a folder."""
    summary = Summary()
    for number in range(count):
        name, content = mutant(files, number)
        decoded, seconds, peak = worker(content)
        failures = [f"{way}: {found.failure}" for way, found in decoded.items() if found.failure]
        if number % 10 == 0 and not failures and worker(content)[0] != decoded:
            failures.append("another result the second time")
        if failures:
            kept = folder / f"{number}.bin"
            kept.write_bytes(content)
            summary.failures += [f"{name}, kept as {kept}: {failure}" for failure in failures]
        for way, found in decoded.items():
            summary.outcomes[f"{way}: {'result' if found.stage is None else 'error in ' + found.stage}"] += 1
            summary.longest = max(summary.longest, (found.seconds, f"{way} of {name}"))
        summary.slowest = max(summary.slowest, (seconds, name))
        if peak > summary.peak[0]:  # the first to reach it: the peak is that of the worker so far
            summary.peak = (peak, name)
    return summary


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    worker = Worker()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))  # it imports this module by its name
        yield worker
    worker.stop()


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Small files of many formats, by name."""
    folder = tmp_path_factory.mktemp("generated")
    sound: dict[str, Any] = {"audio": sine(440, 2, 44_100), "sampling_rate": 44_100}
    opus: dict[str, Any] = {"audio": sine(440, 2, 48_000), "sampling_rate": 48_000, "audio_codec": "libopus"}
    pictures = [Image.fromarray(numbered_frame(number)) for number in range(12)]
    pictures[0].save(folder / "pictures.gif", save_all=True, append_images=pictures[1:], duration=150)
    write_video(folder / "h264.mp4", 48, 24, **sound)
    write_video(folder / "hevc.mp4", 24, 24, codec="libx265")
    write_video(folder / "vp8.webm", 48, 24, (300, 260), codec="libvpx", **opus)
    write_video(folder / "vp9.webm", 24, 24, codec="libvpx-vp9")
    write_video(folder / "mpeg4.avi", 48, 24, codec="mpeg4", **sound, audio_codec="libmp3lame")
    write_video(folder / "h264.mkv", 48, 24, **sound)
    write_video(folder / "h264.ts", 48, 24, **sound)
    write_audio(folder / "sine.wav", np.stack([sine(440, 1, 44_100)] * 2), 44_100)
    write_audio(folder / "sine.flac", sine(440, 2, 44_100), 44_100, "flac")
    write_audio(folder / "sine.mp3", sine(440, 2, 44_100), 44_100, "libmp3lame")
    write_audio(folder / "sine.m4a", sine(440, 2, 44_100), 44_100, "aac")
    write_audio(folder / "sine.ogg", sine(440, 2, 48_000), 48_000, "libopus")
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_worker_that_dies_or_hangs_is_noticed_and_replaced(
    worker: Worker, generated: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    worker.start()
    worker.process.kill()
    assert worker(generated["sine.wav"])[0]["process"].failure == "died with exit code -9"
    monkeypatch.setattr(sys.modules[__name__], "SECONDS_CAP", 0.0)
    assert worker(generated["sine.wav"])[0]["process"].failure == "still at it after 0 s"
    monkeypatch.undo()
    assert worker(generated["sine.wav"])[0]["audio"].coverage == 1


def test_a_mutant_is_the_same_every_time(generated: dict[str, bytes]) -> None:
    mutants = [mutant(generated, number) for number in range(50)]
    assert mutants == [mutant(generated, number) for number in range(50)]
    assert sum(content not in generated.values() for _, content in mutants) > 45


def test_100_mutants(worker: Worker, generated: dict[str, bytes], tmp_path: Path) -> None:
    assert all(found.coverage == 1 or found.stage for found in worker(generated["h264.mp4"])[0].values())
    summary = try_mutants(worker, generated, 100, tmp_path)
    assert not summary.failures, "\n".join(summary.failures)
    assert summary.outcomes["video: result"] > 20
    assert summary.outcomes["audio: result"] > 20


@pytest.mark.slow
def test_1000_mutants(worker: Worker, generated: dict[str, bytes], tmp_path: Path) -> None:
    summary = try_mutants(worker, generated, 1000, tmp_path)
    print(summary)
    assert not summary.failures, "\n".join(summary.failures)


@pytest.mark.slow
def test_500_mutants_of_real_files(worker: Worker, shared_media: Path, tmp_path: Path) -> None:
    files = {path.name: path.read_bytes() for path in shared_media.glob("*/*") if path.stat().st_size < 600_000}
    summary = try_mutants(worker, files, 500, tmp_path)
    print(summary)
    assert not summary.failures, "\n".join(summary.failures)


def forged(content: bytes, fields: Callable, **numbers: int) -> bytes:
    """With other numbers in the first field of each name."""
    named = {found.name: found for found in reversed(list(fields(content)))}
    for name, number in numbers.items():
        content = with_number(content, named[name], number)
    return content


def test_extremes(worker: Worker, generated: dict[str, bytes]) -> None:
    mp4, wav, gif, webm = (generated[name] for name in ("h264.mp4", "sine.wav", "pictures.gif", "vp8.webm"))
    size = bytes.fromhex("b082012cba820104")  # 300 × 260
    assert size in webm
    largest = 2**32 - 1
    extremes: dict[str, tuple[bytes, str]] = {
        "2^32 - 1 samples": (forged(mp4, mp4_fields, **{"stsz + 8": largest}), "open"),
        "2^31 - 1 samples of a byte": (forged(mp4, mp4_fields, **{"stsz + 4": 1, "stsz + 8": 2**31 - 1}), "video"),
        "2^24 samples of a byte": (forged(mp4, mp4_fields, **{"stsz + 4": 1, "stsz + 8": 2**24}), "video"),
        "shown as 65535 × 65535": (forged(mp4, mp4_fields, **{"tkhd + 76": largest, "tkhd + 80": largest}), ""),
        "pictures of 65535 × 65535": (forged(mp4, mp4_fields, **{"stsd + 40": largest}), ""),  # the codec's size counts
        "GIF of 65535 × 65535": (forged(gif, gif_fields, width=65535, height=65535), "video"),
        "WebM of 2^31 pixels width": (webm.replace(size, bytes.fromhex("b08480000000ba80")), "open"),
        "WebM of 65535 × 65535": (webm.replace(size, bytes.fromhex("b082ffffba82ffff")), ""),
        "2^31 - 1 Hz": (forged(wav, riff_fields, rate=2**31 - 1), "audio"),
        "0 Hz": (forged(wav, riff_fields, rate=0), "open"),
        "255 channels": (forged(wav, riff_fields, channels=255, **{"block align": 510}), "audio"),
        "65535 channels": (forged(wav, riff_fields, channels=65535), "audio"),
    }
    for name, (content, stage) in extremes.items():
        decoded, _, _ = worker(content)
        assert not [found.failure for found in decoded.values() if found.failure], name
        kind = "audio" if "Hz" in name or "channels" in name else "video"
        assert (decoded[kind].stage or "") == stage, name
