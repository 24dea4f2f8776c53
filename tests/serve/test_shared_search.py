"""Queries that come while a search runs share the next one, and get what they would get alone."""

import asyncio
import threading
from types import SimpleNamespace

import pytest

from viml_hf.serve.service import MusicService
from viml_hf.serve.shared_search import SharedSearch


def test_queries_are_searched_for_together_and_answered_as_alone(recommender, monkeypatch):
    texts, batches, searches, first = [f"text {number}" for number in range(20)], [], [], threading.Event()
    answer, search = recommender.answer, recommender.index.search

    def slow_answer(questions, **options):
        batches.append(len(questions))
        first.wait(60) if len(batches) == 1 else None
        return answer(questions, **options)

    def counted_search(queries, *arguments, **options):
        searches.append(len(queries))
        return search(queries, *arguments, **options)

    monkeypatch.setattr(recommender, "answer", slow_answer)
    monkeypatch.setattr(recommender.index, "search", counted_search)
    service = MusicService(recommender)

    async def ask():
        async def release():
            while not batches or batches[0] + len(service._search._waiting) < 20:
                await asyncio.sleep(0.01)
            first.set()

        kinds = [{"k": 2 if number % 4 == 0 else 3} for number in range(20)]
        answers = asyncio.gather(*(service.recommend(None, t, **kind) for t, kind in zip(texts, kinds, strict=True)))
        await asyncio.wait_for(release(), 60)  # a busy machine takes its time
        return kinds, await answers

    kinds, answers = asyncio.run(ask())
    monkeypatch.undo()
    assert sum(batches) == sum(searches) == 20
    assert len(batches) == 2  # what came before the first search, and what came meanwhile
    assert len(searches) <= 4  # of each, those of either k
    for text, kind, found in zip(texts, kinds, answers, strict=True):
        expected = recommender.recommend(text=text, **kind)
        assert [(one["track"], one["score"]) for one in found] == [(one.track, one.score) for one in expected]


def test_an_error_reaches_everyone_who_asked_and_the_next_search_works():
    def answer(questions, fail=False):
        if fail:
            raise ValueError("no")
        return [float(question) for question in questions]

    async def ask():
        search = SharedSearch(SimpleNamespace(answer=answer))
        failed = await asyncio.gather(*(search(1.0, fail=True) for _ in range(3)), return_exceptions=True)
        return failed, await search(2.0)

    failed, found = asyncio.run(ask())
    assert [str(error) for error in failed] == ["no"] * 3
    assert found == 2.0


@pytest.mark.parametrize("where", ["duration > 10", "duration > 1000"])
def test_filters_reach_the_search(recommender, where):
    found = asyncio.run(MusicService(recommender).recommend(None, "jazz", 5, where))
    assert [one["track"] for one in found] == [one.track for one in recommender.recommend(text="jazz", where=where)]
