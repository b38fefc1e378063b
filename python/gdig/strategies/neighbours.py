"""The nearest neighbours of rows by cosine, for the methods that go along them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gdig import _native
from gdig.config import Config
from gdig.errors import ConfigError
from gdig.kmeans import KMeans
from gdig.store import SketchStore

EXACT_ROWS = 262_144
"""Up to so many rows `neighbour_search=auto` compares every row with every other."""
PROBED = 16
"""Clusters that a row is compared with, where not all are."""
SAMPLE = 1_000
"""Rows on which the recall is measured."""


class Neighbours(NamedTuple):
    """rows uint32 [n, k] and their cosines float32 [n, k], the nearest first, ties by row; 4294967295 and NaN where
    there is none. notes: what the user should know."""

    rows: NDArray[np.uint32]
    cosines: NDArray[np.float32]
    notes: tuple[str, ...] = ()


class Clustered(NamedTuple):
    """centroids float32 [K, dim], and each row's label, uint32 [n], by a k-means from `seed`."""

    seed: int
    centroids: NDArray[np.float32]
    labels: NDArray[np.uint32]


@dataclass
class Kept:
    """What searches of the same rows leave to the next ones; no answer depends on it.

    most: neighbours that any of them will ask for, as far as is known; the first exact search finds so many. exact: the
    largest exact search so far, whose first k are what a search for k finds. clustered: the clusters of the last other
    search; how many of them a row is compared with depends on k where they are small, so neighbours are not kept.
    """

    most: int = 0
    exact: Neighbours | None = None
    clustered: Clustered | None = None

    def forget(self) -> None:
        """Give the memory back: 8 bytes for each neighbour, 4 for each row's label."""
        self.exact = self.clustered = None


def nearest(
    x: SketchStore | NDArray[Any], k: int, valid: int, seed: int, options: Config, kept: Kept | None = None
) -> Neighbours:
    """Find the k nearest rows of each row.

    Args:
        x: the sketches, of which invalid rows are left out, or rows [n, dim] of floats.
        k: how many; fewer than `valid`.
        valid: valid rows.
        seed: of the k-means and the sample, where not all rows are compared.
        options: n_neighbours (for messages), neighbour_search, threads.
        kept: what earlier searches of `x` left, and this one leaves.

    Raises:
        ConfigError: if there are not more than k valid rows.
        GdigError: naming the row that is not finite.
    """
    if k >= valid:
        raise ConfigError(f"n_neighbours: a row of {valid} valid ones has {max(0, valid - 1)} others; got {k}")
    kept = Kept() if kept is None else kept
    rows, threads = x._native if isinstance(x, SketchStore) else x, options.threads or 0
    if options.neighbour_search == "exact" or (options.neighbour_search == "auto" and valid <= EXACT_ROWS):
        if kept.exact is None or kept.exact.rows.shape[1] < k:
            width = max(k, min(kept.most, valid - 1))
            kept.exact = Neighbours(*_native.neighbours(rows, width, n_threads=threads))
        found, cosines, _ = kept.exact
        return Neighbours(np.ascontiguousarray(found[:, :k]), np.ascontiguousarray(cosines[:, :k]))
    if kept.clustered is None or kept.clustered.seed != seed:
        # As many clusters as rows in each: to find the clusters near a row costs as much as one of them.
        kmeans = KMeans(max(1, math.isqrt(valid)), seed=seed, unit_normalize=True, n_threads=options.threads).fit(x)
        kept.clustered = Clustered(seed, kmeans.cluster_centers_, kmeans.predict(x))
    _, centroids, labels = kept.clustered
    found, cosines, recall = _native.neighbours_by_clusters(
        rows,
        k,
        labels=labels,
        centroids=centroids,
        n_probe=PROBED,
        sample=min(SAMPLE, valid),
        seed=seed,
        n_threads=threads,
    )
    searched = f"{min(PROBED, len(centroids))} of {len(centroids)} clusters searched for a row's neighbours"
    return Neighbours(found, cosines, (f"{searched}: {recall:.1%} of the {k} nearest found, by a sample",))


def column(store: SketchStore, name: str) -> NDArray[Any]:
    """Return one tensor of all shards, [n]."""
    return np.concatenate([store.tensor(shard, name) for shard in store.shards])
