"""k-means over rows that may exceed memory, with the interface of scikit-learn."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from gdig import _native
from gdig.errors import GdigError, StoreError
from gdig.store.npy import open_npy
from gdig.store.sketches import SketchStore
from gdig.store.tensor_file import MADE_FROM, Damage, read_tensors, write_tensors

__all__ = ["KMeans", "load_labels"]

RowSource: TypeAlias = SketchStore | str | Path | NDArray[Any]

TRAIN_ROWS_PER_CENTROID = 1_024
"""Training rows a centroid, by default."""

_PARAMETERS = (
    "n_clusters", "init", "max_iter", "tol", "random_state", "train_rows", "unit_normalize", "n_threads", "kernel",
)  # fmt: skip


class KMeans:
    """Lloyd's k-means with Euclidean distance (Lloyd 1982), from k-means++ or from given centroids.

    The result has the same bits for any number of threads and any shard size:

    - Sums are float32 within chunks of max(8,192, 4 K) rows, and float64 over the chunks.
    - A tie goes to the centroid with the lower number.
    - An empty cluster gets one of the rows that are farthest from their centroids.

    The kernel decides the precision of the search for the nearest centroid:

    - "scalar", "portable", "avx2" and "avx512" use float32, and their results have the same bits.
    - "amx-bf16" subtracts the centroids' mean m from rows and centroids, and rounds the differences to bfloat16. The
      centroid c of a row x can be farther than the nearest centroid c'. The excess |x - c|^2 - |x - c'|^2 is at most
      about 0.032 |x - m| max(|c - m|, |c' - m|); the 0.032 grows by 5e-7 a column.
    - "amx-int8" rounds each centroid to int8 with its own scale, and uses the stored int8 rows.

    With every kernel, distances, inertia and sums are float32 numbers of the stored rows.

    Rows `x` can be:

    - a :class:`~gdig.SketchStore` that lacks no shard; rows whose `valid` is 0 are skipped.
    - the path of a store, such as `sweep` in a run directory.
    - the path of an .npy file, which is memory-mapped.
    - a C-contiguous array or memmap [n, d] of float16, float32 or float64. float64 is rounded to float32.

    Rows are converted block by block, so memory holds no converted copy of all rows.

    Args:
        n_clusters: K, at most the number of valid rows.
        init: "k-means++" (Arthur and Vassilvitskii 2007), or centroids [K, d] of the first iteration. k-means++ uses a
            sample of 16 rows a centroid, at least 4,096 rows.
        max_iter: the largest number of iterations.
        tol: the fit ends when an iteration lowers the inertia by at most this share.
        random_state: the random seed of all draws.
        train_rows: the number of training rows, at least K; a seeded hash chooses them. None: 1,024 rows a centroid.
            "all": all rows.
        unit_normalize: scale rows and centroids to unit length (spherical k-means). Distances are between the scaled
            rows and centroids.
        n_threads: the number of threads. None: all threads of the machine.
        kernel: the name of a kernel. None: the kernel in the environment variable GDIG_KERNEL, or else the fastest
            kernel of the machine that rounds no more than the rows are rounded. Float32 and float64 rows need float32,
            float16 and bfloat16 rows need bfloat16, and int8 rows need int8.

    Attributes (after :meth:`fit`):
        cluster_centers_: [K, d] float32.
        inertia_: the sum over the training rows of the squared distance to the nearest of `cluster_centers_`.
        n_iter_: the number of iterations.
        counts_: [K] uint64, the number of training rows nearest to each of `cluster_centers_`.

    Example:
        >>> rows = np.array([[0, 0], [0, 1], [9, 9], [9, 8]], np.float32)
        >>> model = KMeans(2, init=rows[[0, 2]]).fit(rows)
        >>> model.predict(rows).tolist(), model.inertia_
        ([0, 0, 1, 1], 1.0)
    """

    cluster_centers_: NDArray[np.float32]
    inertia_: float
    n_iter_: int
    counts_: NDArray[np.uint64]

    def __init__(
        self,
        n_clusters: int,
        *,
        init: Literal["k-means++"] | NDArray[Any] = "k-means++",
        max_iter: int = 25,
        tol: float = 1e-4,
        random_state: int = 0,
        train_rows: int | Literal["all"] | None = None,
        unit_normalize: bool = False,
        n_threads: int | None = None,
        kernel: str | None = None,
    ) -> None:
        self.n_clusters = n_clusters
        self.init = init
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state
        self.train_rows = train_rows
        self.unit_normalize = unit_normalize
        self.n_threads = n_threads
        self.kernel = kernel

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the arguments of the constructor by name."""
        return {name: getattr(self, name) for name in _PARAMETERS}

    def set_params(self, **params: Any) -> KMeans:
        """Set some arguments of the constructor.

        Raises:
            ValueError: if a name is no argument of the constructor.
        """
        for name, value in params.items():
            if name not in _PARAMETERS:
                raise ValueError(f"unknown parameter {name!r}: expected one of {', '.join(_PARAMETERS)}")
            setattr(self, name, value)
        return self

    def __repr__(self) -> str:
        return f"KMeans({', '.join(f'{name}={value!r}' for name, value in self.get_params().items())})"

    def fit(
        self,
        x: RowSource,
        callback: Callable[[int, float, float], object] | None = None,
        *,
        resume_file: str | Path | None = None,
    ) -> KMeans:
        """Find centroids.

        Args:
            x: the rows; the class lists the types.
            callback: called after each iteration with the number of the iteration from 1, the inertia before the
                update, and the shift of the centroids. The shift is the Euclidean norm over all centroids. An
                exception in the callback ends the fit.
            resume_file: a file that is written after each iteration, complete or not at all. The fit continues from an
                existing file of the same rows and parameters (n_threads and max_iter may differ), to the result of a
                fit without a break. Any other file is overwritten. The checksums of a store's shards identify its
                rows; 4,096 rows identify an array.

        Returns:
            This object.

        Raises:
            GdigError: if K exceeds the number of valid rows, or if a number is not finite; the message names its row.
            StoreError: if a shard is missing or damaged.
            ValueError, TypeError: if a parameter or an array has a wrong value or type.
        """
        return self._fit(x, callback, resume_file, None)

    def fit_shared(
        self,
        x: RowSource,
        peers: Any,
        callback: Callable[[int, float, float], object] | None = None,
        *,
        resume_file: str | Path | None = None,
    ) -> KMeans:
        """Find centroids together with other processes. The result has the bits of :meth:`fit`.

        Args:
            x: the rows, the same in all processes.
            peers: the processes, such as :class:`gdig.distributed.kmeans.KMeansPeers`. The object of rank 0 gets the
                centroids; the other ranks help until rank 0 ends.
            callback: of :meth:`fit`; only rank 0 calls it.
            resume_file: of :meth:`fit`; only rank 0 uses it.

        Returns:
            This object.

        Raises:
            GdigError, StoreError, ValueError, TypeError: the errors of :meth:`fit`.
        """
        if peers.rank:
            return self._fit(x, None, None, peers)
        self._fit(x, callback, resume_file, peers)
        peers.end()
        return self

    def _fit(
        self,
        x: RowSource,
        callback: Callable[[int, float, float], object] | None,
        resume_file: str | Path | None,
        peers: Any | None,
    ) -> KMeans:
        self._check()
        init = None if isinstance(self.init, str) else np.ascontiguousarray(self.init, dtype=np.float32)
        if resume_file is not None:
            Path(resume_file).parent.mkdir(parents=True, exist_ok=True)
        train_rows = self.train_rows
        if train_rows is None:
            train_rows = TRAIN_ROWS_PER_CENTROID * self.n_clusters
        fitted = _native.kmeans_fit(
            _source(x),
            self.n_clusters,
            init=init,
            max_iter=self.max_iter,
            tol=float(self.tol),
            random_state=self.random_state,
            train_rows=None if train_rows == "all" else train_rows,
            unit_normalize=self.unit_normalize,
            n_threads=self.n_threads or 0,
            kernel=self.kernel,
            callback=callback,
            resume_file=resume_file,
            peers=peers,
        )
        if fitted is not None:
            self.cluster_centers_, self.inertia_, self.n_iter_, self.counts_ = fitted
        return self

    def predict(self, x: RowSource) -> NDArray[np.uint32]:
        """Return the number of the nearest centroid of each row, [n] uint32.

        A row whose `valid` is 0 has the label 4294967295.
        """
        return self._predict(x)[0]

    def predict_with_distances(self, x: RowSource) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
        """Return the labels of :meth:`predict`, and the Euclidean distances [n] float32 to the nearest centroids.

        The distance of an invalid row is NaN.
        """
        return self._predict(x)

    def fit_predict(self, x: RowSource) -> NDArray[np.uint32]:
        """Fit the rows, and return the labels of :meth:`predict` for the same rows."""
        return self.fit(x).predict(x)

    def predict_to(
        self,
        x: RowSource,
        directory: str | Path,
        *,
        rows_per_shard: int = 16_384,
        callback: Callable[[int, int], object] | None = None,
        shards: range | None = None,
    ) -> list[Path]:
        """Write each row's label and distance to files, one for each shard of `x`.

        A file holds `labels` [n] uint32 (4294967295 for an invalid row) and `distances` [n] float32 (Euclidean, NaN for
        an invalid row). A file is complete or absent. An undamaged file of the same rows and centroids is not written
        again, so a second call continues an interrupted one.

        Args:
            x: the rows; the class lists the types.
            directory: the folder of the files; made if it is absent. The files are named like the shards of a store.
            rows_per_shard: the number of rows of a file if `x` is an array. The files of a store match its shards.
            callback: called after each file with the number of finished rows and the number of all rows.
            shards: the shards whose files are written, consecutive numbers; several processes can share a directory.
                None: all shards.

        Returns:
            The files, in row order.

        Raises:
            GdigError: if there are no centroids yet, or if a number is not finite.
            StoreError: if a shard is missing or damaged, or if a file cannot be written.
            ValueError: if `shards` has a step other than 1, or ends after the last shard.
        """
        if shards is not None and shards.step != 1:
            raise ValueError(f"shards={shards}: expected consecutive numbers; use a range with a step of 1")
        span = None if shards is None else (shards.start, max(shards.start, shards.stop))
        return _native.kmeans_predict_to(_source(x), *self._model(), directory, rows_per_shard, callback, span)

    def save(self, path: str | Path, made_from: str = "") -> None:
        """Write centroids, counts and parameters to a safetensors file, complete or not at all.

        Args:
            path: the file.
            made_from: what the centroids depend on, for :meth:`load` to compare.

        Raises:
            GdigError: if there are no centroids yet.
            StoreError: if the file cannot be written.
        """
        parameters = self.get_params() | {"init": self.init if isinstance(self.init, str) else "given"}
        fitted = {"parameters": parameters, "inertia": self._fitted().inertia_, "n_iter": self.n_iter_}
        tensors: dict[str, NDArray[Any]] = {"centroids": self.cluster_centers_, "counts": self.counts_}
        origin = {MADE_FROM: made_from} if made_from else {}
        write_tensors(path, tensors, {"kmeans": json.dumps(fitted, sort_keys=True), **origin})

    @classmethod
    def load(cls, path: str | Path, made_from: str | None = None) -> KMeans:
        """Read a file of :meth:`save`.

        Args:
            path: the file.
            made_from: what the centroids are to be made from; None accepts any.

        The file lacks an `init` that was an array; the loaded object has its centroids as `init`.

        Raises:
            StoreError: if the file is damaged, is made from something else, or is not a file of :meth:`save`.
        """
        tensors, metadata = read_tensors(path, made_from)
        try:
            k = tensors.shaped(centroids="K d", counts="K")["K"]
            fitted = json.loads(metadata["kmeans"])
            model = cls(**fitted["parameters"])
            model.cluster_centers_, model.counts_ = tensors["centroids"], tensors["counts"]
            if isinstance(model.init, str) and model.init == "given":
                model.init = model.cluster_centers_
            model.inertia_, model.n_iter_ = float(fitted["inertia"]), int(fitted["n_iter"])
            if model.n_clusters != k:
                raise ValueError(f"n_clusters={model.n_clusters} for {k} centroids")
            model._check()
        except (KeyError, TypeError, ValueError, RecursionError, StoreError) as error:
            raise StoreError(
                f"{path}: is not a file of KMeans.save ({error!r}); give the path of such a file"
            ) from error
        return model

    def label_damage(self, store: SketchStore, directory: str | Path) -> dict[int, Damage]:
        """Read the files that :meth:`predict_to` wrote for a store, and return what is wrong, by shard.

        A file is compared with its checksum, the rows of its shard and the centroids. A kernel that rounds in another
        way may have made it.
        """
        damage = _native.kmeans_label_damage(
            store._native, self._fitted().cluster_centers_, self.unit_normalize, directory
        )
        return {shard: Damage(*cast(Any, what)) for shard, what in damage}

    def _predict(self, x: RowSource) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
        return _native.kmeans_predict(_source(x), *self._model())

    def _model(self) -> tuple[NDArray[np.float32], bool, int, str | None]:
        self._check()
        return self._fitted().cluster_centers_, self.unit_normalize, self.n_threads or 0, self.kernel

    def _fitted(self) -> KMeans:
        if not hasattr(self, "cluster_centers_"):
            raise GdigError("KMeans: expected centroids, but there are none yet; call fit or load first")
        return self

    def _check(self) -> None:
        """Check every parameter. The core checks the parameters that depend on the rows."""
        minima = {"n_clusters": 1, "max_iter": 1, "random_state": 0, "n_threads": 1, "train_rows": self.n_clusters}
        for name, minimum in minima.items():
            value = getattr(self, name)
            if (name == "train_rows" and value == "all") or (name in ("train_rows", "n_threads") and value is None):
                continue
            if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or not minimum <= value < 2**63:
                raise ValueError(f"{name}={value!r}: expected a whole number of at least {minimum}")
        if not 0 <= self.tol < float("inf"):
            raise ValueError(f"tol={self.tol!r}: expected a finite number of at least 0")
        if isinstance(self.init, str) and self.init != "k-means++":
            raise ValueError(f"init={self.init!r}: expected 'k-means++' or centroids [n_clusters, d]")
        if not isinstance(self.init, str) and (np.ndim(self.init) != 2 or len(self.init) != self.n_clusters):
            raise ValueError(
                f"init of shape {np.shape(self.init)}: expected centroids [{self.n_clusters}, d], one for each cluster"
            )


def load_labels(directory: str | Path) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    """Read and verify the files of :meth:`KMeans.predict_to`.

    Returns:
        The labels [N] uint32, and the distances [N] float32.

    Raises:
        StoreError: if there are no files, if a file is damaged, or if a file before the last one is missing.
    """
    paths = sorted(Path(directory).glob("[0-9]*.safetensors"))
    if not paths:
        raise StoreError(f"{directory}: no labels there: expected the files of KMeans.predict_to")
    labels, distances, rows = [], [], 0
    for path in paths:
        tensors, metadata = read_tensors(path)
        if metadata.get("first_row") != str(rows) or not {"labels", "distances"} <= tensors.keys():
            raise StoreError(f"{path}: metadata {metadata}: expected labels and distances from row {rows} on")
        labels.append(tensors["labels"])
        distances.append(tensors["distances"])
        rows += len(labels[-1])
    return np.concatenate(labels), np.concatenate(distances)


def _source(x: RowSource) -> _native.Store | NDArray[Any]:
    """Convert the rows of a user to a type that the core reads."""
    if isinstance(x, (str, Path)):
        path = Path(x)
        if path.suffix == ".npy":
            return open_npy(path)
        x = SketchStore.open(path)
    if isinstance(x, SketchStore):
        x.flush()
        return x._native
    if not isinstance(x, np.ndarray):
        raise TypeError(
            f"x: expected a SketchStore, a path or a NumPy array, got {type(x).__name__}; try numpy.asarray(x)"
        )
    return x
