"""The nearest neighbours of rows by cosine, for the methods that use them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gdig import _native
from gdig.config.config import Config
from gdig.errors import AmountError
from gdig.kmeans import KMeans
from gdig.store.sketches import INVALID_LABEL, SketchStore

EXACT_ROWS = 262_144
"""Up to so many rows `neighbour_search=auto` compares every row with every other."""
SAMPLE = 1_000
"""Rows on which the recall is measured."""


class Neighbours(NamedTuple):
    """The k nearest rows of each row, the nearest first, ties by row.

    rows: uint32 [n, k], 4294967295 where there is no neighbour. cosines: float32 [n, k], NaN there. notes: what the
    user should know.
    """

    rows: NDArray[np.uint32]
    cosines: NDArray[np.float32]
    notes: tuple[str, ...] = ()


class ClusterSearch(NamedTuple):
    """The result of a search by clusters.

    random_seed: of the k-means and the sample. n_probe: clusters that each row is compared with. centroids: float32
    [K, dim]. labels: uint32 [n]. fewest: least number of rows that a row is compared with. rows, cosines: as in
    `Neighbours`. recalls: [k], recall of the first 1 to k neighbours.
    """

    random_seed: int
    n_probe: int
    centroids: NDArray[np.float32]
    labels: NDArray[np.uint32]
    fewest: int
    rows: NDArray[np.uint32]
    cosines: NDArray[np.float32]
    recalls: list[float]


@dataclass
class NeighbourCache:
    """Results of searches of one set of rows, for later searches of the same rows. No result depends on the cache.

    most: largest number of neighbours that a method will ask for; the first search finds as many. exact, clustered: the
    largest search of its kind so far. Its first k neighbours are those of a search for k; a search by clusters
    guarantees this only when `fewest` is more than the number searched for.
    """

    most: int = 0
    exact: Neighbours | None = None
    clustered: ClusterSearch | None = None

    def forget(self) -> None:
        """Free the memory: 8 bytes a neighbour, and for clusters 4 bytes a row."""
        self.exact = self.clustered = None


def nearest(
    x: SketchStore | NDArray[Any],
    k: int,
    valid: int,
    random_seed: int,
    options: Config,
    cache: NeighbourCache | None = None,
) -> Neighbours:
    """Find the k nearest rows of each row.

    Args:
        x: the sketches, whose invalid rows are left out, or rows [n, dim] of floats.
        k: neighbours of a row; fewer than `valid`.
        valid: number of valid rows.
        random_seed: of the k-means and the sample of a search by clusters.
        options: neighbour_search, n_probe, threads.
        cache: results of earlier searches of `x`; this search adds its own.

    Raises:
        ConfigError: if k or fewer rows are valid.
        GdigError: naming the row that is not finite.
    """
    if k >= valid:
        raise AmountError(
            f"n_neighbours={k}: expected at most {max(0, valid - 1)}, because the pool has {valid} valid rows"
        )
    cache = NeighbourCache() if cache is None else cache
    width = max(k, min(cache.most, valid - 1))
    if options.neighbour_search == "exact" or (options.neighbour_search == "auto" and valid <= EXACT_ROWS):
        if cache.exact is None or cache.exact.rows.shape[1] < k:
            source = x._native if isinstance(x, SketchStore) else x
            cache.exact = Neighbours(*_native.neighbours(source, width, n_threads=options.threads or 0))
        rows, cosines, _ = cache.exact
        return Neighbours(*_first(k, rows, cosines))
    search, asked = cache.clustered, (random_seed, options.n_probe)
    if search is None or (search.random_seed, search.n_probe) != asked or search.rows.shape[1] < k:
        search = cache.clustered = _by_clusters(x, width, valid, random_seed, options, search)
    if search.rows.shape[1] > k and search.rows.shape[1] >= search.fewest:  # some rows met more clusters than k needs
        search = _by_clusters(x, k, valid, random_seed, options, search)
    n_clusters = len(search.centroids)
    note = (
        f"each row's neighbours come from {min(options.n_probe, n_clusters)} of {n_clusters} clusters: "
        f"{search.recalls[k - 1]:.1%} of the {k} nearest, by a sample"
    )
    return Neighbours(*_first(k, search.rows, search.cosines), (note,))


def _by_clusters(
    x: SketchStore | NDArray[Any], k: int, valid: int, random_seed: int, options: Config, earlier: ClusterSearch | None
) -> ClusterSearch:
    """Search by the clusters of an earlier search, if its random seed was the same."""
    if earlier is not None and earlier.random_seed == random_seed:
        centroids, labels = earlier.centroids, earlier.labels
    else:
        # As many clusters as rows in each: comparing a row with all centroids costs as much as with one cluster.
        kmeans = KMeans(
            max(1, math.isqrt(valid)), random_state=random_seed, unit_normalize=True, n_threads=options.threads
        )
        labels, centroids = kmeans.fit_predict(x).view(np.uint32), kmeans.cluster_centers_
    sizes = np.bincount(labels[labels != INVALID_LABEL], minlength=len(centroids))
    search = _native.neighbours_by_clusters(
        x._native if isinstance(x, SketchStore) else x,
        k,
        labels=labels,
        centroids=centroids,
        n_probe=options.n_probe,
        sample=min(SAMPLE, valid),
        random_seed=random_seed,
        n_threads=options.threads or 0,
    )
    fewest = int(np.sort(sizes)[: options.n_probe].sum())
    return ClusterSearch(random_seed, options.n_probe, centroids, labels, fewest, *search)


def _first(
    k: int, rows: NDArray[np.uint32], cosines: NDArray[np.float32]
) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    return np.ascontiguousarray(rows[:, :k]), np.ascontiguousarray(cosines[:, :k])


def column(store: SketchStore, name: str) -> NDArray[Any]:
    """Return one tensor of all shards, [N]."""
    return np.concatenate([store.tensor(shard, name) for shard in store.shards])
