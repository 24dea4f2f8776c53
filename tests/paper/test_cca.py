import numpy as np
import pytest

from viml_hf.errors import ViMLError
from viml_hf.evaluation.ranks import retrieval_ranks
from viml_hf.paper.cca import fit_cca


def paired(n, seed, noise=1.0):
    """Two views of two hidden factors, in units of their own."""
    rng = np.random.default_rng(seed)
    factors = rng.standard_normal((n, 2))
    x = np.c_[factors @ rng.standard_normal((2, 5)) + noise * rng.standard_normal((n, 5))] * [1, 50, 0.01, 3, 1] + 7
    y = factors @ rng.standard_normal((2, 4)) + noise * rng.standard_normal((n, 4))
    return x, y


def inverse_root(matrix):
    values, vectors = np.linalg.eigh(matrix)
    return vectors @ np.diag(values**-0.5) @ vectors.T


def by_definition(x, y, ridge):
    """Canonical correlations from the symmetric roots of the covariances."""
    x, y = ((rows - rows.mean(0)) / rows.std(0) for rows in (x, y))
    n = len(x)
    cxx, cyy = x.T @ x / n + ridge * np.eye(x.shape[1]), y.T @ y / n + ridge * np.eye(y.shape[1])
    return np.linalg.svd(inverse_root(cxx) @ (x.T @ y / n) @ inverse_root(cyy), compute_uv=False)


@pytest.mark.parametrize("ridge", [0.0, 0.1, 3.0])
def test_correlations_are_those_of_the_definition(ridge):
    x, y = paired(80, 0)
    cca = fit_cca(x, y, dimensions=4, ridge=ridge)
    np.testing.assert_allclose(cca.correlations, by_definition(x, y, ridge), rtol=1e-9)
    assert (np.diff(cca.correlations) <= 0).all()


def test_without_a_ridge_variates_are_white_and_correlate_in_pairs_only():
    x, y = paired(80, 1)
    cca = fit_cca(x, y, dimensions=4, ridge=0)
    variates = cca.embed_queries(x) / cca.correlations, cca.embed_audio(y) / cca.correlations
    for one in variates:
        np.testing.assert_allclose(one.T @ one / 80, np.eye(4), atol=1e-9)
    np.testing.assert_allclose(variates[0].T @ variates[1] / 80, np.diag(cca.correlations), atol=1e-9)
    for k in range(4):
        assert np.corrcoef(variates[0][:, k], variates[1][:, k])[0, 1] == pytest.approx(cca.correlations[k])


def test_a_linear_relation_is_recovered_on_other_items():
    rng = np.random.default_rng(3)
    mixing = rng.standard_normal((6, 8))
    x = rng.standard_normal((300, 6))
    y = x @ mixing + 0.01 * rng.standard_normal((300, 8))
    cca = fit_cca(x[:200], y[:200], dimensions=6, ridge=1e-4)
    assert (cca.correlations > 0.99).all()
    assert (retrieval_ranks(cca.embed_queries(x[200:]), cca.embed_audio(y[200:])) == 1).all()
    unrelated = fit_cca(x[:200], rng.standard_normal((200, 8)), dimensions=6, ridge=1e-4)
    assert np.median(retrieval_ranks(unrelated.embed_queries(x[200:]), unrelated.embed_audio(y[200:]))) > 20


def test_units_do_not_matter_and_constants_are_ignored():
    x, y = paired(50, 5)
    plain = fit_cca(x, y, dimensions=3)
    constants = np.tile([0.0, 0.1], (50, 1))
    scaled = fit_cca(x * 1000 - 3, np.c_[y, constants], dimensions=3)
    np.testing.assert_allclose(scaled.correlations, plain.correlations, rtol=1e-9)
    ranks = retrieval_ranks(plain.embed_queries(x), plain.embed_audio(y))
    # Elsewhere a constant may come out a little different: nothing was learned from it.
    other = retrieval_ranks(scaled.embed_queries(x * 1000 - 3), scaled.embed_audio(np.c_[y, constants + 1e-9]))
    np.testing.assert_array_equal(other, ranks)


def test_a_ridge_allows_more_features_than_items():
    rng = np.random.default_rng(7)
    x, y = rng.standard_normal((10, 30)), rng.standard_normal((10, 20))
    assert fit_cca(x, y, dimensions=5, ridge=0.1).correlations.shape == (5,)
    with pytest.raises(ViMLError, match=r"queries: 10 rows of 30 features that depend on each other, with ridge=0"):
        fit_cca(x, y, dimensions=5, ridge=0)


@pytest.mark.parametrize(
    ("x", "y", "options", "message"),
    [
        (np.ones((3, 2)), np.ones((4, 2)), {}, "queries has 3 rows, audio 4"),
        (np.ones((1, 2)), np.ones((1, 2)), {}, "queries has 1 rows"),
        (np.ones(3), np.ones((3, 2)), {}, r"queries: shape \(3,\)"),
        (np.ones((3, 2)), np.array([[1, 1], [1, np.nan], [1, 1]]), {}, "audio: row 1 holds NaN"),
        (np.ones((3, 2)), np.ones((3, 4)), {"dimensions": 3}, "dimensions=3; accepted: 1 to 2"),
        (np.ones((3, 2)), np.ones((3, 4)), {"dimensions": 0}, "dimensions=0"),
        (np.ones((3, 2)), np.ones((3, 4)), {"dimensions": 1, "ridge": -1}, "ridge=-1"),
    ],
)
def test_unusable_arguments_are_refused(x, y, options, message):
    with pytest.raises(ViMLError, match=message):
        fit_cca(x, y, **options)
    cca = fit_cca(*paired(50, 8), dimensions=2)
    for embed, width in ((cca.embed_queries, 5), (cca.embed_audio, 4)):
        with pytest.raises(ViMLError, match=rf"shape \(3, 9\); accepted: \(n, {width}\)"):
            embed(np.ones((3, 9)))
