"""Selection methods in plain NumPy, everything from the start at each step."""

from __future__ import annotations

import numpy as np


def units(x: np.ndarray) -> np.ndarray:
    """Rows at unit length, as the core has them: float64, each number rounded to float32 once."""
    x = x.astype(np.float64)
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32).astype(np.float64)


def plain_self_filter(u: np.ndarray, difficulty: np.ndarray, budget: int, k: int) -> list[int]:
    now = difficulty.astype(np.float64) - difficulty.min()
    left, chosen = list(range(len(u))), []
    for _ in range(budget):
        row = max(left, key=lambda i: (now[i], -i))
        left.remove(row)
        chosen.append(row)
        cosines = (u[left] @ u[row]).astype(np.float32).astype(np.float64)
        for at in np.lexsort((left, -cosines))[:k]:
            now[left[at]] -= max(now[row], 0) * max(cosines[at], 0) ** 2
    return chosen


def plain_turns(values: np.ndarray, valid: np.ndarray, order: list[int]) -> list[tuple[int, int]]:
    """Rows and seeds in the order of the turns, by looking at every row each time."""
    free, picked = set(np.flatnonzero(valid).tolist()), []
    while free:
        seed = order[len(picked) % len(order)]
        row = max(free, key=lambda i: (values[i, seed], -i))
        free.remove(row)
        picked.append((row, seed))
    return picked
