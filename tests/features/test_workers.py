import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from viml_hf import BaseFeatures, MediaItem, ViMLError
from viml_hf.features import workers
from viml_hf.features.workers import ITEMS_AHEAD, MAX_ATTEMPTS, extract_in_processes, extract_on_ray

ROOT = Path(__file__).resolve().parents[2]


class FakeEncoder:
    """Does what a file's name says: `deadly` kills the process, `once` the first time only, `slow` takes its time."""

    def encode_audio(self, path, *, start=None, end=None):
        name = Path(path).name
        with Path(path).open("a") as file:
            file.write("read\n")
        if name.startswith("deadly") or (name.startswith("once") and len(Path(path).read_text().splitlines()) == 1):
            os.kill(os.getpid(), signal.SIGKILL)
        if name.startswith("slow"):
            time.sleep(0.3)
        return BaseFeatures(np.full((1, 4), len(name), np.float16), ((0.0, 10.0),))


@dataclass
class FakeSettings:
    loads: bool = True

    def load(self, *, threads=None, device="cpu"):
        if not self.loads:
            os._exit(1)
        return FakeEncoder()


@pytest.fixture(autouse=True)
def importable(monkeypatch):
    """Workers are fresh processes: they import this module by its name."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


def items_of(folder, *names):
    for name in names:
        (folder / name).touch()
    return [MediaItem(name, audio=str(folder / name)) for name in names]


def reads(folder):
    return {path.name: len(path.read_text().splitlines()) for path in folder.iterdir()}


def test_results_come_in_order_and_a_deadly_item_costs_the_others_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "MAX_ATTEMPTS", 2)  # every process takes seconds to start
    names = ["slow", "a", "deadly", *(f"file{index}" for index in range(12)), "b"]
    found = list(extract_in_processes(items_of(tmp_path, *names), FakeSettings(), workers=2))
    assert [extracted.item.id for extracted in found] == names
    errors = {extracted.item.id: extracted.error for extracted in found if extracted.error}
    assert list(errors) == ["deadly"]
    assert "deadly: the process that read it died 2 times" in errors["deadly"]
    assert all(e.features["audio"][0, 0] == len(e.item.id) for e in found if e.error is None)
    assert reads(tmp_path) == {**dict.fromkeys(names, 1), "deadly": 2}


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="signals of POSIX")
def test_ctrl_c_is_seen_once_a_worker_has_all_that_it_is_sent():
    """Also where another thread receives it."""
    ended, sent = threading.Event(), []
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a server that another test ran may have its own
    threading.Thread(target=ended.wait).start()

    def start():
        with workers._interrupts_held_back():
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.2)
            sent.append(True)

    try:
        with pytest.raises(KeyboardInterrupt):
            start()
    finally:
        ended.set()
        signal.signal(signal.SIGINT, before)
    assert sent


@pytest.mark.slow
def test_workers_that_cannot_start_are_an_error(tmp_path):
    with pytest.raises(ViMLError, match=r"die before they begin.*fewer --workers"):
        list(extract_in_processes(items_of(tmp_path, "a", "b"), FakeSettings(loads=False), workers=1))


def alive(pid):
    status = Path(f"/proc/{pid}/stat")
    try:
        return status.read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads /proc")
def test_few_results_wait_for_a_slow_item_and_workers_end_when_nobody_asks_any_more(tmp_path):
    before = set(children(os.getpid()))
    names = ["slow", *(f"file{index}" for index in range(60))]
    results = extract_in_processes(items_of(tmp_path, *names), FakeSettings(), workers=2)
    assert next(results).item.id == "slow"
    assert sum(reads(tmp_path).values()) <= 2 * ITEMS_AHEAD + 2
    started = set(children(os.getpid())) - before
    results.close()
    assert sum(map(alive, started)) <= 1  # multiprocessing's own resource tracker stays


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="reads /proc")
def test_workers_end_with_a_driver_that_is_killed(tmp_path):
    names = [f"slow{index}" for index in range(50)]
    items_of(tmp_path, *names)
    script = f"""if __name__ == "__main__":
        from pathlib import Path
        from tests.features.test_workers import *
        list(extract_in_processes(items_of(Path({str(tmp_path)!r}), *{names!r}), FakeSettings(), workers=2))"""
    driver_file = tmp_path.parent / "driver.py"
    driver_file.write_text(script)
    driver = subprocess.Popen([sys.executable, str(driver_file)], cwd=ROOT)
    wait_until(lambda: sum(reads(tmp_path).values()) > 2)
    workers = children(driver.pid)
    assert len(workers) >= 2
    driver.kill()
    driver.wait()
    wait_until(lambda: not any(map(alive, workers)))


@pytest.mark.slow
def test_ray_does_the_same(tmp_path):
    pytest.importorskip("ray")
    names = ["slow", *(f"file{index}" for index in range(6)), "deadly", "once"]
    found = list(extract_on_ray(items_of(tmp_path, *names), FakeSettings(), workers=2))
    assert [extracted.item.id for extracted in found] == names
    assert [extracted.item.id for extracted in found if extracted.error] == ["deadly"]
    assert reads(tmp_path) == {**dict.fromkeys(names, 1), "deadly": MAX_ATTEMPTS, "once": 2}


@pytest.mark.slow
def test_a_plain_script_needs_no_guard(tmp_path):
    """A worker does not run the script again that started it."""
    names = ["a", "b", "c"]
    items_of(tmp_path, *names)
    script = tmp_path.parent / "plain.py"
    script.write_text(
        "from pathlib import Path\n"
        "from tests.features.test_workers import FakeSettings, extract_in_processes, items_of\n"
        f"items = items_of(Path({str(tmp_path)!r}), *{names!r})\n"
        "found = list(extract_in_processes(items, FakeSettings(), workers=2))\n"
        "print([extracted.error for extracted in found])\n"
    )
    run = subprocess.run([sys.executable, str(script)], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.stdout == "[None, None, None]\n", run.stderr
