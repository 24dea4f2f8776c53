"""The search against a naive loop in float64: the same tracks, windows and scores, in the same order."""

import numpy as np
import pytest

from viml_hf import MusicIndex, ViMLError
from viml_hf.retrieval import search
from viml_hf.retrieval.index import Track, Window

LICENCES = ("https://creativecommons.org/licenses/by/4.0/", "CC-BY-NC 4.0", "CC0", None)


def unit(generator: np.random.Generator, *shape: int) -> np.ndarray:
    rows = generator.standard_normal(shape)
    return (rows / np.linalg.norm(rows, axis=-1, keepdims=True)).astype(np.float32)


def make_index(generator: np.random.Generator, tracks: int, dim: int, name: str = "", bank: bool = False) -> MusicIndex:
    """Tracks of no window up to five, some of which are copies of others."""
    made, rows = [], [np.zeros((0, dim), np.float32)]
    for number in range(tracks):
        count = int(generator.integers(0, 6))
        windows = tuple(Window(10.0 * at, 10.0 * at + 30) for at in range(count))
        duration = windows[-1].end if windows else 0.0
        facts = (None if count else "broken", LICENCES[number % 4], {"bpm": str(60 + number % 90)})
        made.append(Track(f"{name}{number}", f"/m/{name}{number}", f"{number}", duration, windows, *facts))
        rows.append(unit(generator, count, dim))
    rows = np.concatenate(rows)
    rows[generator.integers(len(rows), size=len(rows) // 5)] = rows[0]
    corrections = generator.normal(0, 0.05, (len(rows), 2)).astype(np.float32) if bank else None
    return MusicIndex(rows, made, "model", "fingerprint", {}, corrections)


def naive(index: MusicIndex, query: np.ndarray, k: int, column: int | None = None, kept=lambda track: True):
    found, row = [], 0
    for position, track in enumerate(index.tracks):
        scores = []
        for _ in track.windows:
            scores.append(float((index.embeddings[row].astype(np.float64) * query.astype(np.float64)).sum()))
            if column is not None:
                scores[-1] -= float(index.corrections[row, column])
            row += 1
        if scores and kept(track):
            found.append((position, scores.index(max(scores)), max(scores)))
    return sorted(found, key=lambda one: -one[2])[:k]


def hits(found):
    return [(hit.track, hit.window, hit.score) for hit in found]


def is_free(track: Track) -> bool:
    return track.licence in (LICENCES[0], "CC0")


@pytest.fixture
def small_chunks(monkeypatch):
    for name, rows in (("FIRST_ROWS", 64), ("MANY_ROWS", 192), ("BATCH_ROWS", 50), ("ROWS_IN_CACHE", 33)):
        monkeypatch.setattr(search, name, rows)


@pytest.mark.parametrize("dim", [16, 64, 192])
@pytest.mark.parametrize("bank", [False, True])
@pytest.mark.parametrize("k", [1, 7, 1000])
def test_it_is_the_naive_loop(small_chunks, dim, bank, k):
    generator = np.random.default_rng(dim + k)
    index = make_index(generator, 150, dim, bank=bank)
    index = index.updated(make_index(generator, 60, dim, "b", bank), removed=range(20, 50))
    index = index.updated(make_index(generator, 5, dim, "c", bank), removed=[150, 151])
    assert len(index.blocks) == 3
    queries = np.concatenate([unit(generator, 5, dim), index.embeddings[:2].astype(np.float32)])
    columns = [0, 1, 0, 1, 1, 0, 0] if bank else [None] * 7
    expected = [naive(index, query, k, column) for query, column in zip(queries, columns, strict=True)]
    with_text = [column == 1 for column in columns]
    assert [hits(found) for found in index.search(queries, k, with_text=with_text)] == expected
    for query, text, one in zip(queries, with_text, expected, strict=True):
        assert hits(index.search(query[None], k, with_text=text)[0]) == one


@pytest.mark.parametrize("queries", [1, 6])
@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ("licence = 'CC0'", lambda track: track.licence == "CC0"),
        ("licence in ('CC0', 'CC-BY') and bpm < 100", lambda track: is_free(track) and int(track.fields["bpm"]) < 100),
        ("track = '17' or track = 'b3'", lambda track: track.name in ("17", "b3")),
        ("not track = '3'", lambda track: track.name != "3"),
        ("bpm > 1000", lambda track: False),
    ],
)
def test_a_filter_comes_before_the_ranking(small_chunks, where, kept, queries):
    generator = np.random.default_rng(0)
    index = make_index(generator, 150, 64).updated(make_index(generator, 40, 64, "b"), removed=[1, 2, 155])
    asked = unit(generator, queries, 64)
    expected = [naive(index, query, 10, kept=kept) for query in asked]
    assert [hits(found) for found in index.search(asked, 10, where)] == expected
    assert (where == "bpm > 1000") == (expected[0] == [])


def test_rows_that_are_equal_tie_wherever_they_lie():
    generator = np.random.default_rng(0)
    row = unit(generator, 1, 192)
    tracks = [Track(str(n), str(n), "", 30.0, (Window(0.0, 30.0),)) for n in range(3000)]
    index = MusicIndex(np.repeat(row, 3000, 0), tracks, "m", "f")
    index = index.updated(index)
    (found,) = index.search(unit(generator, 1, 192), 6000)
    assert [hit.track for hit in found] == list(range(6000))
    assert len({hit.score for hit in found}) == 1


def test_tracks_near_each_other_are_told_apart():
    """Scores that differ by less than the first look can tell."""
    generator = np.random.default_rng(1)
    rows = unit(generator, 1, 256) + generator.normal(0, 1e-3, (2000, 256))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    tracks = [Track(str(n), str(n), "", 30.0, (Window(0.0, 30.0),)) for n in range(2000)]
    index = MusicIndex(rows, tracks, "m", "f")
    query = rows[:1]
    assert hits(index.search(query, 20)[0]) == naive(index, query[0], 20)


@pytest.mark.parametrize("queries", [1, 2, 70])
@pytest.mark.parametrize("dim", [3, 64, 1100])
def test_the_first_look_is_off_by_no_more_than_is_assumed(dim, queries):
    generator = np.random.default_rng(dim)
    (block,) = make_index(generator, 100, dim).blocks
    asked = 3 * unit(generator, queries, dim)
    rows = np.flatnonzero(block.row_mask(np.arange(100) % 3 > 0))
    off = search._first_look(block, rows, asked) - asked @ block.embeddings[rows].astype(np.float32).T
    assert np.abs(off).max() <= search._first_error([block], asked) < 0.15


def test_a_row_that_differs_from_its_sketch_is_told():
    index = make_index(np.random.default_rng(3), 100, 64)
    (block,) = index.blocks
    far = int(np.argmin(block.embeddings[:100].astype(np.float32) @ block.embeddings[0].astype(np.float32)))
    block.sketch[far], block.scales[far] = block.sketch[0], block.scales[0]
    with pytest.raises(ViMLError, match="embeddings that differ from their sketch"):
        index.search(block.embeddings[:1])


@pytest.mark.parametrize("queries", [np.zeros(16), np.zeros((1, 8)), np.full((1, 16), np.nan), np.zeros((1, 1, 16))])
def test_queries_of_another_shape_are_refused(queries):
    index = make_index(np.random.default_rng(0), 5, 16)
    with pytest.raises(ViMLError, match="give rows of 16 finite numbers, one per query"):
        index.search(queries)
    with pytest.raises(ViMLError, match="k=0: give"):
        index.search(np.zeros((1, 16)), 0)
    assert index.search(np.zeros((0, 16))) == []
