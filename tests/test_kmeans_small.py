"""k-means on very small rows: a warning says so where their squares underflow, and nowhere else."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from gdig import KMeans, SketchStore, _native
from gdig.kmeans.small import least_squared_norm
from gdig.store.gather import gather_sketches

N, DIM, K = 4_000, 64, 8
RNG = np.random.default_rng(3)
OWN = RNG.integers(0, K, N)
BLOBS = 20 * RNG.standard_normal((K, DIM))[OWN] + RNG.standard_normal((N, DIM))
START = np.array([np.flatnonzero(k == OWN)[0] for k in range(K)])
CAUSE = "so small that their squares underflow in float32: largest squared norm .*scale the rows up"
HAS_BF16 = any("bf16" in kernel for kernel in _native.kernels())


def stored(path: Path, x: np.ndarray, dtype: str) -> SketchStore:
    with SketchStore.create(path, DIM, dtype=dtype, rows_per_shard=1_500) as store:  # type: ignore[arg-type]
        store.append(x.astype(np.float32))
    return store


def fitted(rows: SketchStore | np.ndarray, x: np.ndarray, **options: object) -> KMeans:
    """From a row of each blob, so that the labels of a fit that works are known."""
    return KMeans(K, init=x[START].astype(np.float32), n_threads=1, **options).fit(rows)  # type: ignore[arg-type]


def warned(fit: object) -> list[warnings.WarningMessage]:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        fit()  # type: ignore[operator]
    return seen


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [1e-22, 1e-26])
def test_small_rows_of_an_array_are_told(dtype: type, scale: float) -> None:
    x = (BLOBS * scale).astype(dtype)
    with pytest.warns(RuntimeWarning, match=CAUSE) as seen:
        fitted(x, x)
    assert len(seen) == 1 and seen[0].filename == __file__


@pytest.mark.parametrize("scale", [1e-60, 1e-200])
def test_float64_rows_that_float32_takes_for_zero_are_small_and_not_far(scale: float) -> None:
    with pytest.warns(RuntimeWarning, match=CAUSE) as seen:
        KMeans(K, n_threads=1, random_state=0).fit(BLOBS * scale)
    assert len(seen) == 1 and f"e-{round(-np.log10(scale)) * 2 - 4}" in str(seen[0].message)


@pytest.mark.parametrize(
    ("dtype", "scale"), [("float32", 1e-26), ("bfloat16", 1e-21), ("bfloat16", 1e-26), ("int8", 1e-26)]
)
def test_small_rows_of_a_store_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, scale: float
) -> None:
    monkeypatch.delenv("GDIG_KERNEL", raising=False)
    x = BLOBS * scale
    seen = warned(lambda: fitted(stored(tmp_path / "rows", x, dtype), x))
    # Float32 holds the squares of 1e-21; the kernels of bfloat16 do not.
    assert len(seen) == (HAS_BF16 or scale < 1e-22)
    assert all(s.category is RuntimeWarning and "so small that" in str(s.message) for s in seen)


@pytest.mark.parametrize("kernel", [kernel for kernel in _native.kernels() if "int8" not in kernel])
def test_above_the_least_norm_the_blobs_are_found_and_no_warning_is_given(tmp_path: Path, kernel: str) -> None:
    """Just below they are found too, and the warning is there already."""
    store = stored(tmp_path / "exact", BLOBS, "bfloat16")
    least = least_squared_norm(store, kernel, False)
    largest = np.square(BLOBS - BLOBS.mean(0)).sum(1).max()
    for share, warns in ((1.1, False), (0.9, True)):
        x = BLOBS * np.sqrt(share * least / largest)
        rows = stored(tmp_path / str(share), x, "float32")
        models: list[KMeans] = []
        seen = warned(lambda rows=rows, x=x, models=models: models.append(fitted(rows, x, kernel=kernel)))
        assert [s.category for s in seen] == [RuntimeWarning] * warns
        np.testing.assert_array_equal(models[0].predict(rows), OWN)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("unit_normalize", [False, True])
def test_rows_that_float32_holds_give_no_warning(tmp_path: Path, dtype: str, unit_normalize: bool) -> None:
    x = BLOBS * 1e-12
    store = stored(tmp_path / "rows", x, dtype)
    for rows in (store, x, x.astype(np.float32)):
        assert not warned(lambda rows=rows: fitted(rows, x, unit_normalize=unit_normalize))


def test_equal_rows_and_zeros_give_no_warning() -> None:
    for x in (np.zeros((50, 3)), np.full((50, 3), 1e-30), np.full((50, 3), 0.1)):
        assert not warned(lambda x=x: KMeans(2, n_threads=1).fit(x))


def test_rows_to_be_scaled_to_unit_length_may_be_small_but_not_their_squares(tmp_path: Path) -> None:
    x = BLOBS * 1e-24
    with pytest.warns(RuntimeWarning, match=CAUSE):
        fitted(stored(tmp_path / "rows", x, "int8"), x, unit_normalize=True)
    # Far from the origin, what tells the rows apart may be as small as it likes: they are of unit length.
    assert not warned(lambda: fitted(x + 1e-19, x + 1e-19, unit_normalize=True, max_iter=1))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "int8", "float32"])
def test_gathered_rows_have_the_bits_of_whole_shards(tmp_path: Path, dtype: str) -> None:
    store = stored(tmp_path / "rows", BLOBS, dtype)
    whole = np.concatenate([store.rows_float32(shard) for shard in store.shards])
    at = RNG.integers(0, N, 300)
    assert gather_sketches(store, at).tobytes() == whole[at].tobytes()
