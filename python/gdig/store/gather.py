"""Rows of a store by their numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gdig.store.sketches import SketchStore


def gather(store: SketchStore, name: str, rows: NDArray[np.integer]) -> NDArray[Any]:
    """Return one tensor of a store for some rows, [n] or [n, ...]; only these rows are read.

    Args:
        store: with a shard for each of the rows.
        name: of the tensor.
        rows: int [n], row numbers, in any order.

    Raises:
        StoreError: if a shard is absent or damaged, or lacks the tensor.
    """
    step = store.rows_per_shard
    first = store.tensor(store.shards[0], name)
    gathered = np.empty((len(rows), *first.shape[1:]), first.dtype)
    for shard in np.unique(rows // step).tolist():
        here = rows // step == shard
        gathered[here] = store.tensor(shard, name)[rows[here] - shard * step]
    return gathered
