"""k-means over rows that need not fit in memory, in scikit-learn's manner."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from gdig import _native
from gdig.errors import GdigError, StoreError
from gdig.store.sketches import SketchStore
from gdig.store.tensor_file import read_tensors, write_tensors

__all__ = ["KMeans", "load_labels"]

RowSource: TypeAlias = SketchStore | str | Path | NDArray[Any]

TRAIN_ROWS_PER_CENTROID = 1_024

_PARAMETERS = (
    "n_clusters", "init", "max_iter", "tol", "random_state", "train_rows", "unit_normalize", "n_threads", "kernel",
)  # fmt: skip


class KMeans:
    """Lloyd's k-means with Euclidean distance, from k-means++ or a given start.

    The result is the same to the last bit for any number of threads and any shard size. Sums are float32 over chunks
    of max(8,192, 4 K) rows and float64 over the chunks; a tie goes to the lower centroid; an empty cluster gets one of
    the rows farthest from their centroids.

    Which centroid is nearest is computed in the precision of the kernel. "scalar", "portable", "avx2" and "avx512" use
    float32 and agree to the last bit. "amx-bf16" rounds rows and centroids, less the centroids' mean m, to bfloat16:
    for a row x it may take a centroid c that is farther than the nearest c', but by no more than
    |x - c|^2 - |x - c'|^2 <= about 0.032 |x - m| max(|c - m|, |c' - m|), the 0.032 growing by 5e-7 a column. "amx-int8"
    rounds centroids to int8 with a scale each, and takes int8 rows as they are stored. Distances, inertia and sums are
    float32 from the stored rows, whatever the kernel.

    Args:
        n_clusters: K, at most the number of valid rows.
        init: "k-means++" (on a sample of 16 rows a centroid, at least 4,096), or centroids [K, d] to start from.
        max_iter: most iterations.
        tol: stop when an iteration lowers the inertia by no more than this share.
        random_state: the random seed of all draws.
        train_rows: rows to train on, chosen by a seeded hash: None for 1,024 a centroid, "all", or a number of at
            least K.
        unit_normalize: scale rows and centroids to unit length (spherical k-means); distances are then between these.
        n_threads: None for all that the machine has.
        kernel: None for the one that the environment variable GDIG_KERNEL names, or else the fastest that the machine
            has and that rounds no more than the rows are: float32 for float32 and float64 rows, bfloat16 for float16
            and bfloat16 rows, int8 for int8 rows.

    Attributes (after :meth:`fit`):
        cluster_centers_: [K, d] float32.
        inertia_: sum over the training rows of the squared distance to the nearest of `cluster_centers_`.
        n_iter_: iterations done.
        counts_: [K] uint64, training rows nearest to each of `cluster_centers_`.

    Rows come from a :class:`~gdig.SketchStore` (without gaps; rows whose `valid` is 0 are skipped), the path of a
    store (such as `sweep` in a run directory) or of an .npy file (memory-mapped), or a C-contiguous array or memmap
    [n, d] of float16, float32 or float64 (rounded to float32 block by block). They are never converted or copied as a
    whole.
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
        """Return the constructor's arguments."""
        return {name: getattr(self, name) for name in _PARAMETERS}

    def set_params(self, **params: Any) -> KMeans:
        """Set some of the constructor's arguments.

        Raises:
            ValueError: on a name that is none of them.
        """
        for name, value in params.items():
            if name not in _PARAMETERS:
                raise ValueError(f"unknown parameter {name!r}; expected one of {', '.join(_PARAMETERS)}")
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
            x: the rows, see the class.
            callback: called after each iteration with its number from 1, the inertia before its update, and how far
                the centroids moved (Euclidean norm over all of them). An exception in it ends the fit.
            resume_file: a file that is written after each iteration, complete or not at all. If it is there already,
                and was made from the same rows with the same parameters (n_threads and max_iter apart), the fit goes
                on from it, to the result that it would have had without a break; else it is overwritten. Rows are
                compared by the checksums of a store's shards; of an array, 4,096 rows are looked at.

        Raises:
            GdigError: if K exceeds the number of valid rows, or naming a row that is not finite.
            StoreError: if a shard is missing or damaged.
            ValueError, TypeError: on a parameter or an array that cannot be used.
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
        """Find centroids together with other processes: to the bits of :meth:`fit`, whose arguments these are.

        Args:
            x: the rows, the same in all processes.
            peers: the processes, as :class:`gdig.distributed.kmeans.KMeansPeers` is. Rank 0 is fitted; the peers help
                until it ends.
            callback: rank 0's.
            resume_file: rank 0's.
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
        """Return the nearest centroid of each row, [n] uint32; 4294967295 for a row whose `valid` is 0."""
        return self._predict(x)[0]

    def predict_with_distances(self, x: RowSource) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
        """Return labels [n] as :meth:`predict` and Euclidean distances [n] float32 (NaN for invalid rows)."""
        return self._predict(x)

    def fit_predict(self, x: RowSource) -> NDArray[np.uint32]:
        """Fit, then predict the same rows."""
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

        A file holds `labels` [n] uint32 (4294967295 for invalid rows) and `distances` [n] float32 (Euclidean, NaN for
        invalid rows), and is complete or absent. One that is there, is sound, and was made from the same rows and
        centroids is kept; so an interrupted call goes on where it stopped.

        Args:
            x: the rows, see the class.
            directory: where the files go, named like a store's shards; made if it is absent.
            rows_per_shard: rows of a file when `x` is an array; a store's own split is kept.
            callback: called after each file with the rows done and their total.
            shards: write the files of these shards alone, numbers that follow one another (several processes can share
                a directory so); all by default.

        Returns:
            The files, in row order.

        Raises:
            ValueError: if `shards` has a step other than 1, or goes beyond the last shard.
        """
        if shards is not None and shards.step != 1:
            raise ValueError(f"shards: expected numbers that follow one another, got {shards}")
        span = None if shards is None else (shards.start, max(shards.start, shards.stop))
        return _native.kmeans_predict_to(_source(x), *self._model(), directory, rows_per_shard, callback, span)

    def save(self, path: str | Path) -> None:
        """Write the centroids, counts and parameters to a safetensors file, complete or not at all."""
        parameters = self.get_params() | {"init": self.init if isinstance(self.init, str) else "given"}
        fitted = {"parameters": parameters, "inertia": self._fitted().inertia_, "n_iter": self.n_iter_}
        tensors: dict[str, NDArray[Any]] = {"centroids": self.cluster_centers_, "counts": self.counts_}
        write_tensors(path, tensors, {"kmeans": json.dumps(fitted, sort_keys=True)})

    @classmethod
    def load(cls, path: str | Path) -> KMeans:
        """Read what :meth:`save` wrote. A start that was given as an array is not in it: `init` is the centroids.

        Raises:
            StoreError: if the file is damaged or holds something else.
        """
        tensors, metadata = read_tensors(path)
        try:
            fitted = json.loads(metadata["kmeans"])
            model = cls(**fitted["parameters"])
            model.cluster_centers_, model.counts_ = tensors["centroids"], tensors["counts"]
            model.inertia_, model.n_iter_ = fitted["inertia"], fitted["n_iter"]
        except (KeyError, TypeError, ValueError) as error:
            raise StoreError(f"{path}: not a file of KMeans.save ({error!r})") from error
        if model.init == "given":
            model.init = model.cluster_centers_
        return model

    def _predict(self, x: RowSource) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
        return _native.kmeans_predict(_source(x), *self._model())

    def _model(self) -> tuple[NDArray[np.float32], bool, int, str | None]:
        self._check()
        return self._fitted().cluster_centers_, self.unit_normalize, self.n_threads or 0, self.kernel

    def _fitted(self) -> KMeans:
        if not hasattr(self, "cluster_centers_"):
            raise GdigError("this KMeans has no centroids yet: call fit or load first")
        return self

    def _check(self) -> None:
        """Check every parameter at the door; what depends on the rows is checked where they are known."""
        least = {"n_clusters": 1, "max_iter": 1, "random_state": 0, "n_threads": 1, "train_rows": self.n_clusters}
        for name, minimum in least.items():
            value = getattr(self, name)
            if (name == "train_rows" and value == "all") or (name in ("train_rows", "n_threads") and value is None):
                continue
            if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or not minimum <= value < 2**63:
                raise ValueError(f"{name}: expected a whole number of at least {minimum}, got {value!r}")
        if not 0 <= self.tol < float("inf"):
            raise ValueError(f"tol: expected a finite number of at least 0, got {self.tol!r}")
        if isinstance(self.init, str) and self.init != "k-means++":
            raise ValueError(f"init: expected 'k-means++' or centroids [n_clusters, d], got {self.init!r}")
        if not isinstance(self.init, str) and (np.ndim(self.init) != 2 or len(self.init) != self.n_clusters):
            raise ValueError(f"init: expected centroids [{self.n_clusters}, d], got shape {np.shape(self.init)}")


