"""Vectors in the plane: by principal components, and by a layout that keeps neighbours together.

The layout is that of UMAP (McInnes, Healy and Melville, 2018) in small: rows that are neighbours attract each other,
and rows drawn at random repel each other. It starts from the ranks of the principal components. Distances between far
groups mean nothing.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_NEIGHBOURS = 12
_EPOCHS = 120
_REPELLED = 4
"""Rows drawn at random for each row and epoch."""
_WIDTH = 4.0
"""The start lies in a square from -4 to 4."""
_A, _B = 1.577, 0.895
"""Of the curve 1 / (1 + a d^2b), which is near 1 below the distance 0.1 and falls as exp(-d) beyond."""


class Plane(NamedTuple):
    """pca, layout: float64 [n, 2]. explained: share of the variance that the components have. near: int64 [n, k], the
    nearest rows of each, and their cosines [n, k]."""

    pca: NDArray[np.float64]
    layout: NDArray[np.float64]
    explained: float
    near: NDArray[np.int64]
    cosines: NDArray[np.float64]


def to_plane(x: NDArray[np.floating], random_seed: int = 0) -> Plane:
    """Lay out rows x [n, d] by their directions. n is a few thousand: all pairs are compared."""
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    units = (x / np.where(lengths == 0, 1, lengths)).astype(np.float32)
    pca, explained = _components(units.astype(np.float64))
    k = min(_NEIGHBOURS, len(x) - 1)
    cosines = units @ units.T
    np.fill_diagonal(cosines, -2)
    near = np.argpartition(-cosines, max(0, k - 1), axis=1)[:, :k] if k else np.zeros((len(x), 0), np.int64)
    values = np.take_along_axis(cosines, near, axis=1).astype(np.float64)
    order = np.argsort(-values, axis=1, kind="stable")
    near, values = np.take_along_axis(near, order, axis=1), np.take_along_axis(values, order, axis=1)
    layout = _layout(pca, near, values, np.random.default_rng(random_seed)) if k > 1 else pca
    return Plane(pca, layout, explained, near, values)


def nearest_of_sample(x: NDArray[np.float32], sample: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return for each row of x [n, d] the row of the sample [m, d] with the highest cosine: int64 [n]."""
    lengths = np.linalg.norm(sample, axis=1, keepdims=True)
    return (x @ (sample / np.where(lengths == 0, 1, lengths)).T).argmax(1)


def _components(x: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """The first two principal components, scaled to a deviation of 1, and their share of the variance."""
    centred = x - x.mean(0)
    covariance = centred.T @ centred
    values, vectors = np.linalg.eigh(covariance)
    top = vectors[:, ::-1][:, :2]
    top = top * np.where(top[np.abs(top).argmax(0), np.arange(top.shape[1])] < 0, -1, 1)  # a sign is arbitrary
    plane = centred @ top
    plane = np.pad(plane, ((0, 0), (0, 2 - plane.shape[1])))
    deviation = plane.std(0)
    total = values.clip(0).sum()
    return plane / np.where(deviation > 0, deviation, 1), float(values[::-1][:2].sum() / total) if total > 0 else 1.0


def _layout(
    start: NDArray[np.float64], near: NDArray[np.int64], cosines: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    n, k = near.shape
    # A row's own scale: its nearest neighbour has the weight 1, its farthest exp(-2).
    spread = np.maximum(cosines[:, :1] - cosines[:, -1:], 1e-9)
    weight = np.exp(-2 * (cosines[:, :1] - cosines) / spread).ravel()
    own, other = np.repeat(np.arange(n), k), near.ravel()
    # Ranks, because a few rows far out would leave all others a corner of the map: nothing pulls groups together.
    ranks = np.argsort(np.argsort(start, axis=0, kind="stable"), axis=0)
    place = _WIDTH * (2 * ranks / (n - 1) - 1) + rng.normal(0, 1e-2, start.shape)
    for epoch in range(_EPOCHS):
        rate = 1 - epoch / _EPOCHS
        apart = place[own] - place[other]
        squares = (apart * apart).sum(1)
        pull = -2 * _A * _B * np.maximum(squares, 1e-9) ** (_B - 1) / (1 + _A * squares**_B) * weight
        step = np.clip(pull[:, None] * apart, -4, 4)
        move = _sums(own, step, n) - _sums(other, step, n)
        for _ in range(_REPELLED):
            apart = place - place[rng.permutation(n)]
            squares = (apart * apart).sum(1)
            push = 2 * _B / ((0.001 + squares) * (1 + _A * squares**_B))
            move += np.clip(push[:, None] * apart, -4, 4)
        place += rate * np.clip(move / 4, -4, 4)
    place -= place.mean(0)
    deviation = place.std(0)
    return np.asarray(place / np.where(deviation > 0, deviation, 1))


def _sums(at: NDArray[np.int64], step: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    return np.stack([np.bincount(at, weights=step[:, axis], minlength=n) for axis in (0, 1)], axis=1)
