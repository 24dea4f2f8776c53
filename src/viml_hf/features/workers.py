"""Extracting many items at once: worker processes on this machine, or a Ray cluster.

A worker that dies, for whatever reason, costs its item one more attempt in a fresh one, and the others nothing.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from viml_hf.encoders.encoder_settings import EncoderLoader
from viml_hf.encoders.media_encoder import best_device
from viml_hf.errors import ViMLError, in_one_line
from viml_hf.features.media_item import Extracted, MediaItem, extract_one

MAX_ATTEMPTS = 3
# Results are yielded in the order of the items; so many per worker may wait for a slow one before them.
ITEMS_AHEAD = 8
_READY = "ready"


def extract_in_processes(
    items: Sequence[MediaItem], loader: EncoderLoader | None, workers: int
) -> Generator[Extracted, None, None]:
    """Extract items in worker processes, each with a thread that decodes, one that encodes, and a share of the GPUs.

    Without a loader items are only measured, see `extract_one`.

    Results come in the order of the items, whatever the number of workers. An item whose worker died `MAX_ATTEMPTS`
    times is a result with an error.
    """
    pool = [_Worker(loader, device) for device in worker_devices(workers, torch.cuda.device_count())]
    try:
        yield from _in_order(items, workers, lambda take: _from_processes(items, pool, take))
    finally:
        for worker in pool:
            worker.stop()


def worker_devices(workers: int, gpus: int) -> list[str]:
    """The device of each worker.

    Example:
        >>> worker_devices(3, gpus=2)
        ['cuda:0', 'cuda:1', 'cuda:0']
    """
    return [f"cuda:{index % gpus}" if gpus else "cpu" for index in range(workers)]


Take = Callable[[], int | None]  # gives the index of the next item to begin with; `None` if there is none for now


def _in_order(
    items: Sequence[MediaItem], workers: int, run: Callable[[Take], Iterator[tuple[int, Extracted]]]
) -> Generator[Extracted, None, None]:
    """Results in the order of the items. `run` takes items as its workers get idle, and yields results as they come."""
    fresh, following = iter(range(len(items))), 0
    results: dict[int, Extracted] = {}
    for index, result in run(lambda: next(fresh, None) if len(results) < ITEMS_AHEAD * workers else None):
        results[index] = result
        while following in results:
            yield results.pop(following)
            following += 1


def _from_processes(
    items: Sequence[MediaItem], pool: list["_Worker"], take: Take
) -> Generator[tuple[int, Extracted], None, None]:
    retries: deque[int] = deque()
    attempts = [0] * len(items)
    failed_starts = 0
    while True:
        for worker in pool:
            if worker.index is None:
                worker.begin(retries.popleft() if retries else take(), items)
        busy = {worker.connection: worker for worker in pool if worker.index is not None}
        if not busy:
            return
        for connection in wait(list(busy)):
            worker = busy[connection]  # type: ignore[index]  # what `wait` was given
            index = worker.index
            assert index is not None
            try:
                answer = worker.connection.recv()
            except (EOFError, OSError):
                # A worker that was not ready yet did not die of its item.
                attempts[index] += worker.ready
                failed_starts = 0 if worker.ready else failed_starts + 1
                if failed_starts == MAX_ATTEMPTS * len(pool):
                    raise ViMLError(
                        f"{len(pool)} worker processes die before they begin: there may be too little memory for as "
                        "many copies of the encoders; give fewer --workers"
                    ) from None
                worker.restart()
                if attempts[index] < MAX_ATTEMPTS:
                    retries.append(index)
                else:
                    yield index, Extracted(items[index], error=_death_of(items[index]))
                continue
            worker.ready, failed_starts = True, 0
            if answer != _READY:
                worker.index = None
                yield index, answer


def _death_of(item: MediaItem) -> str:
    return (
        f"{' and '.join(item.paths) or item.id}: the process that read it died {MAX_ATTEMPTS} times, of a crash in a "
        "decoder or of too little memory; convert the file, or give fewer --workers"
    )


class _Worker:
    """A process that extracts one item at a time. `index` is that of the item in its hands."""

    def __init__(self, loader: EncoderLoader | None, device: str):
        self.loader, self.device = loader, device
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, self.loader, self.device), daemon=True)
        with _interrupts_held_back(), _main_module_hidden():
            self.process.start()
        theirs.close()  # the process holds the last copy: its death is the end of the connection
        self.ready = False
        self.index: int | None = None

    def begin(self, index: int | None, items: Sequence[MediaItem]) -> None:
        """Hand it an item."""
        if index is not None:
            self.index = index
            with suppress(OSError):  # where it died idle, reading its answer tells
                self.connection.send(items[index])

    def restart(self) -> None:
        """A fresh process, with nothing in its hands."""
        self.stop()
        self._start()

    def stop(self) -> None:
        """End the process, whatever it does."""
        self.process.kill()
        self.process.join()
        self.connection.close()


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Ctrl-C reaches all processes of a terminal. One that is started here never sees it: the driver decides.

    The driver sees it once the process has all that it is sent: half of it would be an error over there.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    resource_tracker.ensure_running()  # its start would let them through again
    # A mask is inherited, but holds for this thread alone. What another one receives goes to the handler.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    held_back: list[int] = []
    handler = signal.getsignal(signal.SIGINT) if threading.current_thread() is threading.main_thread() else None
    if handler is not None:
        signal.signal(signal.SIGINT, lambda number, frame: held_back.append(number))
    try:
        yield
    finally:
        if handler is not None:
            signal.signal(signal.SIGINT, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        if held_back:
            signal.raise_signal(signal.SIGINT)


@contextmanager
def _main_module_hidden() -> Iterator[None]:
    """A worker needs nothing of the script that runs. Not knowing it, it does not run it again, guarded or not."""
    main = vars(sys.modules["__main__"])
    hidden = {name: main.pop(name) for name in ("__file__", "__spec__") if name in main}
    main["__spec__"] = None
    try:
        yield
    finally:
        main.update(hidden)  # type: ignore[arg-type]


def _serve(connection: Connection, loader: EncoderLoader | None, device: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)  # there is a worker for each core
    encoder = None if loader is None else loader.load(threads=1, device=device)
    connection.send(_READY)
    with suppress(EOFError):
        while True:
            connection.send(extract_one(connection.recv(), encoder))


def _end_with_parent() -> None:
    """A driver that is killed says nothing to its workers; they are not to go on without it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)


