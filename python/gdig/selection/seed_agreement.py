"""Whether the other seeds agree with a seed: the correlation of its influences with theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray


def seed_agreement(blocks: Callable[[], Iterable[NDArray]], seeds: Sequence[int]) -> NDArray[np.float64]:
    """Return the correlation of each given seed's influences with the mean of the other seeds'.

    Each seed counts alike, however long its gradient is: columns are divided by their deviations first. It takes two
    passes over the influence, and its memory is that of a block.

    Args:
        blocks: makes the blocks of the influence, [n, S] each, the same ones each time.
        seeds: columns.

    Returns:
        float64 [len(seeds)]; 0 where a seed does not vary, or no other does.
    """
    n, total, squares = 0, 0.0, 0.0
    for x in blocks():
        x = x.astype(np.float64)
        n, total, squares = n + len(x), total + x.sum(0), squares + np.square(x).sum(0)
    if not n:
        return np.zeros(len(seeds))
    mean = np.asarray(total / n)
    deviation = np.sqrt(np.maximum(squares / n - mean * mean, 0))
    scale = np.where(deviation > 1e-12 * np.abs(mean), deviation, np.inf)
    columns = np.array(seeds)
    products, sizes = np.zeros(len(columns)), np.zeros(len(columns))
    own_sizes = np.zeros(len(columns))
    for x in blocks():
        z = (x.astype(np.float64) - mean) / scale
        own = z[:, columns]
        others = z.sum(1)[:, None] - own
        products += (own * others).sum(0)
        sizes += np.square(others).sum(0)
        own_sizes += np.square(own).sum(0)
    size = np.sqrt(sizes * own_sizes)
    return np.asarray(products / np.where(size > 0, size, np.inf))
