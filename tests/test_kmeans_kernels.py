"""Every kernel of this machine through Python, on rows that hypothesis makes: float64 is the truth."""

import re

import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gdig import KMeans, SketchStore, _native
from gdig.errors import GdigError
from tests.support.profiles import examples

EPS = 2.0**-23
# Rows whose squared norm reaches this are refused: a distance between two of them must not overflow float32.
MAX_SQUARED_NORM = float(np.finfo(np.float32).max) / 8


def model_of(centers: np.ndarray, kernel: str) -> KMeans:
    model = KMeans(len(centers), init=centers, kernel=kernel)
    model.cluster_centers_ = np.ascontiguousarray(centers, np.float32)
    return model


def score_bounds(kernel: str, x: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """How far |c|^2/2 - x.c of each row x and centroid c, [n, K], may be off, up to what all centroids share.

    float32: dim + 2 roundings of sums below |x||c| + |c|^2/2, and what a subnormal number loses. bfloat16: less the
    mean m of the centroids both factors round by 2^-8, so (1 + 2^-8)^2 - 1 = 2^-7 + 2^-16 of the product; then float32,
    in which x - m, c - m and the half norm were rounded too; and numbers below 2^-126 count as zero.
    """
    dim = x.shape[1]

    def product(m: np.ndarray) -> np.ndarray:
        return np.linalg.norm(x - m, axis=1)[:, None] * np.linalg.norm(centers - m, axis=1)

    if "bf16" not in kernel:
        return (dim + 2) * (EPS * (product(np.zeros(dim)) + (centers**2).sum(1) / 2) + 2.0**-150)
    middle = centers.mean(0).astype(np.float32).astype(np.float64)
    norms = np.linalg.norm(x - middle, axis=1)[:, None] + np.linalg.norm(centers - middle, axis=1)
    rounding = 2.0**-7 + 2.0**-16 + (dim + 5) * EPS
    return rounding * product(middle) + EPS * ((centers - middle) ** 2).sum(1) + dim * 2.0**-125 * (1 + norms)


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Rows [n, d], finite or not, and centroids [K, d] of numbers that rows may have."""
    dtype = draw(st.sampled_from([np.float16, np.float32, np.float64]))
    n, k, dim = draw(st.integers(0, 40)), draw(st.integers(1, 40)), draw(st.integers(1, 70))
    limit = 60_000 if dtype == np.float16 else draw(st.sampled_from([2.0, 1e-40, 2.0**55]))
    width = 16 if dtype == np.float16 else 32
    limit = float(np.float16(limit) if width == 16 else np.float32(limit))
    finite = st.floats(-limit, limit, width=width)
    x = draw(hnp.arrays(dtype, (n, dim), elements=finite))
    c = draw(hnp.arrays(np.float32, (k, dim), elements=finite))
    if n and draw(st.booleans()):
        worst = [np.nan, np.inf, -np.inf] + ([] if dtype == np.float16 else [3e19, -1e38])
        for _ in range(draw(st.integers(1, 3))):
            x[draw(st.integers(0, n - 1)), draw(st.integers(0, dim - 1))] = draw(st.sampled_from(worst))
    return x, c


@pytest.mark.parametrize("kernel", [kernel for kernel in _native.kernels() if "int8" not in kernel])
@settings(max_examples=examples(60), deadline=None, suppress_health_check=list(HealthCheck))
@given(problem=problems())
def test_the_nearest_or_the_number_of_the_bad_row(kernel, problem):
    x, centers = problem
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = x.astype(np.float32).astype(np.float64)
        bad = np.flatnonzero(~((rounded**2).sum(1) < MAX_SQUARED_NORM))
    model = model_of(centers, kernel)
    if len(bad):
        column = np.flatnonzero(~np.isfinite(rounded[bad[0]]))
        place = f"row {bad[0]}, column {column[0]}:" if len(column) else f"row {bad[0]}: expected a squared norm below"
        with pytest.raises(GdigError, match=re.escape(place)):
            model.predict(x)
        return
    labels, distances = model.predict_with_distances(x)
    c = centers.astype(np.float64)
    scores = (c**2).sum(1) / 2 - rounded @ c.T
    rows = np.arange(len(x))
    nearest = scores.argmin(1) if len(x) else labels
    bounds = score_bounds(kernel, rounded, c)
    assert (scores[rows, labels] - scores[rows, nearest] <= bounds[rows, labels] + bounds[rows, nearest]).all()
    # dim + 3 roundings of a sum of one sign, half as many after the root, which rounds too; below 2^-126 a square is
    # off by 2^-150, and the root of dim of those is 2^-75 sqrt(dim).
    exact = np.linalg.norm(rounded - c[labels], axis=1)
    dim = x.shape[1]
    np.testing.assert_allclose(distances, exact, rtol=(dim + 4) / 2 * EPS + EPS, atol=2.0**-75 * (dim + 1) ** 0.5)
    # A row does not depend on its neighbours, and a float32 kernel not on which one it is.
    np.testing.assert_array_equal(model.predict(x[::-1].copy()), labels[::-1])
    if "bf16" not in kernel:
        np.testing.assert_array_equal(model_of(centers, "scalar").predict(x), labels)


@pytest.mark.parametrize("kernel", _native.kernels())
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8"])
def test_rows_of_a_store_in_every_kernel(tmp_path, dtype, kernel):
    """One and many centroids, K = n, rows all equal: what comes out is what the stored numbers say."""
    if "int8" in kernel and dtype != "int8":
        pytest.skip("for int8 rows")
    x = np.random.default_rng(1).standard_normal((70, 33), dtype=np.float32)
    x[40:] = x[40]
    with SketchStore.create(tmp_path / dtype, 33, dtype=dtype, rows_per_shard=32) as store:
        store.append(x)
    stored = np.concatenate([store.rows_float32(i) for i in range(3)])
    for k in (1, 31, 33, 70):
        model = KMeans(k, init=stored[:k], max_iter=3, tol=0, train_rows="all", kernel=kernel).fit(store)
        assert model.counts_.sum() == 70
        labels, distances = model.predict_with_distances(store)
        assert len(set(labels[40:])) == 1
        exact = np.linalg.norm(stored.astype(np.float64) - model.cluster_centers_[labels], axis=1)
        np.testing.assert_allclose(distances, exact, rtol=(33 + 4) * EPS, atol=1e-6)
    # Each row is a centroid, or a mean of 30 equal rows, whose sum rounds 30 times and whose quotient once.
    assert model.inertia_ <= 30 * (stored[40].astype(np.float64) ** 2).sum() * (31 * EPS) ** 2
