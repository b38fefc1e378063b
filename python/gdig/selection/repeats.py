"""Rows that have the tokens and labels of an earlier row."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gdig.store.sketches import SketchStore

_AT_ONCE = 1 << 25
"""Rows whose hashes are sorted at once. They take 32 bytes a row."""


def repeats(store: SketchStore, at_once: int = _AT_ONCE) -> NDArray[np.bool_]:
    """Return which valid rows repeat an earlier valid row: bool [N].

    A 64-bit hash of tokens and labels identifies a row. Of a large pool, the hashes are sorted in several rounds; round
    i of n takes the hashes with hash % n == i. Memory holds a byte a row, and `at_once` rows.
    """
    n = len(store)
    is_repeat = np.zeros(n, np.bool_)
    rounds = max(1, -(-n // at_once))
    for number in range(rounds):
        hashes, rows = [], []
        for shard in store.shards:
            start, _ = store.shard_range(shard)
            own = np.asarray(store.tensor(shard, "hash"))
            counts = store.tensor(shard, "valid") != 0
            if rounds > 1:
                counts = counts & (own % np.uint64(rounds) == number)
            hashes.append(own[counts])
            rows.append(start + np.flatnonzero(counts))
        all_hashes = np.concatenate(hashes) if hashes else np.zeros(0, np.uint64)
        all_rows = np.concatenate(rows) if rows else np.zeros(0, np.int64)
        order = np.argsort(all_hashes, kind="stable")  # rows of one hash stay in their order
        all_hashes, all_rows = all_hashes[order], all_rows[order]
        is_repeat[all_rows[1:][all_hashes[1:] == all_hashes[:-1]]] = True
    return is_repeat
