"""Rows of a store by their numbers."""

from __future__ import annotations

from collections.abc import Callable
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
    gathered = np.empty((len(rows), *first.shape[1:]), first.dtype)
    return _fill(gathered, store, rows, lambda shard: store.tensor(shard, name))


def gather_sketches(store: SketchStore, rows: NDArray[np.integer]) -> NDArray[np.float32]:
    """Read the sketches of some rows: float32 [n, dim], in the order of `rows`. Errors are those of :func:`gather`."""
    stored = gather(store, "sketch", rows)
    if store.dtype == "bfloat16":
        # NumPy has no bfloat16. The stored values are the upper halves of float32.
        return (stored.astype(np.uint32) << 16).view(np.float32)
    x = stored.astype(np.float32, copy=False)
    return x * gather(store, "scale", rows)[:, None] if store.dtype == "int8" else x


def _fill(
    out: NDArray[Any], store: SketchStore, rows: NDArray[np.integer], read: Callable[[int], NDArray[Any]]
) -> NDArray[Any]:
    shards = rows // store.rows_per_shard
    for shard in np.unique(shards).tolist():
        in_shard = shards == shard
        out[in_shard] = read(shard)[rows[in_shard] - shard * store.rows_per_shard]
    return out
