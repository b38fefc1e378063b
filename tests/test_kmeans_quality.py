"""What k-means finds beside scikit-learn's float32 Lloyd, from the same start and after as many iterations."""

import warnings

import numpy as np
import pytest

from gdig import KMeans, SketchStore, _native

pytestmark = pytest.mark.slow


def inertia(x: np.ndarray, centers: np.ndarray) -> float:
    """In float64."""
    x, centers = x.astype(np.float64), centers.astype(np.float64)
    scores = (centers**2).sum(1) - 2 * x @ centers.T
    return float((x**2).sum() + scores.min(1).sum())


def overlapping(n: int, dim: int, random_seed: int) -> np.ndarray:
    """Rows around 1,000 centres so close that most lie between several: rounding changes as many labels as it can."""
    rng = np.random.default_rng(random_seed)
    centers = rng.standard_normal((1_000, dim), dtype=np.float32) / 2 + np.float32(0.5)
    return centers[rng.integers(0, len(centers), n)] + rng.standard_normal((n, dim), dtype=np.float32)


@pytest.mark.parametrize("random_seed", [0, 1])
@pytest.mark.parametrize(("dtype", "bound"), [("float16", 1e-4), ("bfloat16", 1e-4), ("int8", 1e-3)])
def test_inertia_beside_scikit_learn(tmp_path, dtype, bound, random_seed):
    """The bounds are the project's targets: float16 and bfloat16 rows on bfloat16 tiles, int8 rows on int8 tiles.

    A thousand rows a centroid, as by default: with a few hundred, Lloyd on its way amplifies any change of a label, and
    scikit-learn from a start that differs by a thousandth ends 1e-3 away from itself, in either direction.
    """
    from sklearn.cluster import KMeans as Peer

    x = overlapping(30_000, 64, random_seed)
    with SketchStore.create(tmp_path / dtype, 64, dtype=dtype, rows_per_shard=12_000) as store:
        store.append(x)
    # Both get the numbers that the store holds: what storing rounded is no matter of k-means.
    stored = np.concatenate([store.rows_float32(i) for i in range(store.n_shards)])
    start = stored[np.random.default_rng(7).choice(len(x), 28, replace=False)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it has not converged, which is meant
        peer = Peer(28, init=start, n_init=1, max_iter=4, tol=0, algorithm="lloyd").fit(stored)
    truth = inertia(stored, peer.cluster_centers_)
    for kernel in _native.kernels():
        if kernel == "scalar" or ("int8" in kernel and dtype != "int8"):
            continue
        ours = KMeans(28, init=start, max_iter=4, tol=0, train_rows="all", kernel=kernel).fit(store)
        assert ours.n_iter_ == peer.n_iter_ == 4
        assert inertia(stored, ours.cluster_centers_) == pytest.approx(truth, rel=bound), kernel
