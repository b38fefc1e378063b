"""Selection methods in plain NumPy, everything from the start at each step."""

from __future__ import annotations

import numpy as np

from gdig.selection.tasks import Tasks


def units(x: np.ndarray) -> np.ndarray:
    """Rows at unit length, as the core has them: float64, each number rounded to float32 once."""
    x = x.astype(np.float64)
    return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float32).astype(np.float64)


def plain_self_filter(u: np.ndarray, difficulty: np.ndarray, budget: int, k: int) -> list[int]:
    now = difficulty.astype(np.float64) - difficulty.min()
    pending, chosen = list(range(len(u))), []
    for _ in range(budget):
        row = max(pending, key=lambda i: (now[i], -i))
        pending.remove(row)
        chosen.append(row)
        cosines = (u[pending] @ u[row]).astype(np.float32).astype(np.float64)
        for at in np.lexsort((pending, -cosines))[:k]:
            now[pending[at]] -= max(now[row], 0) * max(cosines[at], 0) ** 2
    return chosen


def plain_round_robin(x: np.ndarray, valid: np.ndarray, tasks: Tasks) -> tuple[list[int], list[int], list[int], int]:
    """All turns: rows, the seed that took each, its rank in the seed's column, and the seeds without a turn."""
    rows, n_seeds = np.flatnonzero(valid).tolist(), x.shape[1]
    orders = [sorted(rows, key=lambda i, j=j: (-float(x[i, j]), i)) for j in range(n_seeds)]
    flat = [len({float(x[i, j]) for i in rows}) <= 1 for j in range(n_seeds)]
    of_seed = tasks.of_seed if tasks else np.zeros(n_seeds, int)
    queues = [[j for j in np.flatnonzero(of_seed == t).tolist() if all(flat) or not flat[j]] for t in set(of_seed)]
    queues = [queue for queue in queues if queue]
    chosen, seeds, ranks = [], [], []
    while len(chosen) < len(rows):
        queue = queues.pop(0)  # the first task and its first seed go to the end of their lines
        seed = queue.pop(0)
        queue.append(seed)
        queues.append(queue)
        row = next(i for i in orders[seed] if i not in chosen)
        chosen.append(row)
        seeds.append(seed)
        ranks.append(orders[seed].index(row) + 1)
    return chosen, seeds, ranks, sum(flat)


def plain_facility(near: np.ndarray, cosines: np.ndarray, budget: int) -> tuple[list[int], list[float]]:
    """Facility location: the rows whose lines name a row are covered by it. near, cosines: [n, k], of valid rows."""
    n = len(near)
    similar = np.zeros((n, n))
    for row in range(n):
        similar[row, near[row]] = np.maximum(cosines[row], 0)
    similar[np.arange(n), np.arange(n)] = 1
    best, chosen, gains = np.zeros(n), [], []
    while len(chosen) < budget:
        gain = np.maximum(similar - best[:, None], 0).sum(0)
        gain[chosen] = -1
        row = int(gain.argmax())
        chosen.append(row)
        gains.append(float(gain[row]))
        best = np.maximum(best, similar[:, row])
    return chosen, gains
