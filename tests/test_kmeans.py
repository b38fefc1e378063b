import itertools
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from scipy.sparse import csr_array

from gdig import KMeans, SketchStore, _native
from gdig.errors import GdigError, InputError, NotFittedError, StoreError
from gdig.kmeans import load_labels
from gdig.store.tensor_file import read_tensors, write_tensors


def blobs(n: int, dim: int, k: int, random_seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(random_seed)
    return (rng.standard_normal((k, dim))[rng.integers(0, k, n)] + 0.3 * rng.standard_normal((n, dim))).astype(
        np.float32
    )


def inertia(x: np.ndarray, centers: np.ndarray) -> float:
    x, centers = x.astype(np.float64), centers.astype(np.float64)
    return sum(((row - centers) ** 2).sum(1).min() for row in x)


X = blobs(5000, 24, 20)


def test_inertia_is_that_of_scikit_learn_from_the_same_start():
    from sklearn.cluster import KMeans as Peer

    start = X[:20]
    ours = KMeans(20, init=start, max_iter=6, tol=0, train_rows="all").fit(X)
    peer = Peer(20, init=start, n_init=1, max_iter=6, tol=0, algorithm="lloyd").fit(X.astype(np.float64))
    # The same map of the same labels: a mean of n float32 values is off by (n + 1) units of 2^-24 of the largest at
    # most, and inertia is stationary in the centroids, so what remains are the roundings of the squared distances:
    # dim + 3 units each, of terms of one sign. Rows on a border, if any, cost no more than that either.
    assert ours.n_iter_ == peer.n_iter_ == 6
    assert ours.inertia_ == pytest.approx(peer.inertia_, rel=(24 + 3) * 2.0**-23)
    assert ours.inertia_ == pytest.approx(inertia(X, ours.cluster_centers_), rel=(24 + 3) * 2.0**-23)
    assert (ours.counts_ == np.bincount(ours.predict(X), minlength=20)).all()
    assert ours.counts_.sum() == 5000


def test_plus_plus_starts_no_worse_than_random_rows():
    from sklearn.cluster import KMeans as Peer

    # scikit-learn from random rows, which is also what faiss starts from. Medians over ten seeds of either.
    ours = np.median([KMeans(20, random_state=random_seed).fit(X).inertia_ for random_seed in range(10)])
    peer = np.median(
        [Peer(20, init="random", n_init=1, random_state=random_seed).fit(X).inertia_ for random_seed in range(10)]
    )
    assert ours <= peer


def sources(tmp_path, x):
    """The same float16 rows in every form that KMeans takes."""
    half = x.astype(np.float16)
    np.save(tmp_path / "x.npy", half)
    other = tmp_path / "other"
    for path, rows_per_shard in ((tmp_path / "store", 1000), (other, 333)):
        with SketchStore.create(path, x.shape[1], rows_per_shard=rows_per_shard) as store:
            store.append(half)
    return [
        half,
        half.astype(np.float32),
        half.astype(np.float64),
        np.load(tmp_path / "x.npy", mmap_mode="r"),
        tmp_path / "x.npy",
        str(tmp_path / "store"),
        SketchStore.open(tmp_path / "store"),
        other,
    ]


def test_the_bits_depend_on_neither_form_nor_shards_nor_threads(tmp_path):
    forms = sources(tmp_path, X)
    results: dict[str, set] = {}
    for kernel in _native.kernels():
        if "int8" in kernel:
            continue
        for i, x in enumerate(forms):
            model = KMeans(30, random_state=5, max_iter=5, train_rows=3000, n_threads=1 + i % 3, kernel=kernel).fit(x)
            fitted = (model.cluster_centers_.tobytes(), model.inertia_, model.n_iter_, model.predict(x).tobytes())
            # The float32 kernels agree; each for bfloat16 rounds in a way of its own, and agrees with itself.
            results.setdefault(kernel if "bf16" in kernel else "float32", set()).add(fitted)
    assert [len(fitted) for fitted in results.values()] == [1] * len(results)


def test_the_environment_names_a_kernel(monkeypatch):
    def centers(**options):
        return KMeans(30, random_state=5, max_iter=3, **options).fit(X.astype(np.float16)).cluster_centers_.tobytes()

    scalar = centers(kernel="scalar")
    monkeypatch.setenv("GDIG_KERNEL", "scalar")
    assert centers() == scalar
    monkeypatch.setenv("GDIG_KERNEL", "")
    centers()
    monkeypatch.setenv("GDIG_KERNEL", "vax")
    with pytest.raises(GdigError, match=r"GDIG_KERNEL: .vax.: this machine has scalar, portable"):
        centers()
    assert centers(kernel="scalar") == scalar


@pytest.mark.slow
@pytest.mark.parametrize("random_seed", [3, 4, 5])
@pytest.mark.parametrize(("dtype", "bound"), [("float16", 1e-4), ("bfloat16", 1e-4), ("int8", 1e-3)])
def test_what_the_fastest_kernel_rounds_costs_next_to_no_inertia(tmp_path, dtype, bound, random_seed):
    """The targets of the project; rows are drawn so that many lie between two centroids.

    Both kernels get the same centroids. Fits from one start may end far apart whatever the size of a rounding: with
    fewer centroids than blobs, a label decides which blobs share a centroid. test_kmeans_quality compares fits.
    """
    x = blobs(10_000, 96, 30, random_seed=random_seed) + np.float32(2)
    with SketchStore.create(tmp_path / dtype, 96, dtype=dtype, rows_per_shard=3000) as store:
        store.append(x)
    stored = np.concatenate([store.rows_float32(i) for i in range(store.n_shards)]).astype(np.float64)
    model = KMeans(25, init=x[:25], max_iter=8, tol=0, train_rows="all", kernel="portable").fit(store)
    labels = [model.set_params(kernel=kernel).predict(store) for kernel in (None, "portable")]
    fast, plain = (((stored - model.cluster_centers_[labels]) ** 2).sum() for labels in labels)
    assert fast == pytest.approx(plain, rel=bound)
    # On every chip the default for int8 rows is an int8 kernel. It rounds, and some rows lie so near a border.
    assert dtype != "int8" or fast > plain


def test_a_kernel_that_is_not_for_the_rows():
    with pytest.raises(GdigError, match=r"kernel .portable-int8. is not for rows of 24 columns of float32"):
        KMeans(3, kernel="portable-int8").fit(X)


def test_a_killed_fit_goes_on_to_the_same_bits(tmp_path):
    np.save(tmp_path / "x.npy", X)
    options = {"n_clusters": 40, "max_iter": 30, "tol": 0, "train_rows": "all", "n_threads": 1}
    code = f"""
        import os, signal, sys
        from gdig import KMeans
        # Killed from within, as soon as the third iteration is reported: wherever the worker then is.
        def die(iteration, *_):
            if iteration == 3:
                os.kill(os.getpid(), signal.SIGKILL)
        KMeans(**{options!r}).fit(sys.argv[1], callback=die, resume_file=sys.argv[2])
    """
    resume_file = tmp_path / "new" / "fit.safetensors"
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "x.npy"), str(resume_file)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    n_stored = int(read_tensors(resume_file)[1]["n_iter"])
    assert n_stored >= 3
    whole = KMeans(**options).fit(X)
    assert n_stored < whole.n_iter_, "killed too late to show anything"
    seen = []
    resumed = KMeans(**options).fit(
        tmp_path / "x.npy", callback=lambda *step: seen.append(step[0]), resume_file=resume_file
    )
    assert seen == list(range(n_stored + 1, whole.n_iter_ + 1))
    assert resumed.cluster_centers_.tobytes() == whole.cluster_centers_.tobytes()
    assert (resumed.inertia_, resumed.n_iter_) == (whole.inertia_, whole.n_iter_)
    np.testing.assert_array_equal(resumed.counts_, whole.counts_)
    # Other rows, other parameters: from the start.
    for x, other in ((X[::-1].copy(), options), (X, options | {"random_state": 1})):
        fresh = KMeans(**other).fit(x)
        again = KMeans(**other).fit(x, resume_file=resume_file)
        assert again.cluster_centers_.tobytes() == fresh.cluster_centers_.tobytes()


