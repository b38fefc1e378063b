"""Pools of four kinds, cut out of a collection: rows, seeds, and the held-out rows that judge a training.

P1: many tasks, one of them the target, with spoiled rows. P2: one task, with spoiled rows. P3: several targets among
the seeds. P4: repeats, and no spoiled row.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from benches.pretrained.collection import Collection

SHARE_OF_OTHER_TARGETS = 0.75
"""In a mixed pool, a task that is a target elsewhere gives this share of its clean rows."""


@dataclass(frozen=True)
class Pool:
    """A pool over a collection.

    rows: numbers of the collection's rows, a repeated row several times. at: their places among the collection's pool
    rows. seeds: columns of the influence. held: numbers of rows. good: bool [n], clean rows of a target.
    """

    name: str
    kind: str
    targets: tuple[str, ...]
    rows: np.ndarray
    at: np.ndarray
    seeds: np.ndarray
    held: np.ndarray
    good: np.ndarray


def pools(collection: Collection) -> Iterator[Pool]:
    """All pools of a collection."""
    plan = collection.plan
    if len(plan.targets) == 1:
        (target,) = plan.targets
        for name, spoiled in (("30 % spoiled", plan.spoiled), ("15 % spoiled", plan.spoiled // 2)):
            yield _pool(collection, f"{target}, {name}", "P2", {target: (plan.clean, spoiled)})
        return
    for target in plan.targets:
        yield _pool(collection, target, "P1", {target: (plan.clean, plan.spoiled)})
    for name, seeds in MANY_TARGETS.items():
        yield _pool(collection, name, "P3", {t: (plan.clean, plan.spoiled) for t in seeds}, seeds)
    for target in plan.targets[:2]:
        yield _pool(collection, f"{target}, repeats", "P4", {target: (plan.clean, 0)}, repeats=6)


MANY_TARGETS = {
    "five targets": dict.fromkeys(("translation", "common_gen", "sciq", "commonsense_qa", "rotten_tomatoes"), 12),
    "three targets, unequal seeds": {"gigaword": 20, "common_gen": 8, "commonsense_qa": 4},
}
"""Seeds of each target."""


def _pool(
    collection: Collection,
    name: str,
    kind: str,
    counts: dict[str, tuple[int, int]],
    n_seeds: dict[str, int] | None = None,
    repeats: int = 1,
) -> Pool:
    """counts: rows of each target, and how many of them are spoiled. repeats: how often every eighth row occurs."""
    plan, pool = collection.plan, collection.where("pool")
    tasks = np.array([row.task for row in collection.rows])
    spoiled = np.array([row.fault != "clean" for row in collection.rows])
    chosen: list[np.ndarray] = []
    for task in (*plan.targets, *plan.others):
        own = pool[tasks[pool] == task]
        clean, bad = own[~spoiled[own]], own[spoiled[own]]
        if task in counts:
            n, n_bad = counts[task]
            chosen += [clean[n_bad:n], bad[:n_bad]]
        elif task in plan.targets:
            chosen.append(clean[: round(SHARE_OF_OTHER_TARGETS * len(clean))])
        else:
            chosen.append(clean)
    rows = np.concatenate(chosen)
    if repeats > 1:
        rows = np.concatenate([rows, *[rows[::8]] * (repeats - 1)])
    rows = np.random.default_rng(plan.random_seed).permutation(rows)
    seed_rows = collection.where("seed")
    seeds = np.concatenate(
        [np.flatnonzero(tasks[seed_rows] == t)[: (n_seeds or {}).get(t, plan.seeds)] for t in counts]
    )
    held = np.concatenate([collection.where("held", t) for t in counts])
    good = np.isin(tasks[rows], list(counts)) & ~spoiled[rows]
    return Pool(name, kind, tuple(counts), rows, np.searchsorted(pool, rows), seeds, held, good)
