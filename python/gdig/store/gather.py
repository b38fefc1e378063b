"""Rows of a store by their numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gdig.store.sketches import SketchStore


def gather(store: SketchStore, name: str, rows: NDArray[np.integer]) -> NDArray[Any]:
    """Read some rows of one tensor of a store.

    Args:
        store: a store with a shard for each of the rows.
        name: the name of the tensor.
        rows: int [n], row numbers in any order.

    Returns:
        [n] or [n, ...], in the order of `rows` and the dtype of the tensor.

    Raises:
        StoreError: if a shard is absent or damaged, or lacks the tensor.
    """
    first = store.tensor(store.shards[0], name)
    shards = rows // store.rows_per_shard
    gathered = np.empty((len(rows), *first.shape[1:]), first.dtype)
    for shard in np.unique(shards).tolist():
        in_shard = shards == shard
        gathered[in_shard] = store.tensor(shard, name)[rows[in_shard] - shard * store.rows_per_shard]
    return gathered
