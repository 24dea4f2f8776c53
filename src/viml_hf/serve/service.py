"""What a server of recommendations does, whichever protocol it is asked by."""

import asyncio
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from viml_hf.errors import ViMLError
from viml_hf.processing.media import file_name
from viml_hf.retrieval.index_tracks import Track, track_key
from viml_hf.retrieval.recommender import Question, Recommendation, Recommender
from viml_hf.retrieval.wishes import Wishes
from viml_hf.serve.shared_search import SharedSearch


class BusyError(ViMLError):
    """As many queries as allowed are running and waiting."""


class OutOfTimeError(ViMLError):
    """A query took longer than it may."""


class UnknownPathError(ViMLError):
    """A path or a track that this service does not give access to."""


@dataclass(frozen=True)
class ServiceSettings:
    """How much a service takes on.

    Args:
        root: Folder whose videos may be named by their path; by default videos can only be uploaded.
        workers: Queries that run at the same time.
        waiting: Queries that may wait for a worker; more are refused.
        query_seconds: How long an answer may take, waiting included. The work of a query that ran out of time is not
            broken off: it holds its worker until it is done.
        upload_bytes: The largest request.
        upload_seconds: How long a request may take to arrive.

    Raises:
        ViMLError: A number is not above 0 (`waiting` may be 0), or there is no such folder.

    Example:
        >>> ServiceSettings(workers=4).waiting
        32
    """

    root: Path | None = None
    workers: int = 2
    waiting: int = 32
    query_seconds: float = 120.0
    upload_bytes: int = 200_000_000
    upload_seconds: float = 60.0

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name not in ("root", "waiting") and not value > 0:
                raise ViMLError(f"{one.name}={value}: give a number above 0")
        if self.waiting < 0:
            raise ViMLError(f"waiting={self.waiting}: give the number of queries that may wait, 0 for none")
        if self.root is not None and not self.root.is_dir():
            raise ViMLError(f"{self.root}: no such folder; give the folder of the videos that may be asked for")


class MusicService:
    """Answers queries about one library, a few at a time. The limits of the recommender hold for each query."""

    def __init__(self, recommender: Recommender, settings: ServiceSettings | None = None):
        self.recommender = recommender
        self.settings = settings or ServiceSettings()
        self._pool = ThreadPoolExecutor(self.settings.workers, thread_name_prefix="query")
        self._search = SharedSearch(recommender)
        self._taken = 0  # queries that run or wait; only the event loop counts

    async def recommend(
        self,
        video: Path | None,
        text: str | None,
        k: int,
        where: str | None = None,
        wishes: Wishes | None = None,
        **options: Any,
    ) -> list[dict[str, Any]]:
        """The best tracks, as [`Recommender.recommend`] ranks them, each with its `id`.

        The queries that are embedded while the library is searched are searched for together afterwards. Arguments and
        errors are those of `Recommender.recommend`, the video being a file on this machine (see `path_below_root`).
        What would tell of this machine's files is refused, see [`Recommender.check_visitor`].

        Raises:
            BusyError: Too many queries are running and waiting.
            OutOfTimeError: It took longer than `settings.query_seconds`.
        """
        try:
            async with asyncio.timeout(self.settings.query_seconds):
                question = await self._asked(partial(self._ask, video, text, k, where, wishes or Wishes()))
                found = await self._search(question, **options)
        except TimeoutError as error:
            took = f"the query took more than {self.settings.query_seconds:g} s"
            raise OutOfTimeError(f"{took}: ask again later, or with a shorter video") from error
        return [facts(one) for one in found]

    def _ask(self, video: Path | None, text: str | None, k: int, where: str | None, wishes: Wishes) -> Question:
        """A question, embedded."""
        self.recommender.check_visitor(where, wishes)
        return self.recommender.ask(video, text, k, where=where, wishes=wishes)

    async def _asked(self, ask: Callable[[], Question]) -> Question:
        """A question, made by a worker."""
        if self._taken >= self.settings.workers + self.settings.waiting:
            raise BusyError(f"{self._taken} queries are running and waiting, as many as allowed: ask again later")
        self._taken += 1
        job = asyncio.get_running_loop().run_in_executor(self._pool, ask)
        job.add_done_callback(self._done)
        try:
            return await asyncio.shield(job)
        except asyncio.CancelledError:
            job.cancel()  # has an effect only while it waits
            raise

    def _done(self, job: asyncio.Future) -> None:
        self._taken -= 1
        if not job.cancelled():
            job.exception()  # looked at, so that one that nobody waits for is not reported as forgotten

    def path_below_root(self, path: str) -> Path:
        """The file that a query names by its path relative to `settings.root`; any other is an `UnknownPathError`."""
        if self.settings.root is None:
            raise UnknownPathError("this service takes no paths: upload the video")
        root = self.settings.root.resolve()
        try:
            found = (root / path).resolve()
            known = found.is_relative_to(root) and found.is_file()
        except (OSError, ValueError):  # a name that no file can have
            known = False
        if not known:
            raise UnknownPathError(f"{path[:200]}: no such file in the folder of videos that may be asked for")
        return found

    def track(self, identity: str) -> tuple[Track, Path]:
        """A track of the index by its `id`, and its file; `UnknownPathError` where one of them is not there."""
        known = re.fullmatch("[0-9a-f]{16}", identity)
        track = self.recommender.index.find(int.from_bytes(bytes.fromhex(identity), signed=True)) if known else None
        if track is None:
            raise UnknownPathError(f"{identity[:200]}: no track of this library has this id")
        path = Path(file_name(track.path))
        if not path.is_file():
            raise UnknownPathError(f"{track.name}: its file is not where it was when the library was indexed")
        return track, path

    def health(self) -> dict[str, Any]:
        """That the service runs, with what."""
        return {
            "status": "ok",
            "tracks": self.recommender.index.num_tracks,
            "queries": list(self.recommender.encoder.model.config.viml_config.query_modalities),
            "running_and_waiting": self._taken,
        }

    def close(self) -> None:
        """Let running queries end; those that wait are dropped."""
        self._pool.shutdown(cancel_futures=True)


def track_id(name: str) -> str:
    """A track's name as 16 letters that need no quoting in an address.

    Example:
        >>> track_id("jazz/slow piano.mp3")
        '026cc05cfe2b7671'
    """
    return f"{track_key(name) % 2**64:016x}"


def facts(one: Recommendation) -> dict[str, Any]:
    """A recommendation as JSON: without the path on this machine, with the `id` by which its sound is asked for."""
    found = asdict(one)
    del found["path"]
    return {"rank": found.pop("rank"), "id": track_id(one.track), **found}
