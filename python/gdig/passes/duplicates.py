"""Rows of the pool that equal another row or a seed, token by token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gdig.store.sketches import SketchStore

_MAX_HASHES = 1 << 26
"""Hashes that are sorted at once, in place: 2^26 hashes take 512 MiB."""


def count_duplicates(store: SketchStore, seed_hashes: Sequence[int]) -> tuple[int, int]:
    """Count the valid rows that repeat another row, and the valid rows that equal a seed.

    A 64-bit hash of tokens and labels identifies a row. The hashes of a large pool are sorted in several rounds; round
    i of n takes the hashes with hash % n == i.

    Args:
        store: a finished sweep.
        seed_hashes: the hash of each seed.

    Returns:
        repeated: the number of valid rows minus the number of different valid rows.
        equal: the number of valid rows that equal a seed.
    """
    rounds = -(-len(store) // _MAX_HASHES)
    seeds = np.unique(np.array(seed_hashes, dtype=np.uint64))
    repeated = equal = 0
    for number in range(rounds):
        by_shard = [_valid_hashes(store, shard, number, rounds) for shard in range(store.n_shards)]
        hashes = np.concatenate(by_shard) if by_shard else np.empty(0, np.uint64)
        hashes.sort()
        repeated += int((hashes[1:] == hashes[:-1]).sum())
        equal += int(np.isin(hashes, seeds).sum())
    return repeated, equal


def _valid_hashes(store: SketchStore, shard: int, number: int, rounds: int) -> np.ndarray:
    hashes = store.tensor(shard, "hash")[store.tensor(shard, "valid") != 0]
    return np.array(hashes[hashes % np.uint64(rounds) == number] if rounds > 1 else hashes)
