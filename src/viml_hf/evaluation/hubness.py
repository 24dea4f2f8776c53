"""Hubs: tracks that are among the first for far more queries than others, and tracks that never are."""

from collections.abc import Sequence

import numpy as np

from viml_hf.evaluation.pools import Pool
from viml_hf.evaluation.ranks import checked_corrections, chunks, unit_rows

FIRST = 10
QUERIES_PER_BLOCK = 256


def hub_figures(
    query_embeds: np.ndarray,
    audio_embeds: np.ndarray,
    *,
    pools: Sequence[Pool] | None = None,
    corrections: np.ndarray | None = None,
) -> dict[str, float]:
    """How unevenly tracks are recommended (Radovanović et al., JMLR 2010); arguments are those of `retrieval_ranks`.

    Returns:
        `skewness`: of the number of queries that a track is among the first 10 of; 0 where hubs and tracks that never
        come balance. `never`: share of tracks, in percent, that are among the first 10 of none.

    Example:
        >>> hub_figures(np.eye(20), np.eye(20))["never"] < 100
        True
    """
    queries, audio = unit_rows("query_embeds", query_embeds), unit_rows("audio_embeds", audio_embeds)
    taken = checked_corrections(corrections, len(audio))
    everything = np.arange(len(queries))
    counts = []
    for pool in [Pool(everything, everything)] if pools is None else pools:
        found = np.zeros(len(pool.tracks), np.int64)
        for rows in chunks(pool.queries, QUERIES_PER_BLOCK):
            scores = queries[rows] @ audio[pool.tracks].T - taken[pool.tracks]
            found += _among_the_first(scores).sum(0)
        counts.append(found)
    occurrence = np.concatenate(counts).astype(np.float64)
    centred, spread = occurrence - occurrence.mean(), occurrence.std()
    skewness = float(np.mean(centred**3) / spread**3) if spread else 0.0
    return {"skewness": skewness, "never": 100 * float(np.mean(occurrence == 0))}


def _among_the_first(scores: np.ndarray) -> np.ndarray:
    """Which tracks are among the first 10 of each query, `(queries, tracks)` bool; of equal ones the earlier."""
    first = min(FIRST, scores.shape[1])
    last = np.partition(scores, -first, axis=1)[:, -first, None]
    above, equal = scores > last, scores == last
    return above | (equal & (equal.cumsum(1) <= first - above.sum(1, keepdims=True)))
