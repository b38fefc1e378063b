"""gdig's k-means and the libraries that it is compared with.

Each function runs Lloyd from given centroids over all rows. It returns the seconds of the last iteration, and the
centroids [K, d] float32 after all iterations.
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


def gdig(x: Any, start: NDArray[np.float32], iterations: int, threads: int, kernel: str | None = None) -> Result:
    """gdig, from a store."""
    from gdig import KMeans

    stamps: list[float] = []
    model = KMeans(len(start), init=start, max_iter=iterations, tol=0, train_rows="all", n_threads=threads)
    model.set_params(kernel=kernel).fit(x, callback=lambda *_: stamps.append(time.perf_counter()))
    return stamps[-1] - stamps[-2], model.cluster_centers_


def faiss(x: NDArray[np.float32], start: NDArray[np.float32], iterations: int, threads: int) -> Result:
    """faiss.Kmeans on all rows, which are float32."""
    import faiss

    faiss.omp_set_num_threads(threads)
    kmeans = faiss.Kmeans(x.shape[1], len(start), niter=iterations, max_points_per_centroid=len(x))
    kmeans.train(x, init_centroids=start)
    stamps = [stats["time"] for stats in kmeans.iteration_stats]
    return stamps[-1] - stamps[-2], kmeans.centroids


def scikit_learn(x: NDArray[np.float32], start: NDArray[np.float32], iterations: int, threads: int) -> Result:
    """sklearn.cluster.KMeans, algorithm lloyd: timed by difference. It also assigns once at the end."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    def fit(n: int) -> tuple[float, NDArray[np.float32]]:
        begin = time.perf_counter()
        model = KMeans(len(start), init=start, n_init=1, max_iter=n, tol=0, algorithm="lloyd", copy_x=False).fit(x)
        return time.perf_counter() - begin, model.cluster_centers_

    with threadpool_limits(threads), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns that it has not converged, which is intended
        one_iteration, _ = fit(1)
        all_iterations, centers = fit(iterations)
    return (all_iterations - one_iteration) / (iterations - 1), centers


def fastkmeans(x: NDArray[np.float32], start: NDArray[np.float32], iterations: int, threads: int) -> Result:
    """fastkmeans on the CPU: timed by difference. It starts from its own centroids."""
    import torch
    from fastkmeans import FastKMeans

    torch.set_num_threads(threads)

    def train(n: int) -> tuple[float, NDArray[np.float32]]:
        model = FastKMeans(x.shape[1], len(start), niter=n, tol=-1, gpu=False, use_triton=False, verbose=False)
        begin = time.perf_counter()
        model.train(x)
        return time.perf_counter() - begin, model.centroids

    one_iteration, _ = train(1)
    all_iterations, centers = train(iterations)
    return (all_iterations - one_iteration) / (iterations - 1), centers


def torch_bf16(x: Any, start: NDArray[np.float32], iterations: int, threads: int) -> Result:
    """A user's own loop: bfloat16 rows (converted before), products by torch in chunks, sums in float32."""
    import torch

    torch.set_num_threads(threads)
    centers, k = torch.from_numpy(start).clone(), len(start)
    chunk = 16_384 if k <= 512 else 4_096
    seconds = 0.0
    for _ in range(iterations):
        begin = time.perf_counter()
        half_norms, right = (centers**2).sum(1) / 2, centers.to(torch.bfloat16).T.contiguous()
        sums, counts = torch.zeros_like(centers), torch.zeros(k)
        for i in range(0, len(x), chunk):
            rows = x[i : i + chunk]
            labels = ((rows @ right).float() - half_norms).argmax(1)
            sums.index_add_(0, labels, rows.float())
            counts += torch.bincount(labels, minlength=k)
        centers = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], centers)
        seconds = time.perf_counter() - begin
    return seconds, centers.numpy()
