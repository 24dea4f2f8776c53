"""The approximate search: exact scores, the same filters, and nearly all that exact search finds."""

from itertools import pairwise

import numpy as np
import pytest

from tests.retrieval.test_search import hits, unit
from viml_hf import MusicIndex, ViMLError
from viml_hf.retrieval import approximate, index_folder
from viml_hf.retrieval.index import Track, Window
from viml_hf.retrieval.index_changes import added_to, change_index, without_tracks

faiss = pytest.importorskip("faiss")
DIM = 32


def clustered(tracks: int, seed: int, name: str, bank: bool) -> MusicIndex:
    """Tracks of two windows, near to each other and to one of 20 styles."""
    generator = np.random.default_rng(seed)
    styles = unit(np.random.default_rng(0), 20, DIM)
    near = styles[generator.integers(20, size=tracks)] + 0.5 * unit(generator, tracks, DIM)
    rows = np.repeat(near, 2, 0) + 0.2 * unit(generator, 2 * tracks, DIM)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    spans = (Window(0.0, 30.0), Window(10.0, 40.0))
    made = [Track(f"{name}{n}", "/m", str(n), 40.0, spans, None, "CC0" if n % 2 else None) for n in range(tracks)]
    corrections = np.repeat(generator.uniform(0, 0.3, (tracks, 2)), 2, 0) if bank else None
    return MusicIndex(rows, made, "model", "fingerprint", {}, corrections)


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(approximate, "LEAST_ROWS", 100)
    monkeypatch.setattr(approximate, "ROWS_PER_LIST", 100)
    faiss.omp_set_num_threads(1)


@pytest.mark.parametrize("bank", [False, True])
def test_it_finds_what_exact_search_finds(tmp_path, capsys, bank):
    clustered(1500, 1, "a", bank).save(tmp_path)
    with pytest.raises(ViMLError, match="run `viml index -o INDEX --approximate`"):
        MusicIndex.load(tmp_path).search(np.zeros((1, DIM)), approximate=True)
    change_index(tmp_path, MusicIndex.approximated)
    assert "3000 rows in 30 lists, of which" in capsys.readouterr().out
    # What is added later is searched exactly, and what is deleted is not found.
    change_index(tmp_path, lambda index: added_to(index, clustered(20, 2, "b", bank)))
    change_index(tmp_path, lambda index: without_tracks(index, [f"a{n}" for n in range(0, 200)] + ["b3"]))
    index = MusicIndex.load(tmp_path)
    assert [block.inverted for block in index.blocks] == [None, None]
    queries = index.embeddings[500:2500:50] + unit(np.random.default_rng(3), 40, DIM)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    for where, with_text in ((None, False), ("licence = 'CC0'", True), ("track in ('a203', 'b4', 'b5')", False)):
        exact = index.search(queries, 10, where, with_text=with_text)
        found = index.search(queries, 10, where, with_text=with_text, approximate=True)
        assert index.blocks[0].inverted is not None
        both = [len({*hits(one)} & {*hits(other)}) / len(other) for one, other in zip(found, exact, strict=True)]
        assert np.mean(both) > 0.9  # with the same windows and scores, to the last bit
        assert all(one.score >= other.score for hit in found for one, other in pairwise(hit))
    index_folder.verify_index(tmp_path)


def test_corrections_decide_which_rows_are_looked_at():
    (block,) = clustered(500, 1, "a", True).approximated().blocks
    inverted, everything = block.inverted, np.ones(500, bool)
    inverted.nprobe = inverted.nlist
    queries = unit(np.random.default_rng(3), 2, DIM)
    found = approximate._near(block, inverted, queries, 1, everything, np.array([0, 1]))
    for column, (query, rows) in enumerate(zip(queries, found, strict=True)):
        scores = block.embeddings.astype(np.float32) @ query - block.corrections[:, column]
        best = np.argsort(-scores)[: len(rows)]
        assert len({*rows.tolist()} & {*best.tolist()}) >= 0.9 * len(rows)


def test_an_index_that_is_compacted_or_damaged(tmp_path, monkeypatch):
    clustered(200, 1, "a", False).approximated().save(tmp_path)
    (path,) = tmp_path.glob("ivf-*")
    before = MusicIndex.load(tmp_path)
    assert MusicIndex.load(tmp_path).approximated().blocks[0].files == before.blocks[0].files  # not built again
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"\0\0")
    with pytest.raises(ViMLError, match="the index is damaged"):
        MusicIndex.load(tmp_path)
    path.write_bytes(content)
    change_index(tmp_path, lambda index: without_tracks(index, ["a1"]).compacted())
    assert list(tmp_path.glob("ivf-*")) == []
    # The older state, whose file is gone meanwhile, is searched exactly.
    query = unit(np.random.default_rng(3), 1, DIM)
    assert before.search(query, approximate=True) == before.search(query)


def test_without_faiss_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(ViMLError, match=r"pip install viml-hf\[faiss\]"):
        clustered(200, 1, "a", False).approximated()
