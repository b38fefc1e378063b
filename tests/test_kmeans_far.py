"""k-means on rows far from the origin: what float32 tells apart is found, and a warning says where it does not."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from gdig import KMeans, SketchStore, _native

N, DIM, K = 1_200, 6, 5
RNG = np.random.default_rng(4)
OWN = RNG.integers(0, K, N)
# Deviation 1 in each column, and centres so far apart that no row lies between two.
BLOBS = 20 * RNG.standard_normal((K, DIM))[OWN] + RNG.standard_normal((N, DIM))
START = np.array([np.flatnonzero(k == OWN)[0] for k in range(K)])


def fitted(x: np.ndarray, **options: object) -> KMeans:
    return KMeans(K, init=x[START], train_rows="all", n_threads=1, **options).fit(x)  # type: ignore[arg-type]


@pytest.mark.parametrize("shift", [30_000.0, -30_000.0, 1e6])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_blobs_are_found_wherever_they_lie(shift: float, dtype: type) -> None:
    x = (BLOBS + shift).astype(dtype)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        models = {kernel: fitted(x, kernel=kernel) for kernel in _native.kernels() if "int8" not in kernel}
    for kernel, model in models.items():
        np.testing.assert_array_equal(model.labels_, OWN, err_msg=kernel)
        if "bf16" not in kernel:
            assert model.cluster_centers_.tobytes() == models["scalar"].cluster_centers_.tobytes()
    # Numbers are rounded to steps of float32, and the centroids once more.
    step = float(np.spacing(np.float32(abs(shift))))
    means = np.array([BLOBS[k == OWN].mean(0) + shift for k in range(K)])
    np.testing.assert_allclose(models["scalar"].cluster_centers_, means, rtol=0, atol=step + 1e-4)
    exact = sum(np.square(BLOBS[k == OWN] - BLOBS[k == OWN].mean(0)).sum() for k in range(K))
    # A rounded number is off by half a step, so is a centroid; the squares of the sums grow by as much.
    assert models["scalar"].inertia_ == pytest.approx(exact, rel=2 * step + 1e-5)


def test_k_means_plus_plus_finds_the_same_blobs_as_scikit_learn() -> None:
    peer = pytest.importorskip("sklearn.cluster")
    metrics = pytest.importorskip("sklearn.metrics")
    x = (BLOBS + 30_000).astype(np.float32)
    best = max((KMeans(K, random_state=seed, n_threads=1).fit(x) for seed in range(5)), key=lambda m: -m.inertia_)
    theirs = peer.KMeans(K, n_init=5, random_state=0).fit(x)
    assert metrics.v_measure_score(OWN, best.labels_) == metrics.v_measure_score(OWN, theirs.labels_) == 1


def test_a_few_rows_elsewhere_do_not_matter() -> None:
    """As a column of times in which some are missing, written as 0."""
    x = (BLOBS + 30_000).astype(np.float32)
    x[START[0]] = x[START[1]]
    x[:40:4] = 0
    own = np.where(np.isin(np.arange(N), np.arange(0, 40, 4)), K, OWN)
    start = np.vstack([x[[np.flatnonzero(own == k)[-1] for k in range(K)]], np.zeros(DIM, np.float32)])
    model = KMeans(K + 1, init=start, train_rows="all", n_threads=1).fit(x)
    assert (model.labels_ == own).mean() > 0.998
    # Ten rows of 0 less the middle are added up, and it is added again: ten roundings of float32.
    assert np.abs(model.cluster_centers_[K]).max() <= 10 * 30_000 * 2.0**-24


def test_times_in_seconds() -> None:
    """float64 holds them to the microsecond, float32 to two minutes; days apart, that is enough."""
    times = 1_700_000_000 + 86_400 * (np.array([0.0, 40, 90])[np.arange(300) % 3] + RNG.uniform(-3, 3, 300))
    model = KMeans(3, n_threads=1).fit(times[:, None])
    assert len({tuple(np.flatnonzero(model.labels_ == k) % 3) for k in range(3)}) == 3
    for k in range(3):
        assert len(set(np.flatnonzero(model.labels_ == k) % 3)) == 1


def test_threads_shards_and_a_resumed_fit_do_not_change_the_bits(tmp_path) -> None:
    x = (np.tile(BLOBS, (10, 1)) + RNG.standard_normal((10 * N, DIM)) + 30_000).astype(np.float32)
    options = {"random_state": 3, "tol": 0, "train_rows": "all"}
    expected = KMeans(40, max_iter=6, n_threads=1, **options).fit(x)
    for rows_per_shard, n_threads in ((777, 2), (12_000, 3)):
        with SketchStore.create(
            tmp_path / str(rows_per_shard), DIM, dtype="float32", rows_per_shard=rows_per_shard
        ) as store:
            store.append(x)
        KMeans(40, max_iter=3, n_threads=n_threads, **options).fit(store, resume_file=tmp_path / "fit")
        model = KMeans(40, max_iter=6, n_threads=n_threads, **options).fit(store, resume_file=tmp_path / "fit")
        assert model.cluster_centers_.tobytes() == expected.cluster_centers_.tobytes()
        assert (model.inertia_, model.n_iter_) == (expected.inertia_, 6)
        (tmp_path / "fit").unlink()


@pytest.mark.parametrize(
    ("x", "what"),
    [
        (BLOBS.astype(np.float32) + np.float32(1e9), "the steps of float32"),
        (BLOBS + 1e9, "rounding to float32"),
        ((1_700_000_000 * 10**9 + (BLOBS * 10**9).astype(np.int64)), "rounding to float32"),
    ],
)
def test_a_warning_says_when_float32_cannot_tell_rows_apart(x: np.ndarray, what: str) -> None:
    with pytest.warns(
        RuntimeWarning, match=f"so far from the origin that .*{what}.*subtract each column's mean"
    ) as seen:
        fitted(x)
    assert len(seen) == 1 and seen[0].filename == __file__


@pytest.mark.parametrize(
    "x",
    [
        BLOBS,
        np.full((N, DIM), 0.1),
        np.round(BLOBS) + 2.0**20,
        np.where(np.arange(N)[:, None] % 2 == 0, 0.1, 1e6),
        np.zeros((N, DIM)),
    ],
    ids=["around the origin", "all equal", "whole numbers", "two points", "zeros"],
)
def test_no_warning_without_a_reason(x: np.ndarray) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        KMeans(K, n_threads=1).fit(x)
