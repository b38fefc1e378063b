"""The signals of one pool, as the rules of choice see them."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from benches.pretrained.collection import Collection
from benches.pretrained.pools import Pool
from benches.pretrained.signals import unit
from gdig import KMeans


@dataclass(frozen=True)
class View:
    """The signals of one pool: N rows, S seeds.

    Attributes:
        influence: float64 [N, S]. length: [N], |G| in the norm of H^-1. gram: [S, S], seeds in that metric.
        sketch: [N, dim] and seed_sketch: [S, dim], at unit length. sketch_length: [N], before that.
        fisher: [N, dim], sketches in Fisher space at unit length. fisher_length: [N], before that.
        hidden, seed_hidden: at unit length.
        bm25: [N, S]. loss: [N]. task_of_seed: int [S]. source: [N], task names.
        content: int [N], the same for rows that repeat each other.
    """

    influence: np.ndarray
    length: np.ndarray
    gram: np.ndarray
    sketch: np.ndarray
    sketch_length: np.ndarray
    fisher: np.ndarray
    fisher_length: np.ndarray
    seed_sketch: np.ndarray
    hidden: np.ndarray
    seed_hidden: np.ndarray
    bm25: np.ndarray
    loss: np.ndarray
    task_of_seed: np.ndarray
    source: np.ndarray
    content: np.ndarray
    _labels: dict[tuple[int, int, str], np.ndarray] = field(default_factory=dict)

    @classmethod
    def of(cls, collection: Collection, pool: Pool, influence: str = "influence", square: str = "square") -> View:
        """Cut a pool's signals out of its collection's."""
        s = collection.signals
        n = len(collection.where("pool"))
        seed_rows = collection.where("seed")[pool.seeds]
        tasks = [collection.rows[i].task for i in seed_rows]
        return cls(
            s[influence][pool.at][:, pool.seeds].astype(np.float64),
            np.sqrt(s[square][pool.at]),
            s["gram"][np.ix_(pool.seeds, pool.seeds)],
            unit(s["sketch"][:n][pool.at]),
            np.linalg.norm(s["sketch"][:n][pool.at], axis=1),
            unit(s["fisher"][pool.at]),
            np.linalg.norm(s["fisher"][pool.at], axis=1),
            unit(s["sketch"][n:][pool.seeds]),
            unit(s["hidden"][:n][pool.at]),
            unit(s["hidden"][n:][pool.seeds]),
            s["bm25"][pool.at][:, pool.seeds],
            s["loss"][pool.at],
            np.array([pool.targets.index(t) for t in tasks]),
            np.array([collection.rows[i].task for i in pool.rows]),
            pool.rows,
        )

    @cached_property
    def cosine(self) -> np.ndarray:
        """Influence without the row's length: a cosine in the metric of H^-1, up to the seed's length. [N, S]"""
        return self.influence / np.maximum(self.length, 1e-30)[:, None] / np.sqrt(np.diag(self.gram))

    @cached_property
    def sketch_cosine(self) -> np.ndarray:
        """Cosine of raw sketches [N, S]."""
        return (self.sketch @ self.seed_sketch.T).astype(np.float64)

    @cached_property
    def hidden_cosine(self) -> np.ndarray:
        """RDS+ [N, S]."""
        return (self.hidden @ self.seed_hidden.T).astype(np.float64)

    def labels(self, k: int, random_seed: int, space: str = "raw") -> np.ndarray:
        """Clusters as gdig makes them for a budget of k rows: k-means of directions, 512 clusters at most. int64 [N]"""
        if (k, random_seed, space) not in self._labels:
            kmeans = KMeans(min(512, k), unit_normalize=True, random_state=random_seed, n_threads=1)
            sketch = self.fisher if space == "fisher" else self.sketch
            self._labels[k, random_seed, space] = kmeans.fit_predict(sketch).astype(np.int64)
        return self._labels[k, random_seed, space]