class _RayWorker:
    """The same on a Ray cluster."""

    def __init__(self, loader: EncoderLoader):
        self.encoder = loader.load(threads=1, device=best_device())

    def ready(self) -> bool:
        return True

    def extract(self, item: MediaItem) -> Extracted:
        return extract_one(item, self.encoder)


def extract_on_ray(items: Sequence[MediaItem], loader: EncoderLoader, workers: int) -> Generator[Extracted, None, None]:
    """Extract items on a Ray cluster: the one that `RAY_ADDRESS` names, or one on this machine.

    The files must be reachable under the same paths everywhere. Each worker is an actor with one CPU, and one GPU where
    the cluster has any. Results are those of `extract_in_processes`.
    """
    try:
        import ray
    except ImportError as error:
        raise ViMLError("--engine ray: Ray is not installed; run `pip install 'viml-hf[ray]'`") from error
    if not ray.is_initialized():
        ray.init(log_to_driver=False, configure_logging=False, include_dashboard=False)
    resources = ray.cluster_resources()
    gpus = 1 if resources.get("GPU") else 0
    # An actor that the cluster has no room for would never begin, and its item never end.
    workers = max(1, min(workers, len(items), int(resources.get("GPU" if gpus else "CPU", 1))))
    needs: dict[str, Any] = {"num_cpus": 1, "num_gpus": gpus}
    actor_class: Any = ray.remote(max_restarts=-1, max_task_retries=MAX_ATTEMPTS - 1, **needs)(_RayWorker)
    idle = deque(actor_class.remote(loader) for _ in range(workers))
    try:
        ray.get([actor.ready.remote() for actor in idle])
    except ray.exceptions.RayActorError as error:
        raise ViMLError(f"workers cannot begin on the cluster: {in_one_line(error)[-300:]}") from error
    yield from _in_order(items, workers, lambda take: _from_actors(ray, items, idle, take))


def _from_actors(
    ray: Any, items: Sequence[MediaItem], idle: deque[Any], take: Take
) -> Generator[tuple[int, Extracted], None, None]:
    running: dict[Any, tuple[int, Any]] = {}
    while True:
        while idle and (index := take()) is not None:
            actor = idle.popleft()
            running[actor.extract.remote(items[index])] = (index, actor)
        if not running:
            return
        (done,), _ = ray.wait(list(running))
        index, actor = running.pop(done)
        idle.append(actor)
        try:
            yield index, ray.get(done)
        except ray.exceptions.RayActorError:
            yield index, Extracted(items[index], error=_death_of(items[index]))
