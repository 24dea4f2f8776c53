"""Linear canonical correlation analysis (CCA): a baseline that needs no training by gradients."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from viml_hf.errors import ViMLError


@dataclass(frozen=True, eq=False)
class LinearCCA:
    """A fitted CCA: two linear maps into one space, in which matching items correlate."""

    query_mean: np.ndarray  # (query_dim,)
    query_scale: np.ndarray  # (query_dim,), standard deviations; 1 where a feature is constant
    query_weights: np.ndarray  # (query_dim, dimensions), from standardised queries to canonical variates
    audio_mean: np.ndarray  # (audio_dim,)
    audio_scale: np.ndarray  # (audio_dim,)
    audio_weights: np.ndarray  # (audio_dim, dimensions)
    correlations: np.ndarray  # (dimensions,) in [0, 1], falling: the canonical correlations, shrunk by the ridge

    def embed_queries(self, queries: Any) -> np.ndarray:
        """Embed queries `(n, query_dim)` as `(n, dimensions)`: canonical variates times their correlations.

        A direction counts by how much it tells about the other side (as in Gong et al., IJCV 2014, with power 1).
        """
        rows = _checked("queries", queries, len(self.query_mean))
        return (rows - self.query_mean) / self.query_scale @ self.query_weights * self.correlations

    def embed_audio(self, audio: Any) -> np.ndarray:
        """Embed music `(n, audio_dim)` as `(n, dimensions)`, to be compared by the cosine with queries."""
        rows = _checked("audio", audio, len(self.audio_mean))
        return (rows - self.audio_mean) / self.audio_scale @ self.audio_weights * self.correlations


def fit_cca(queries: Any, audio: Any, dimensions: int = 32, ridge: float = 0.1) -> LinearCCA:
    """Fit a ridge-regularised linear CCA to queries `(n, query_dim)` and the music of the same items `(n, audio_dim)`.

    With standardised inputs X and Y, `Cxx = X'X/n + ridge * I` and likewise Cyy, the canonical correlations are the
    singular values of `Cxx^-1/2 (X'Y/n) Cyy^-1/2`. The common space has at most as many dimensions as the smaller
    width. The ridge is added to the variances, which are 1: 0 is plain CCA, which needs many more items than features.
    With a few hundred items, 1 or more can be much better: choose it on validation items.

    Example:
        >>> video = np.random.default_rng(0).standard_normal((100, 6))
        >>> cca = fit_cca(video, video @ np.ones((6, 3)), dimensions=1, ridge=1e-6)
        >>> cca.embed_queries(video).shape, round(float(cca.correlations[0]), 3)
        ((100, 1), 1.0)
    """
    x, y = _checked("queries", queries), _checked("audio", audio)
    if len(x) != len(y) or len(x) < 2:
        raise ViMLError(f"queries has {len(x)} rows, audio {len(y)}; accepted: at least 2, the same items in both")
    largest = min(x.shape[1], y.shape[1])
    if not 1 <= dimensions <= largest:
        raise ViMLError(f"dimensions={dimensions}; accepted: 1 to {largest}, the smaller width")
    if not 0 <= ridge < np.inf:
        raise ViMLError(f"ridge={ridge}; accepted: 0 or more, such as 0.1")
    x_mean, x_scale, x = _standardised(x)
    y_mean, y_scale, y = _standardised(y)
    x_root, y_root = _root("queries", x, ridge), _root("audio", y, ridge)
    # The Cholesky factor L serves as the root: L^-1 differs from C^-1/2 by a rotation only.
    whitened = np.linalg.solve(y_root, np.linalg.solve(x_root, x.T @ y / len(x)).T).T
    left, correlations, right = np.linalg.svd(whitened, full_matrices=False)
    return LinearCCA(
        x_mean,
        x_scale,
        np.linalg.solve(x_root.T, left[:, :dimensions]),
        y_mean,
        y_scale,
        np.linalg.solve(y_root.T, right[:dimensions].T),
        np.minimum(correlations[:dimensions], 1.0),
    )


def _standardised(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean, standard deviation (1 for constant features) and standardised rows."""
    mean, scale = rows.mean(axis=0), rows.std(axis=0)
    # A constant feature varies by rounding only, which must not be scaled up.
    scale[scale <= 1e-12 * np.abs(rows).max(axis=0)] = 1.0
    return mean, scale, (rows - mean) / scale


def _root(name: str, rows: np.ndarray, ridge: float) -> np.ndarray:
    """Lower triangular `(dim, dim)` root of the covariance plus ridge."""
    covariance = rows.T @ rows / len(rows) + ridge * np.eye(rows.shape[1])
    # Cholesky alone accepts singular matrices that rounding has made regular.
    if ridge > 0 or np.linalg.matrix_rank(covariance, hermitian=True) == len(covariance):
        try:
            return np.linalg.cholesky(covariance)
        except np.linalg.LinAlgError:
            pass
    raise ViMLError(
        f"{name}: {len(rows)} rows of {rows.shape[1]} features that depend on each other, with ridge={ridge}; give "
        "more items or a larger ridge, such as 0.1"
    )


def _checked(name: str, rows: Any, width: int | None = None) -> np.ndarray:
    """Rows `(n, dim)` float64."""
    array = np.asarray(rows, dtype=np.float64)
    if array.ndim != 2 or 0 in array.shape or width not in (None, array.shape[1]):
        raise ViMLError(f"{name}: shape {array.shape}; accepted: (n, {width or 'dim'}), one row per item")
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        raise ViMLError(f"{name}: row {np.argmin(finite)} holds NaN or infinity; accepted: finite numbers")
    return array
