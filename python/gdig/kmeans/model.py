"""KMeans: fit, predict, save and load."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gdig import _native
from gdig.errors import GdigError, InputError, StoreError
from gdig.kmeans.distances import distances_to_all
from gdig.kmeans.estimator import Estimator, drawn_random_state
from gdig.kmeans.far import warn_of_coarse_steps, warn_of_lost_digits
from gdig.kmeans.labels import as_int32
from gdig.kmeans.rows import RowSource, as_rows, as_weights, n_columns, native, stay_in_memory, value_errors
from gdig.kmeans.small import least_squared_norm, warn_of_underflow
from gdig.store.tensor_file import MADE_FROM, read_tensors, write_tensors

TRAIN_ROWS_PER_CENTROID = 1_024
"""Training rows a centroid, by default."""


class KMeans(Estimator):
    """Lloyd's k-means with Euclidean distance (Lloyd 1982), from k-means++ or from given centroids.

    An estimator in scikit-learn's manner: it works in a Pipeline, and passes scikit-learn's `check_estimator`.

    The result has the same bits for any number of threads and any shard size:

    - Sums are float32 within chunks of max(8,192, 4 K) rows, and float64 over the chunks.
    - A tie goes to the centroid with the lower number.
    - An empty cluster gets one of the rows that are farthest from their centroids.

    The kernel decides the precision of the search for the nearest centroid:

    - "scalar", "portable", "neon", "avx2" and "avx512" use float32, and their results have the same bits.
    - "avx512-bf16", "amx-bf16" and "neon-bf16" subtract the centroids' mean m from rows and centroids, and round the
      differences to bfloat16. Each has bits of its own. The centroid c of a row x can be farther than the nearest
      centroid c'. The excess |x - c|^2 - |x - c'|^2 is at most about 0.032 |x - m| max(|c - m|, |c' - m|); the 0.032
      grows by 5e-7 a column.
    - "portable-int8", "neon-int8", "neon-i8mm-int8", "avx2-int8", "avx-vnni-int8", "avx512-vnni-int8" and "amx-int8"
      round each centroid to int8 with its own scale, and use the stored int8 rows. Their sums are exact, and their
      results have the same bits. With the mean m of the centroids and a row x, the excess is at most about
      |x|_1 (max_j |c_j - m_j| + max_j |c'_j - m_j|) / 127. They refuse other rows, and `unit_normalize`.

    With every kernel, distances, inertia and sums are float32 numbers of the stored rows. A middle of the rows is
    subtracted where they lie far from the origin. A warning says when float32 cannot tell the rows apart.

    Squared norms of rows stay below 4.25e37; larger ones are refused. A warning says where those of all rows, less the
    rows' mean, are below 1.2e-38 (2^-126), because squares underflow there. With the kernels of bfloat16, whose sums
    take as much for zero, it says so below 3.0e-36 d (2^-118 d). With `unit_normalize`, 1.2e-38 holds for the rows
    without the mean subtracted.

    Rows `X` can be:

    - a :class:`~gdig.SketchStore` that lacks no shard; rows whose `valid` is 0 are skipped.
    - the path of a store, such as `sweep` in a run directory.
    - the path of an .npy file, which is memory-mapped.
    - a C-contiguous array or memmap [n, d] of float16, float32 or float64. float64 is rounded to float32.
    - anything else that NumPy makes such an array of: a list, a DataFrame, integers, another order. This takes a copy.

    Other rows are converted block by block, so memory holds no converted copy of all rows. The attributes are there
    after :meth:`fit`.

    Args:
        n_clusters: K, at most the number of valid rows.
        init: "k-means++" (Arthur and Vassilvitskii 2007), or centroids [K, d] of the first iteration. k-means++ uses a
            sample of 16 rows a centroid, at least 4,096 rows.
        max_iter: the largest number of iterations.
        tol: the fit ends when an iteration lowers the inertia by at most this share.
        random_state: the random seed of all draws. A generator of NumPy gives one. None: another at each fit.
        train_rows: the number of training rows, at least K; a seeded hash chooses them. None: 1,024 rows a centroid.
            "all": all rows.
        unit_normalize: scale rows and centroids to unit length (spherical k-means). Distances are between the scaled
            rows and centroids.
        n_threads: the number of threads. None: all threads of the machine.
        kernel: the name of a kernel. None: the kernel in the environment variable GDIG_KERNEL, or else the fastest
            kernel of the machine that rounds no more than the rows are rounded. Float32 and float64 rows need float32,
            float16 and bfloat16 rows need bfloat16, and int8 rows need int8.

    Attributes:
        cluster_centers_: [K, d] float32.
        inertia_: the sum over the training rows of the squared distance to the nearest of `cluster_centers_`.
        n_iter_: the number of iterations.
        counts_: [K] uint64, the number of training rows nearest to each of `cluster_centers_`.
        n_features_in_: d.
        labels_: [n] int32, the labels of :meth:`predict` for the rows of the fit. Not for a store or a mapped file,
            whose labels may exceed memory.

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
    n_features_in_: int
    labels_: NDArray[np.int32]

    def fit(
        self,
        X: RowSource,
        y: object = None,
        sample_weight: ArrayLike | None = None,
        *,
        callback: Callable[[int, float, float], object] | None = None,
        resume_file: str | Path | None = None,
    ) -> KMeans:
        """Find centroids.

        Args:
            X: the rows; the class lists the types.
            y: ignored; scikit-learn's estimators have it.
            sample_weight: [n], how much each row counts in the means, in the inertia and in k-means++, as if the row
                were there so many times. At least 0; a row of weight 0 is no training row.
            callback: called after each iteration with the number of the iteration from 1, the inertia before the
                update, and the shift of the centroids. The shift is the Euclidean norm over all centroids. An
                exception in the callback ends the fit.
            resume_file: a file that is written after each iteration, complete or not at all. The fit continues from an
                existing file of the same rows and parameters; n_threads and max_iter may differ. The result is that of
                a fit without a break. Any other file is overwritten. The checksums of a store's shards identify its
                rows; 4,096 rows identify an array.

        Returns:
            This object.

        Raises:
            InputError: if K exceeds the number of valid rows, if a number is not finite, or if a parameter has a wrong
                value; the message names the row or the parameter. An InputError is a GdigError and a ValueError.
            StoreError: if a shard is missing or damaged.
            TypeError: if the rows are not numbers, or are sparse.
        """
        return self._fit(X, sample_weight, callback, resume_file, None)

    def fit_shared(
        self,
        X: RowSource,
        peers: Any,
        callback: Callable[[int, float, float], object] | None = None,
        *,
        resume_file: str | Path | None = None,
    ) -> KMeans:
        """Find centroids together with other processes. The result has the bits of :meth:`fit`.

        Args:
            X: the rows, the same in all processes.
            peers: the processes, such as :class:`gdig.distributed.kmeans.KMeansPeers`. The object of rank 0 gets the
                centroids; the other ranks help until rank 0 ends.
            callback: of :meth:`fit`; only rank 0 calls it.
            resume_file: of :meth:`fit`; only rank 0 uses it.

        Returns:
            This object.

        Raises:
            InputError, StoreError, TypeError: the errors of :meth:`fit`.
        """
        if peers.rank:
            return self._fit(X, None, None, None, peers)
        self._fit(X, None, callback, resume_file, peers)
        peers.end()
        return self

    def _fit(
        self,
        X: RowSource,
        sample_weight: ArrayLike | None,
        callback: Callable[[int, float, float], object] | None,
        resume_file: str | Path | None,
        peers: Any | None,
    ) -> KMeans:
        self._check()
        rows = as_rows(X)
        weights, largest = as_weights(sample_weight, len(rows))
        init = None if isinstance(self.init, str) else np.ascontiguousarray(self.init, dtype=np.float32)
        if resume_file is not None:
            Path(resume_file).parent.mkdir(parents=True, exist_ok=True)
        train_rows = self.train_rows
        if train_rows is None:
            train_rows = TRAIN_ROWS_PER_CENTROID * self.n_clusters
        with value_errors():
            fitted = _native.kmeans_fit(
                native(rows),
                self.n_clusters,
                init=init,
                max_iter=self.max_iter,
                tol=float(self.tol),
                random_state=drawn_random_state(self.random_state),
                train_rows=None if train_rows == "all" else train_rows,
                unit_normalize=self.unit_normalize,
                n_threads=self.n_threads or 0,
                kernel=self.kernel,
                callback=callback,
                resume_file=resume_file,
                peers=peers,
                weights=weights,
            )
        if fitted is None:
            return self
        self.cluster_centers_, inertia, self.n_iter_, self.counts_ = fitted
        self.inertia_ = inertia * largest
        self.n_features_in_ = self.cluster_centers_.shape[1]
        mean_squared = inertia / float(self.counts_.sum())
        least = least_squared_norm(rows, self.kernel, self.unit_normalize)
        small = warn_of_underflow(rows, self.cluster_centers_, mean_squared, least, self.unit_normalize)
        if not small and not warn_of_lost_digits(rows) and weights is None:
            warn_of_coarse_steps(self.cluster_centers_, self.counts_, mean_squared)
        vars(self).pop("labels_", None)
        if stay_in_memory(rows):
            self.labels_ = self.predict(rows)
        return self

    def predict(self, X: RowSource) -> NDArray[np.int32]:
        """Return the number of the nearest centroid of each row, [n] int32; -1 for a row whose `valid` is 0."""
        return self.predict_with_distances(X)[0]

    def predict_with_distances(self, X: RowSource) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return the labels of :meth:`predict`, and the Euclidean distances [n] float32 to the nearest centroids.

        The distance of an invalid row is NaN.
        """
        model = self._model()
        rows = self._rows(X)
        with value_errors():
            labels, distances = _native.kmeans_predict(native(rows), *model)
        return as_int32(labels), distances

    def fit_predict(self, X: RowSource, y: object = None, sample_weight: ArrayLike | None = None) -> NDArray[np.int32]:
        """Fit the rows, and return the labels of :meth:`predict` for the same rows."""
        self.fit(X, y, sample_weight)
        return self.labels_ if hasattr(self, "labels_") else self.predict(X)

    def transform(self, X: RowSource) -> NDArray[np.float32]:
        """Return the Euclidean distance of each row to each centroid, [n, K] float32; NaN for an invalid row.

        The squares are computed in float64, less the mean of the centroids, and rounded once.
        """
        rows = self._rows(X)
        return distances_to_all(rows, self.cluster_centers_, self.unit_normalize)

    def fit_transform(
        self, X: RowSource, y: object = None, sample_weight: ArrayLike | None = None
    ) -> NDArray[np.float32]:
        """Fit the rows, and return :meth:`transform` of the same rows."""
        return self.fit(X, y, sample_weight).transform(X)

    def score(self, X: RowSource, y: object = None, sample_weight: ArrayLike | None = None) -> float:
        """Return the negative sum of the squared distances to the nearest centroids, times the weights.

        Higher is better. Invalid rows do not count.
        """
        distances = self.predict_with_distances(X)[1].astype(np.float64)
        weights, largest = as_weights(sample_weight, len(distances))
        squares = np.square(distances) if weights is None else np.square(distances) * weights
        return -float(np.nansum(squares)) * largest

    def write_labels(
        self,
        X: RowSource,
        directory: str | Path,
        *,
        rows_per_shard: int = 16_384,
        callback: Callable[[int, int], object] | None = None,
        shards: range | None = None,
    ) -> list[Path]:
        """Write each row's label and distance to files, one for each shard of `X`.

        A file holds `labels` [n] uint32 (4294967295 for an invalid row) and `distances` [n] float32 (Euclidean, NaN for
        an invalid row). A file is complete or absent. An undamaged file of the same rows and centroids is not written
        again, so a second call continues an interrupted one.

        Args:
            X: the rows; the class lists the types.
            directory: the folder of the files; made if it is absent. The files are named like the shards of a store.
            rows_per_shard: the number of rows of a file if `X` is an array. The files of a store match its shards.
            callback: called after each file with the number of finished rows and the number of all rows.
            shards: the shards whose files are written, consecutive numbers; several processes can share a directory.
                None: all shards.

        Returns:
            The files, in row order.

        Raises:
            NotFittedError: if there are no centroids yet.
            InputError: if a number is not finite, or if `shards` has a step other than 1 or ends after the last shard.
            StoreError: if a shard is missing or damaged, or if a file cannot be written.
        """
        if shards is not None and shards.step != 1:
            raise InputError(f"shards={shards}: expected consecutive numbers; use a range with a step of 1")
        span = None if shards is None else (shards.start, max(shards.start, shards.stop))
        model = self._model()
        rows = self._rows(X)
        with value_errors():
            return _native.kmeans_write_labels(native(rows), *model, directory, rows_per_shard, callback, span)

    def save(self, path: str | Path, made_from: str = "") -> None:
        """Write centroids, counts and parameters to a safetensors file, complete or not at all.

        Args:
            path: the file.
            made_from: what the centroids depend on, for :meth:`load` to compare.

        Raises:
            NotFittedError: if there are no centroids yet.
            StoreError: if the file cannot be written.
        """
        parameters = {name: getattr(value, "tolist", lambda v=value: v)() for name, value in self.get_params().items()}
        parameters["init"] = self.init if isinstance(self.init, str) else "given"
        if not isinstance(parameters["random_state"], int):  # the generator that gave the seed cannot be saved
            parameters["random_state"] = None
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
            k = tensors.shaped(centroids="float32 K d", counts="int K")["K"]
            fitted = json.loads(metadata["kmeans"])
            model = cls(**fitted["parameters"])
            model.cluster_centers_, model.counts_ = tensors["centroids"], tensors["counts"]
            if isinstance(model.init, str) and model.init == "given":
                model.init = model.cluster_centers_
            model.inertia_, model.n_iter_ = float(fitted["inertia"]), int(fitted["n_iter"])
            model.n_features_in_ = model.cluster_centers_.shape[1]
            if model.n_clusters != k:
                raise ValueError(f"n_clusters={model.n_clusters} for {k} centroids")
            model._check()
        except (KeyError, TypeError, ValueError, RecursionError, GdigError) as error:
            raise StoreError(
                f"{path}: is not a file of KMeans.save ({error!r}); give the path of such a file"
            ) from error
        return model

    def _rows(self, X: RowSource) -> Any:
        """Return the rows of :func:`as_rows`, with as many columns as the centroids."""
        expected = self._fitted().cluster_centers_.shape[1]
        rows = as_rows(X)
        if (columns := n_columns(rows)) != expected:
            raise InputError(f"X has {columns} features, but KMeans is expecting {expected} features as input")
        return rows

    def _model(self) -> tuple[NDArray[np.float32], bool, int, str | None]:
        self._check()
        return self._fitted().cluster_centers_, self.unit_normalize, self.n_threads or 0, self.kernel
