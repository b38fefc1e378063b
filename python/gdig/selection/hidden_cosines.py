"""Cosines of the pool's hidden states with the seeds', shard by shard."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gdig.errors import StoreError
from gdig.selection.method import FinishedSweep
from gdig.selection.relevance import Relevance
from gdig.store.sketches import SketchStore


def hidden_cosines(sweep: FinishedSweep) -> tuple[Relevance, int]:
    """Return the cosines of a shard's hidden-state sketches with the seeds', and the number of seeds.

    The cosine of a row whose states add up to 0 is 0.
    """
    seeds = sweep.seed_hidden()

    def cosines(shard: int) -> NDArray[np.float32]:
        return exact_cosines(read_hidden(sweep.store, shard), seeds).astype(np.float32)

    return cosines, len(seeds)


def read_hidden(store: SketchStore, shard: int) -> NDArray[np.float16]:
    """Return the hidden-state sketches of a shard, float16 [n, dim], memory-mapped.

    Raises:
        StoreError: when the shard has none, as one that an older version wrote.
    """
    if "hidden" not in store.tensor_names:
        raise StoreError(f"{store.path}: expected hidden-state sketches, but this sweep has none; sweep again")
    return store.tensor(shard, "hidden")


def exact_cosines(x: NDArray[np.float16], y: NDArray[np.float16]) -> NDArray[np.float64]:
    """Return the cosines of rows x [n, dim] with rows y [m, dim], all of about unit length: float64 [n, m].

    The inner products are exact. A product of two float16 numbers is a multiple of 2^-48. Sums of such products over
    rows of unit length stay below 2. Float64 holds every such partial sum. So no library, chip or number of threads
    changes a bit. 0 where a row is 0.
    """
    a, b = x.astype(np.float64), y.astype(np.float64)
    lengths = np.sqrt((a * a).sum(1))[:, None] * np.sqrt((b * b).sum(1))
    return a @ b.T / np.where(lengths == 0, 1.0, lengths)
