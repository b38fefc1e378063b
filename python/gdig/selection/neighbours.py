"""The nearest neighbours of rows by cosine, for the methods that go along them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gdig import _native
from gdig.config.config import Config
from gdig.errors import ConfigError
from gdig.kmeans import KMeans
from gdig.store.sketches import INVALID_LABEL, SketchStore

EXACT_ROWS = 262_144
"""Up to so many rows `neighbour_search=auto` compares every row with every other."""
SAMPLE = 1_000
"""Rows on which the recall is measured."""


class Neighbours(NamedTuple):
    """rows uint32 [n, k] and their cosines float32 [n, k], the nearest first, ties by row; 4294967295 and NaN where
    there is none. notes: what the user should know."""

    rows: NDArray[np.uint32]
    cosines: NDArray[np.float32]
    notes: tuple[str, ...] = ()


class Clustered(NamedTuple):
    """A search by clusters: rows and cosines as `Neighbours`, and recalls [k] of the first 1 to k of them.

    random_seed: of the k-means and the sample. n_probe: clusters that each row was compared with.
    centroids: float32 [K, dim]. labels: uint32 [n]. fewest: rows that any row is compared with, at least.
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
class Kept:
    """What searches of the same rows leave to the next ones; no answer depends on it.

    most: neighbours that any of them will ask for, as far as is known; the first search finds so many. exact,
    clustered: the largest search of its kind so far, whose first k are what a search for k finds; by clusters that is
    so where `fewest` is more than were searched for.
    """

    most: int = 0
    exact: Neighbours | None = None
    clustered: Clustered | None = None

    def forget(self) -> None:
        """Give the memory back: 8 bytes for each neighbour, and by clusters 4 for each row."""
        self.exact = self.clustered = None


def nearest(
    x: SketchStore | NDArray[Any], k: int, valid: int, random_seed: int, options: Config, kept: Kept | None = None
) -> Neighbours:
    """Find the k nearest rows of each row.

    Args:
        x: the sketches, of which invalid rows are left out, or rows [n, dim] of floats.
        k: how many; fewer than `valid`.
        valid: valid rows.
        random_seed: of the k-means and the sample, where not all rows are compared.
        options: n_neighbours (for messages), neighbour_search, n_probe, threads.
        kept: what earlier searches of `x` left, and this one leaves.

    Raises:
        ConfigError: if there are not more than k valid rows.
        GdigError: naming the row that is not finite.
    """
    if k >= valid:
        raise ConfigError(f"n_neighbours: a row of {valid} valid ones has {max(0, valid - 1)} others; got {k}")
    kept = Kept() if kept is None else kept
    width = max(k, min(kept.most, valid - 1))
    if options.neighbour_search == "exact" or (options.neighbour_search == "auto" and valid <= EXACT_ROWS):
        if kept.exact is None or kept.exact.rows.shape[1] < k:
            rows = x._native if isinstance(x, SketchStore) else x
            kept.exact = Neighbours(*_native.neighbours(rows, width, n_threads=options.threads or 0))
        found, cosines, _ = kept.exact
        return Neighbours(*_first(k, found, cosines))
    near = kept.clustered
    if near is None or (near.random_seed, near.n_probe) != (random_seed, options.n_probe) or near.rows.shape[1] < k:
        near = kept.clustered = _by_clusters(x, width, valid, random_seed, options, near)
    if near.rows.shape[1] > k and near.rows.shape[1] >= near.fewest:  # some rows met more clusters than k asks for
        near = _by_clusters(x, k, valid, random_seed, options, near)
    searched = (
        f"{min(options.n_probe, len(near.centroids))} of {len(near.centroids)} clusters searched for a row's neighbours"
    )
    note = f"{searched}: {near.recalls[k - 1]:.1%} of the {k} nearest found, by a sample"
    return Neighbours(*_first(k, near.rows, near.cosines), (note,))


def _by_clusters(
    x: SketchStore | NDArray[Any], k: int, valid: int, random_seed: int, options: Config, known: Clustered | None
) -> Clustered:
    """Search by the clusters of `known`, if they are of this seed."""
    if known is not None and known.random_seed == random_seed:
        centroids, labels = known.centroids, known.labels
    else:
        # As many clusters as rows in each: to find the clusters near a row costs as much as one of them.
        kmeans = KMeans(
            max(1, math.isqrt(valid)), random_state=random_seed, unit_normalize=True, n_threads=options.threads
        ).fit(x)
        centroids, labels = kmeans.cluster_centers_, kmeans.predict(x)
    sizes = np.bincount(labels[labels != INVALID_LABEL], minlength=len(centroids))
    found = _native.neighbours_by_clusters(
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
    return Clustered(random_seed, options.n_probe, centroids, labels, fewest, *found)


def _first(
    k: int, rows: NDArray[np.uint32], cosines: NDArray[np.float32]
) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    return np.ascontiguousarray(rows[:, :k]), np.ascontiguousarray(cosines[:, :k])


def column(store: SketchStore, name: str) -> NDArray[Any]:
    """Return one tensor of all shards, [n]."""
    return np.concatenate([store.tensor(shard, name) for shard in store.shards])