def load_labels(directory: str | Path) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    """Return the labels [N] uint32 and distances [N] float32 that :meth:`KMeans.predict_to` wrote, verified.

    Raises:
        StoreError: if a file is damaged or missing in the middle.
    """
    paths = sorted(Path(directory).glob("[0-9]*.safetensors"))
    if not paths:
        raise StoreError(f"{directory}: no labels there")
    labels, distances, rows = [], [], 0
    for path in paths:
        tensors, metadata = read_tensors(path)
        if metadata.get("first_row") != str(rows) or not {"labels", "distances"} <= tensors.keys():
            raise StoreError(f"{path}: expected labels and distances from row {rows} on, got {metadata}")
        labels.append(tensors["labels"])
        distances.append(tensors["distances"])
        rows += len(labels[-1])
    return np.concatenate(labels), np.concatenate(distances)


def _source(x: RowSource) -> _native.Store | NDArray[Any]:
    """Turn what the user gave into what the core reads."""
    if isinstance(x, (str, Path)):
        path = Path(x)
        if path.suffix == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False)
        x = SketchStore.open(path)
    if isinstance(x, SketchStore):
        x.flush()
        return x._native
    if not isinstance(x, np.ndarray):
        raise TypeError(f"x: expected a SketchStore, a path or a NumPy array, got {type(x).__name__}")
    return x
