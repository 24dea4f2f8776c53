"""Approximate search of large blocks with faiss: an inverted file of rows that are quantised to 8 bits, ranked exactly.

The rows carry their corrections as two more numbers, which a query takes or leaves: so hubs are corrected for here too.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from viml_hf.errors import ViMLError
from viml_hf.retrieval.index_blocks import ROWS_AT_A_TIME, Block
from viml_hf.retrieval.index_folder import IVF_FILE, named_by_content
from viml_hf.retrieval.search import Candidates, Hit, Layout, rank_exactly, search_blocks

LEAST_ROWS = 10_000  # of a block; a smaller one is searched exactly, which costs no more
LEAST_RECALL, SAMPLED_QUERIES, SAMPLED_K = 0.97, 100, 10
ROWS_PER_LIST, TRAINING_ROWS_PER_LIST, MOST_LISTS = 1000, 64, 16_384
FEW_ROWS = 0.05  # of a block are left by a filter: then they are searched exactly
ROWS_PER_TRACK = 20  # asked for, as several windows of a track may be near
SEED = 0


def import_faiss() -> Any:
    """The package faiss, or how to get it."""
    try:
        import faiss
    except ImportError as error:
        raise ViMLError("Approximate search needs faiss: pip install viml-hf[faiss]") from error
    return faiss


def with_inverted_file(block: Block, report: Callable[[str], None] = print) -> Block:
    """A block with an inverted file of its rows; one that is small, or that has one, as it is.

    It reads as many lists per query as it takes to find enough of the ten best tracks of sampled queries: rows of the
    block with noise of their own length, as near to the music as a video is.
    """
    if len(block.embeddings) < LEAST_ROWS or has_inverted_file(block):
        return block
    faiss = import_faiss()
    generator = np.random.default_rng(SEED)
    count, rows = len(block.embeddings), _with_corrections(block, slice(0, 1))
    lists = min(max(count // ROWS_PER_LIST, 1), MOST_LISTS)
    inverted = faiss.index_factory(rows.shape[1], f"IVF{lists},SQ8", faiss.METRIC_INNER_PRODUCT)
    inverted.cp.seed, inverted.cp.spherical = SEED + 1, True
    sample = generator.choice(count, min(lists * TRAINING_ROWS_PER_LIST, count), replace=False)
    inverted.train(_with_corrections(block, np.sort(sample)))
    for first in range(0, count, ROWS_AT_A_TIME):
        inverted.add(_with_corrections(block, slice(first, first + ROWS_AT_A_TIME)))
    near = block.embeddings[np.sort(generator.choice(count, min(SAMPLED_QUERIES, count), replace=False))]
    noise = generator.standard_normal(near.shape)
    queries = near + noise / np.linalg.norm(noise, axis=1, keepdims=True)
    queries = (queries / np.linalg.norm(queries, axis=1, keepdims=True)).astype(np.float32)
    everything = [np.ones(len(block.tracks), bool)]
    columns = None if block.corrections is None else np.arange(len(queries)) % 2
    exact = search_blocks([block], queries, SAMPLED_K, everything, columns)
    built = replace(block, inverted=inverted, files={**block.files})
    inverted.nprobe, recall = 1, 0.0
    while True:
        found = search_approximately([built], queries, SAMPLED_K, everything, columns)
        recall = float(np.mean([_recall(a, b) for a, b in zip(found, exact, strict=True)]))
        if recall >= LEAST_RECALL or inverted.nprobe >= lists:
            break
        inverted.nprobe = min(2 * inverted.nprobe, lists)
    report(
        f"{count} rows in {lists} lists, of which {inverted.nprobe} are read: recall@{SAMPLED_K} {recall:.3f} against "
        f"exact search, {len(queries)} queries"
    )
    return built


def _recall(found: list[Hit], exact: list[Hit]) -> float:
    return len({hit.track for hit in found} & {hit.track for hit in exact}) / max(len(exact), 1)


def has_inverted_file(block: Block) -> bool:
    """Whether a block can be searched approximately."""
    return block.inverted is not None or IVF_FILE in block.files


def _with_corrections(block: Block, rows: "slice | np.ndarray") -> np.ndarray:
    """Rows as float32, with their corrections and zeros up to a width that faiss is fast with."""
    found = block.embeddings[rows].astype(np.float32)
    if block.corrections is None:
        return found
    return np.pad(np.concatenate([found, block.corrections[rows]], axis=1), ((0, 0), (0, 6)))


def _opened(block: Block) -> Any:
    """The inverted file of a block, `None` where it has none, or a writer has removed it meanwhile."""
    if block.inverted is None and IVF_FILE in block.files and block.source is not None:
        path = block.source / named_by_content(IVF_FILE, block.files[IVF_FILE])
        if path.is_file():
            faiss = import_faiss()
            opened = faiss.read_index(str(path), faiss.IO_FLAG_MMAP | faiss.IO_FLAG_READ_ONLY)
            object.__setattr__(block, "inverted", opened)  # kept for the next search
    return block.inverted


def search_approximately(
    blocks: Sequence[Block],
    queries: np.ndarray,
    k: int,
    kept: Sequence[np.ndarray],
    columns: np.ndarray | None = None,
) -> list[list[Hit]]:
    """What `search_blocks` gives, or nearly: of large blocks only the lists that are nearest to a query are read.

    Of every track that is found all windows are ranked, by their exact scores.
    """
    layout = Layout(blocks)
    rows: list[list[np.ndarray]] = [[] for _ in queries]
    for number, (block, start, tracks) in enumerate(zip(blocks, layout.starts, kept, strict=False)):
        inverted = _opened(block)
        if inverted is None or block.counts[tracks].sum() <= FEW_ROWS * len(block.embeddings):
            alone = [tracks if other == number else np.zeros(len(one.tracks), bool) for other, one in enumerate(blocks)]
            hits = search_blocks(blocks, queries, k, alone, columns)
            found = [np.array([hit.track for hit in one], np.int64) for one in hits]
            for collected, positions in zip(rows, found, strict=True):
                collected.append(layout.rows_of(layout.live[positions]))
            continue
        for collected, near in zip(rows, _near(block, inverted, queries, k, tracks, columns), strict=True):
            collected.append(layout.rows_of(np.unique(layout.tracks_of(near + start))))
    results = []
    for number, collected in enumerate(rows):
        candidates = np.sort(np.concatenate([np.zeros(0, np.int64), *collected]))
        column = None if columns is None else int(columns[number])
        expected = Candidates(candidates, np.zeros(len(candidates), np.float32))
        results.append(rank_exactly(layout, queries[number], expected, k, column))
    return results


def _near(
    block: Block, inverted: Any, queries: np.ndarray, k: int, tracks: np.ndarray, columns: np.ndarray | None
) -> list[np.ndarray]:
    """Per query the rows of a block that are near it, of the tracks that are kept."""
    faiss = import_faiss()
    if block.corrections is not None:
        taken = np.zeros((len(queries), 8), np.float32)
        if columns is not None:
            taken[np.arange(len(queries)), columns] = -1
        queries = np.concatenate([queries, taken], axis=1)
    parameters = faiss.SearchParametersIVF(nprobe=inverted.nprobe)
    if not tracks.all():
        bits = np.packbits(block.row_mask(tracks), bitorder="little")
        parameters = faiss.SearchParametersIVF(nprobe=inverted.nprobe, sel=faiss.IDSelectorBitmap(bits))
    _, found = inverted.search(queries, min(ROWS_PER_TRACK * k, len(block.embeddings)), params=parameters)
    return [one[one >= 0] for one in found]
