"""gdig's k-means and the libraries that it is compared with.

Each function runs Lloyd from given centroids over all rows, unless it says otherwise. It returns the mean seconds of
the iterations after the first, by `clock`, and the centroids [K, d] float32 after all iterations.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Result = tuple[float, NDArray[np.float32]]
Lloyd = Callable[[Any, NDArray[np.float32], int, int], Result]

# `time.process_time` counts the seconds of all threads of this process, whatever else the machine does.
clock = time.perf_counter


def by_difference(train: Callable[[int], Any], iterations: int) -> tuple[float, Any]:
    """The mean seconds of the iterations after the first, of a library that tells no times, and its last result."""
    begin = clock()
    train(1)
    middle = clock()
    result = train(iterations)
    return (clock() - middle - (middle - begin)) / (iterations - 1), result


def gdig(x: Any, start: NDArray[np.float32], iterations: int, threads: int, kernel: str | None = None) -> Result:
    """gdig, from a store."""
    from gdig import KMeans

    stamps: list[float] = []
    model = KMeans(len(start), init=start, max_iter=iterations, tol=0, train_rows="all", n_threads=threads)
    model.set_params(kernel=kernel).fit(x, callback=lambda *_: stamps.append(clock()))
    return (stamps[-1] - stamps[0]) / (len(stamps) - 1), model.cluster_centers_


def faiss(x: NDArray[np.float32], start: NDArray[np.float32], iterations: int, threads: int) -> Result:
    """faiss.Kmeans on all rows, which are float32."""
    import faiss

    faiss.omp_set_num_threads(threads)

    def train(n: int) -> NDArray[np.float32]:
        limits = {"max_points_per_centroid": len(x), "min_points_per_centroid": 1}
        kmeans = faiss.Kmeans(x.shape[1], len(start), niter=n, **limits)
        kmeans.train(x, init_centroids=start)
        return kmeans.centroids

    return by_difference(train, iterations)


def super_kmeans(x: NDArray[np.float32], start: NDArray[np.float32], iterations: int, threads: int) -> Result:
    """faiss.SuperKmeans, which prunes by estimates of distances. It starts from its own centroids."""
    import faiss

    faiss.omp_set_num_threads(threads)

    def train(n: int) -> NDArray[np.float32]:
        limits = {"max_points_per_centroid": len(x), "min_points_per_centroid": 1}
        kmeans = faiss.SuperKmeans(x.shape[1], len(start), niter=n, **limits)
        kmeans.train(x)
        return kmeans.centroids

    return by_difference(train, iterations)


def scikit_learn(x: NDArray[np.float32], start: NDArray[np.float32], iterations: int, threads: int) -> Result:
    """sklearn.cluster.KMeans, algorithm lloyd. It also assigns once at the end."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    def fit(n: int) -> NDArray[np.float32]:
        model = KMeans(len(start), init=start, n_init=1, max_iter=n, tol=0, algorithm="lloyd", copy_x=False).fit(x)
        return model.cluster_centers_

    with threadpool_limits(threads), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that it has not converged, which is intended
        return by_difference(fit, iterations)


def fastkmeans(x: NDArray[np.float32], start: NDArray[np.float32], iterations: int, threads: int) -> Result:
    """fastkmeans on the CPU. It starts from its own centroids."""
    import torch
    from fastkmeans import FastKMeans

    torch.set_num_threads(threads)

    def train(n: int) -> NDArray[np.float32]:
        model = FastKMeans(x.shape[1], len(start), niter=n, tol=-1, gpu=False, use_triton=False, verbose=False)
        model.train(x)
        return model.centroids

    return by_difference(train, iterations)


def torch_bf16(x: Any, start: NDArray[np.float32], iterations: int, threads: int) -> Result:
    """A user's own loop: bfloat16 rows (converted before), products by torch in chunks, sums in float32."""
    import torch

    torch.set_num_threads(threads)
    centers, k = torch.from_numpy(start).clone(), len(start)
    chunk = 16_384 if k <= 512 else 4_096
    stamps = []
    for _ in range(iterations):
        half_norms, right = (centers**2).sum(1) / 2, centers.to(torch.bfloat16).T.contiguous()
        sums, counts = torch.zeros_like(centers), torch.zeros(k)
        for i in range(0, len(x), chunk):
            rows = x[i : i + chunk]
            labels = ((rows @ right).float() - half_norms).argmax(1)
            sums.index_add_(0, labels, rows.float())
            counts += torch.bincount(labels, minlength=k)
        centers = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centers)
        stamps.append(clock())
    return (stamps[-1] - stamps[0]) / (iterations - 1), centers.numpy()