def test_labels_on_disk_are_the_labels(tmp_path):
    valid = (np.arange(5000) % 7 != 0).astype(np.uint8)
    store = SketchStore.create(tmp_path / "store", 24, rows_per_shard=2048)
    for i in range(3):
        rows = slice(i * 2048, (i + 1) * 2048)
        store.write_shard(i, {"sketch": X[rows], "valid": valid[rows]})
    model = KMeans(10).fit(store)
    assert model.counts_.sum() == valid.sum()
    steps = []
    paths = model.write_labels(store, tmp_path / "labels", callback=lambda *step: steps.append(step))
    assert [path.name for path in paths] == [f"{i:08d}.safetensors" for i in range(3)]
    assert steps == [(2048, 5000), (4096, 5000), (5000, 5000)]
    labels, distances = load_labels(tmp_path / "labels")
    assert (labels.dtype, distances.dtype) == (np.int32, np.float32)
    assert ((labels == -1) == (valid == 0)).all()
    assert (np.isnan(distances) == (valid == 0)).all()
    expected, apart = model.predict_with_distances(store)
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_array_equal(distances, apart)
    own = model.cluster_centers_[labels[valid == 1]]
    exact = np.linalg.norm(X[valid == 1].astype(np.float16).astype(np.float64) - own, axis=1)
    np.testing.assert_allclose(distances[valid == 1], exact, rtol=(24 + 4) * 2.0**-23)
    before = {path: path.stat().st_mtime_ns for path in paths}
    paths[1].unlink()
    model.write_labels(store, tmp_path / "labels")
    assert [path.stat().st_mtime_ns == before[path] for path in paths] == [True, False, True]
    np.testing.assert_array_equal(load_labels(tmp_path / "labels")[0], labels)
    paths[1].unlink()
    with pytest.raises(StoreError, match="00000002"):
        load_labels(tmp_path / "labels")


