"""KMeans in scikit-learn's manner."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from gdig import KMeans, SketchStore
from gdig.errors import GdigError, InputError, NotFittedError
from gdig.store.tensor_file import read_tensors

RNG = np.random.default_rng(0)
X = (RNG.standard_normal((6, 5))[RNG.integers(0, 6, 600)] * 4 + RNG.standard_normal((600, 5))).astype(np.float32)


def test_scikit_learns_checks_pass() -> None:
    checks = pytest.importorskip("sklearn.utils.estimator_checks", reason="scikit-learn is not installed")
    # The draws of k-means++ go by the number of a row, so rows that are there twice draw others than a row of weight 2
    # does. scikit-learn leaves this check out for its own KMeans, for the same reason. test_weights_stand_for_copies
    # compares the two from one start.
    left_out = {"check_sample_weight_equivalence_on_dense_data": "k-means++ draws other rows"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = checks.check_estimator(
            KMeans(3, n_threads=1), expected_failed_checks=left_out, on_fail=None, on_skip=None
        )
    assert len(results) > 40
    assert {result["check_name"] for result in results if result["status"] == "xfail"} <= set(left_out)
    failed = [(r["check_name"], str(r["exception"])) for r in results if r["status"] == "failed"]
    assert not failed


def test_in_a_pipeline_and_in_a_search() -> None:
    pytest.importorskip("sklearn")
    from sklearn.base import clone
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    pipeline = make_pipeline(StandardScaler(), KMeans(6, n_threads=1))
    assert pipeline.fit_transform(X).shape == (600, 6)
    assert pipeline.get_feature_names_out()[5] == "kmeans5"
    assert clone(KMeans(4, tol=0.5)).get_params() == KMeans(4, tol=0.5).get_params()
    search = GridSearchCV(KMeans(n_threads=1), {"n_clusters": [2, 6]}, cv=2).fit(X)
    assert search.best_params_ == {"n_clusters": 6}


def test_scikit_learn_is_not_needed() -> None:
    code = (
        "import sys; sys.modules['sklearn'] = None\n"
        "from gdig import KMeans\n"
        "model = KMeans(2, n_threads=1).fit([[0, 0], [0, 1], [9, 9]])\n"
        "print(model.labels_.tolist(), model.transform([[0, 0]]).shape, model.score([[9, 9]]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split(" (")[0] in ("[0, 0, 1]", "[1, 1, 0]")


def test_rows_of_every_kind_give_the_same_bits(tmp_path: Path) -> None:
    import pandas

    whole = np.round(X * 9).astype(np.int16)
    expected = KMeans(5, n_threads=1).fit(whole.astype(np.float32))
    kinds = {
        "list": whole.tolist(), "int16": whole, "int64": whole.astype(np.int64), "Fortran": np.asfortranarray(whole),
        "big-endian": whole.astype(">f4"), "strided": np.repeat(whole, 2, axis=0)[::2].astype(np.float32),
        "DataFrame": pandas.DataFrame(whole), "objects": whole.astype(object), "unaligned": unaligned(whole),
    }  # fmt: skip
    for kind, rows in kinds.items():
        model = KMeans(5, n_threads=1).fit(rows)
        assert model.cluster_centers_.tobytes() == expected.cluster_centers_.tobytes(), kind
        np.testing.assert_array_equal(model.labels_, expected.labels_, err_msg=kind)
        np.testing.assert_array_equal(model.predict(rows), expected.labels_, err_msg=kind)
    assert expected.n_features_in_ == 5
    assert (expected.labels_.dtype, expected.labels_.shape) == (np.int32, (600,))
    np.testing.assert_array_equal(KMeans(5, n_threads=1).fit_predict(whole), expected.labels_)


def unaligned(x: np.ndarray) -> np.ndarray:
    """The same numbers at an odd address."""
    memory = np.empty(x.size * 4 + 1, np.uint8)[1:].view(np.float32).reshape(x.shape)
    memory[...] = x
    return memory


def test_labels_of_a_store_are_not_kept(tmp_path: Path) -> None:
    with SketchStore.create(tmp_path / "store", 5, dtype="float32", rows_per_shard=200) as store:
        store.append(X)
    model = KMeans(5, n_threads=1).fit(X)
    of_store = model.fit(store)
    assert not hasattr(of_store, "labels_")
    np.testing.assert_array_equal(model.fit_predict(store), model.fit_predict(X))


@pytest.mark.parametrize("unit_normalize", [False, True])
def test_transform_and_score_are_the_distances(tmp_path: Path, unit_normalize: bool) -> None:
    valid = (np.arange(600) % 9 != 0).astype(np.uint8)
    store = SketchStore.create(tmp_path / "store", 5, dtype="float32", rows_per_shard=250)
    for i in range(3):
        rows = slice(250 * i, 250 * (i + 1))
        store.write_shard(i, {"sketch": X[rows], "valid": valid[rows]})
    model = KMeans(4, unit_normalize=unit_normalize, n_threads=1).fit(store)
    x = X.astype(np.float64)
    x = x / np.linalg.norm(x, axis=1, keepdims=True) if unit_normalize else x
    exact = np.linalg.norm(x[:, None] - model.cluster_centers_.astype(np.float64), axis=2)
    # A norm, its quotients and the result are rounded to float32; the squares are off by roundings of float64.
    bound = 8 * 2.0**-24 * np.linalg.norm(x, axis=1).max() + 1e-6
    np.testing.assert_allclose(model.transform(X), exact, rtol=0, atol=bound)
    far = model.transform(store)
    assert (np.isnan(far).all(1) == (valid == 0)).all()
    np.testing.assert_array_equal(far[valid == 1], model.transform(X)[valid == 1])
    nearest = exact.min(1) ** 2
    weight = RNG.uniform(0, 3, 600)
    assert model.score(store) == pytest.approx(-nearest[valid == 1].sum(), rel=1e-5)
    assert model.score(X, sample_weight=weight) == pytest.approx(-(nearest * weight).sum(), rel=1e-5)


def test_weights_stand_for_copies() -> None:
    copies = RNG.integers(0, 4, 600)
    options = {"init": X[:5], "max_iter": 5, "tol": 0, "train_rows": "all", "n_threads": 1}
    repeated = KMeans(5, **options).fit(np.repeat(X, copies, axis=0))
    for scale in (1, 1e-9, 1e12):
        weighted = KMeans(5, **options).fit(X, sample_weight=copies * scale)
        # A mean of n numbers is off by n + 1 roundings of float32 at most.
        np.testing.assert_allclose(
            weighted.cluster_centers_, repeated.cluster_centers_, atol=copies.sum() * 2.0**-23 * np.abs(X).max()
        )
        assert weighted.inertia_ == pytest.approx(repeated.inertia_ * scale, rel=1e-4)
    assert weighted.counts_.sum() == (copies > 0).sum()
    for bad, message in (
        (np.ones(3), r"sample_weight.shape == \(3,\), expected \(600,\)"),
        (np.full(600, -1.0), r"sample_weight\[0\]=-1.0: expected finite weights"),
        (np.zeros(600), "all weights are zero"),
    ):
        with pytest.raises(InputError, match=message):
            KMeans(5).fit(X, sample_weight=bad)


def test_a_random_state_of_any_kind() -> None:
    def centers(random_state: object) -> bytes:
        return KMeans(40, max_iter=1, random_state=random_state, n_threads=1).fit(X).cluster_centers_.tobytes()  # type: ignore[arg-type]

    assert centers(np.int64(3)) == centers(3)
    assert centers(np.random.RandomState(1)) == centers(np.random.RandomState(1))
    assert centers(np.random.default_rng(1)) == centers(np.random.default_rng(1))
    assert centers(None) != centers(None)
    with pytest.raises(InputError, match="random_state='1'"):
        centers("1")


def test_numpys_numbers_are_saved(tmp_path: Path) -> None:
    model = KMeans(
        np.int64(4), random_state=np.uint8(7), max_iter=np.int32(5), tol=np.float32(0.5), unit_normalize=np.bool_(True)
    )
    model.fit(X).save(tmp_path / "model.safetensors")
    parameters = json.loads(read_tensors(tmp_path / "model.safetensors")[1]["kmeans"])["parameters"]
    assert (parameters["n_clusters"], parameters["random_state"], parameters["unit_normalize"]) == (4, 7, True)
    again = KMeans.load(tmp_path / "model.safetensors")
    assert again.n_features_in_ == 5
    np.testing.assert_array_equal(again.predict(X), model.labels_)
    KMeans(4, init=X[:4].tolist(), random_state=np.random.default_rng()).fit(X).save(tmp_path / "model.safetensors")
    assert KMeans.load(tmp_path / "model.safetensors").random_state is None


def test_errors_are_those_that_users_of_scikit_learn_catch() -> None:
    sklearn = pytest.importorskip("sklearn.exceptions")
    for kind in (GdigError, NotFittedError, ValueError, AttributeError, sklearn.NotFittedError):
        with pytest.raises(kind, match="call fit"):
            KMeans(2).predict(X)
    bad = X.copy()
    bad[7, 2] = np.nan
    for kind in (GdigError, InputError, ValueError):
        with pytest.raises(kind, match="row 7, column 2"):
            KMeans(2, train_rows="all").fit(bad)
        with pytest.raises(kind, match="row 7, column 2: expected a finite number, got NaN"):
            KMeans(2).fit(X).transform(bad)
        with pytest.raises(kind, match="number of rows, 600 "):
            KMeans(601).fit(X)
