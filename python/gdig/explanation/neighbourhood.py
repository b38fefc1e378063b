"""What lies near some vectors in the sketches of a run: nearest rows, repeats, ranks. One pass over the shards."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gdig.store.sketches import SketchStore


@dataclass
class Target:
    """A row that is explained, inside the pool or outside.

    row: its number; None outside the pool. sketch: float32 [dim], at the store's scale. influence: float32 [S].
    hash: of tokens and labels.

    Found by `look_around`: near: (cosine, row) of the nearest rows, the nearest first. repeats: rows with the same
    hash. ranks: int64 [S], of the row's influence on each seed among the valid rows, from 1.
    """

    row: int | None
    sketch: NDArray[np.float32]
    influence: NDArray[np.float32]
    hash: int
    near: list[tuple[float, int]] = field(default_factory=list)
    repeats: list[int] = field(default_factory=list)
    ranks: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))


def look_around(store: SketchStore, targets: list[Target], n_near: int) -> None:
    """Find the nearest rows, repeats and ranks of each target. A row is no neighbour of itself."""
    units = np.stack([_unit(target.sketch[None].astype(np.float32))[0] for target in targets])
    for target in targets:
        target.ranks = np.ones(len(target.influence), np.int64)
    for shard in store.shards:
        start, _ = store.shard_range(shard)
        valid = store.tensor(shard, "valid") != 0
        at = np.flatnonzero(valid)
        cosines = _unit(store.rows_float32(shard)[at]) @ units.T
        influence, hashes = store.tensor(shard, "influence"), store.tensor(shard, "hash")
        for number, target in enumerate(targets):
            here = cosines[:, number].copy()
            if target.row is not None:
                here[at + start == target.row] = -2.0
            best = np.argsort(-here, kind="stable")[:n_near]
            candidates = [(float(here[i]), int(at[i]) + start) for i in best if here[i] > -2.0]
            target.near = sorted([*target.near, *candidates], key=lambda pair: (-pair[0], pair[1]))[:n_near]
            same = at[hashes[at] == np.uint64(target.hash)] + start
            target.repeats += [int(row) for row in same if row != target.row]
            target.ranks += (influence[at] > target.influence).sum(0)


def _unit(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Rows at unit length; a row of zeros stays."""
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    return np.asarray(x / np.where(lengths == 0, 1, lengths), np.float32)
