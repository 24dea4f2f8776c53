"""One search for many queries: it costs much less than one after the other."""

import asyncio
from dataclasses import dataclass
from typing import Any

from viml_hf.retrieval.recommender import Question, Recommendation, Recommender

MOST_AT_ONCE = 64


@dataclass(eq=False)
class _Waiting:
    question: Question
    options: dict[str, Any]
    answer: asyncio.Future


class SharedSearch:
    """Searches in a thread; queries that come meanwhile are searched for together, those with the same options."""

    def __init__(self, recommender: Recommender):
        self.recommender = recommender
        self._waiting: list[_Waiting] = []
        self._running: asyncio.Task | None = None

    async def __call__(self, question: Question, **options: Any) -> list[Recommendation]:
        """The tracks for one question, as `Recommender.answer` gives them."""
        one = _Waiting(question, options, asyncio.get_running_loop().create_future())
        self._waiting.append(one)
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._answer_all())
        return await one.answer

    async def _answer_all(self) -> None:
        while self._waiting:
            options = self._waiting[0].options
            batch = [one for one in self._waiting if one.options == options][:MOST_AT_ONCE]
            self._waiting = [one for one in self._waiting if one not in batch]
            questions = [one.question for one in batch]
            try:
                found = await asyncio.to_thread(self.recommender.answer, questions, **options)
            except Exception as error:  # it is told to whoever asked
                for one in batch:
                    if not one.answer.done():
                        one.answer.set_exception(error)
                continue
            for one, tracks in zip(batch, found, strict=True):
                if not one.answer.done():  # as when its time was over
                    one.answer.set_result(tracks)