def test_saved_is_loaded(tmp_path):
    model = KMeans(5, unit_normalize=True, random_state=9, train_rows="all").fit(X)
    model.save(tmp_path / "c.safetensors")
    again = KMeans.load(tmp_path / "c.safetensors")
    assert again.get_params() == model.get_params()
    assert (again.inertia_, again.n_iter_) == (model.inertia_, model.n_iter_)
    np.testing.assert_array_equal(again.counts_, model.counts_)
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    given = KMeans(5, init=X[:5], max_iter=1).fit(X)
    given.save(tmp_path / "c.safetensors")
    np.testing.assert_array_equal(KMeans.load(tmp_path / "c.safetensors").predict(X), given.predict(X))
    write_tensors(tmp_path / "d.safetensors", {"x": X})
    with pytest.raises(StoreError, match=r"not a file of KMeans\.save"):
        KMeans.load(tmp_path / "d.safetensors")


def test_parameters():
    model = KMeans(3)
    assert model.set_params(random_state=4, tol=0.5).get_params()["random_state"] == 4
    with pytest.raises(ValueError, match="unknown parameter 'n_init'"):
        model.set_params(n_init=3)
    for call in (model.predict, model.transform, model.score, model.save):
        with pytest.raises(NotFittedError, match="call fit"):
            call(X)
    for wrong in (
        {"n_clusters": 0}, {"max_iter": 0}, {"tol": -1}, {"tol": np.nan}, {"random_state": -1}, {"n_threads": 0},
        {"train_rows": "some"}, {"train_rows": 2}, {"init": "random"}, {"init": X[:2]}, {"max_iter": 2.5},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(wrong))):
            KMeans(**{"n_clusters": 3, **wrong}).fit(X)
    with pytest.raises(GdigError, match=r"kernel .amx.: this machine has scalar, portable"):
        KMeans(3, kernel="amx").fit(X)


def test_rows_that_cannot_be_used():
    with pytest.raises(GdigError, match="number of rows, 4 "):
        KMeans(5).fit(X[:4])
    for value in (np.nan, np.inf):
        bad = X.copy()
        bad[4321, 2] = value
        with pytest.raises(GdigError, match="row 4321, column 2"):
            KMeans(5, train_rows="all").fit(bad)
        with pytest.raises(GdigError, match="row 4321, column 2"):
            KMeans(5).fit(X).predict(bad)
    with pytest.raises(InputError, match=r"x: expected rows \[n, d\], got the shape \(9,\)"):
        KMeans(2).fit(np.zeros(9, np.float32))
    with pytest.raises(InputError, match=r"0 feature\(s\)"):
        KMeans(2).fit(np.zeros((9, 0), np.float32))
    with pytest.raises(ValueError, match="could not convert"):
        KMeans(2).fit([["a", "b"]])
    with pytest.raises(TypeError, match="dense rows"):
        KMeans(2).fit(csr_array(X))
    with pytest.raises(GdigError, match=r"X has 3 features, but KMeans is expecting 2 features as input"):
        KMeans(2).fit(np.arange(16, dtype=np.float32).reshape(8, 2)).predict(np.zeros((9, 3), np.float32))


def test_progress_and_an_exception_in_the_callback():
    seen = []
    model = KMeans(8, max_iter=5, tol=0).fit(X, callback=lambda *step: seen.append(step))
    assert [step[0] for step in seen] == list(range(1, model.n_iter_ + 1))
    assert all(a >= b * (1 - 1e-6) for (_, a, _), (_, b, _) in itertools.pairwise(seen))

    def stop(*_):
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        KMeans(8).fit(X, callback=stop)


@pytest.mark.parametrize("call", ["fit(x)", "predict(x)", "write_labels(x, sys.argv[1])"])
def test_ctrl_c_is_heard_in_the_middle_of_the_work(tmp_path, call):
    """The scalar kernel makes hours of work out of pages of zeros; the signal comes once it has begun."""
    code = f"""
        import os, signal, sys, threading, time
        import numpy as np
        from gdig import KMeans
        centers = np.random.default_rng(0).standard_normal((8_000, 64), dtype=np.float32)
        x = np.zeros((5_000_000, 64), np.float32)
        model = KMeans(8_000, init=centers, max_iter=20, train_rows="all", kernel="scalar", n_threads=1)
        model.cluster_centers_ = centers

        def interrupt():
            begun = time.process_time() + 0.2
            while time.process_time() < begun:
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)

        try:
            threading.Thread(target=interrupt).start()
            model.{call}
            print("finished")
        except KeyboardInterrupt:
            print("interrupted")
    """
    command = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path / "labels")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done.stderr
    if (tmp_path / "labels").exists():
        assert all(path.suffix == ".safetensors" for path in (tmp_path / "labels").iterdir())
