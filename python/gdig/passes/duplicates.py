"""Rows of the pool that are equal, token by token, to another row or to a seed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gdig.store.sketches import SketchStore

# Hashes looked at together: 2^26 are 512 MiB, sorted in place.
_AT_ONCE = 1 << 26


def count_duplicates(store: SketchStore, seed_hashes: Sequence[int]) -> tuple[int, int]:
    """Count valid rows that repeat an earlier row, and valid rows that equal a seed.

    Rows are compared by a 64-bit hash of their tokens and labels; a pool larger than memory is looked at one range of
    hashes after another.
    """
    parts = -(-len(store) // _AT_ONCE)
    seeds = np.unique(np.array(seed_hashes, dtype=np.uint64))
    repeated = equal = 0
    for part in range(parts):
        found = [_valid_hashes(store, shard, part, parts) for shard in range(store.n_shards)]
        hashes = np.concatenate(found) if found else np.empty(0, np.uint64)
        hashes.sort()
        repeated += int((hashes[1:] == hashes[:-1]).sum())
        equal += int(np.isin(hashes, seeds).sum())
    return repeated, equal


def _valid_hashes(store: SketchStore, shard: int, part: int, parts: int) -> np.ndarray:
    hashes = store.tensor(shard, "hash")[store.tensor(shard, "valid") != 0]
    return np.array(hashes[hashes % np.uint64(parts) == part] if parts > 1 else hashes)
