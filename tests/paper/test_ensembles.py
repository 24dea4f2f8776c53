import numpy as np
import pytest

from viml_hf.errors import ViMLError
from viml_hf.evaluation.metrics import retrieval_metrics
from viml_hf.evaluation.pools import Pool, make_pools
from viml_hf.evaluation.ranks import retrieval_ranks
from viml_hf.paper.ensembles import ensemble_ranks, join_embeds, tune_alpha


def system(n, dim, seed, noise):
    """Query and audio embeddings that match up to noise, of any length."""
    rng = np.random.default_rng(seed)
    queries = rng.standard_normal((n, dim))
    return queries * rng.uniform(0.1, 9, (n, 1)), queries + noise * rng.standard_normal((n, dim))


def cosines(queries, audio):
    return (queries / np.linalg.norm(queries, axis=1)[:, None]) @ (audio / np.linalg.norm(audio, axis=1)[:, None]).T


@pytest.mark.parametrize("alpha", [0, 0.05, 0.3, 0.5, 1])
def test_the_cosine_of_joined_embeddings_is_the_weighted_sum_of_cosines(alpha):
    first, second = system(20, 5, 0, 2.0), system(20, 9, 1, 1.0)
    queries, audio = (join_embeds(*pair, alpha) for pair in zip(first, second, strict=True))
    assert queries.shape == (20, 14)
    np.testing.assert_allclose(np.linalg.norm(queries, axis=1), 1, rtol=1e-12)
    expected = (1 - alpha) * cosines(*first) + alpha * cosines(*second)
    np.testing.assert_allclose(queries @ audio.T, expected, atol=1e-12)


@pytest.mark.parametrize("alpha", [0, 0.35, 1])
def test_ranks_are_those_of_the_explicit_sum(alpha):
    first, second = system(60, 6, 2, 2.5), system(60, 4, 3, 1.0)
    for pools in (None, make_pools(60, 25, seed=0)):
        ranks = ensemble_ranks(first, second, alpha, pools=pools)
        scores = (1 - alpha) * cosines(*first) + alpha * cosines(*second)
        for pool in pools or [Pool(np.arange(60), np.arange(60))]:
            for query in pool.queries:
                naive = sum(scores[query, track] >= scores[query, query] - 1e-12 for track in pool.tracks)
                assert ranks[query] == naive
    assert len(set(ranks.tolist())) > 5


@pytest.mark.parametrize(("pool_size", "expected"), [(None, 0.9), (10, 0.7)])
def test_the_tuned_weight_is_the_best_of_the_grid(pool_size, expected):
    first, second = system(120, 6, 5, 3.0), system(120, 12, 55, 1.2)
    pools = pool_size and make_pools(120, pool_size, seed=1)
    losses = {
        round(alpha, 2): retrieval_metrics(ensemble_ranks(first, second, alpha, pools=pools))["mean_log_rank"]
        for alpha in np.arange(21) / 20
    }
    alpha = tune_alpha(first, second, pools=pools)
    assert losses[alpha] == pytest.approx(min(losses.values()))
    assert alpha == expected  # the second is better, and the first still helps
    assert tune_alpha(second, first, pools=pools) == pytest.approx(1 - alpha)
    assert tune_alpha(first, second, pools=pools, step=0.5) in (0, 0.5, 1)


def test_ties_go_to_the_middle():
    same = system(30, 6, 6, 0.0)
    assert (retrieval_ranks(*same) == 1).all()
    assert tune_alpha(same, same) == 0.5
    # A grid without a middle: the smaller of the two nearest.
    assert tune_alpha(same, same, step=1 / 3) == pytest.approx(1 / 3)


def test_weights_and_steps_that_cannot_be_are_refused():
    for alpha in (-0.1, 1.1, np.nan):
        with pytest.raises(ViMLError, match=f"alpha={alpha}; accepted: 0"):
            join_embeds(np.ones((2, 2)), np.ones((2, 2)), alpha)
    for step in (0, 0.3, 2):
        with pytest.raises(ViMLError, match=f"step={step}; accepted"):
            tune_alpha(system(4, 2, 0, 1), system(4, 2, 1, 1), step=step)


def test_other_items_are_refused():
    with pytest.raises(ViMLError, match="first has 4 rows, second 5"):
        tune_alpha(system(4, 2, 0, 1), system(5, 2, 1, 1))
    with pytest.raises(ViMLError, match="second: row 1 is all zeros"):
        join_embeds(np.ones((2, 2)), np.array([[1.0], [0.0]]), 0.5)
