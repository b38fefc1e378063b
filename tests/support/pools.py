"""Finished sweeps that hypothesis makes, in memory and on disk, and what a choice from them takes."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.selection.choose import choose
from gdig.selection.method import FinishedSweep
from gdig.selection.survey import make_judge, survey
from gdig.selection.tasks import Tasks
from gdig.store.sketches import SketchStore
from gdig.store.tensor_file import write_tensors

# Few different values, so that ties are common.
SCORES = st.sampled_from([-1.5, -1.0, 0.0, -0.0, 0.25, 0.5, 0.5000001, 3.0])


NO_TASKS = Tasks()


@dataclass
class Columns:
    """A finished sweep in memory. influence [n, S] float32; the others [n]."""

    influence: np.ndarray
    loss: np.ndarray
    tokens: np.ndarray
    valid: np.ndarray


@dataclass
class Pool(Columns):
    """A finished sweep with labels, uint32 [n]. rule: of the score."""

    labels: np.ndarray
    rule: str = "mean"

    @property
    def n_seeds(self) -> int:
        return self.influence.shape[1]

    @cached_property
    def votes(self) -> list[int]:
        return [sum(float(x) > 0 for x in row) for row in self.influence]  # no effect is no help

    @cached_property
    def score(self) -> list[np.float32]:
        # A sum of at most 6 numbers in float64, rounded once; likewise their squares.
        return [np.float32(self._of(list(map(float, row)))) for row in self.influence]

    def _of(self, row: list[float]) -> float:
        if self.rule == "mean":
            return sum(row) / self.n_seeds
        squares = sum(x * x for x in row)
        return sum(row) / math.sqrt(self.n_seeds * squares) if squares else 0.0


@st.composite
def pools(draw) -> Pool:
    n, n_seeds = draw(st.integers(1, 30)), draw(st.integers(1, 6))

    def column(values, dtype, k=n):
        return np.array(draw(st.lists(values, min_size=k, max_size=k)), dtype=dtype)

    return Pool(
        influence=column(SCORES, np.float32, n * n_seeds).reshape(n, n_seeds),
        loss=column(SCORES, np.float32),
        tokens=column(st.integers(1, 9), np.int32),
        valid=column(st.booleans(), bool),
        labels=column(st.integers(0, 4), np.uint32),
        rule=draw(st.sampled_from(["steady", "mean"])),
    )


@st.composite
def cases(draw) -> tuple[Pool, Limit]:
    pool = draw(pools())
    unit = draw(st.sampled_from(["rows", "tokens"]))
    held = len(pool.valid) if unit == "rows" else int(pool.tokens.sum())
    return pool, Limit(unit, draw(st.integers(1, held)))


@contextmanager
def on_disk(
    pool: Pool, rows_per_shard: int = 7, hidden: np.ndarray | None = None
) -> Iterator[tuple[SketchStore, Path]]:
    """The pool as a sweep leaves it, with or without hidden states [n, dim], and its labels as k-means does."""
    with tempfile.TemporaryDirectory() as folder:
        store = SketchStore.create(f"{folder}/sweep", 1, rows_per_shard=rows_per_shard)
        labels = Path(folder) / "labels"
        for shard, start in enumerate(range(0, len(pool.valid), rows_per_shard)):
            span = slice(start, min(len(pool.valid), start + rows_per_shard))
            n = span.stop - start
            columns = {name: getattr(pool, name)[span] for name in ("influence", "loss", "tokens", "valid")}
            if hidden is not None:
                columns["hidden"] = hidden[span]
            store.write_shard(shard, {"sketch": np.zeros((n, 1), np.float32), **columns})
            distances = np.arange(start, span.stop, dtype=np.float32) / 2
            tensors = {"labels": pool.labels[span], "distances": distances}
            write_tensors(labels / f"{shard:08d}.safetensors", tensors, {"first_row": str(start)})
        yield store, labels


def chosen_with(pool: Pool, limit: Limit, *, clusters: bool = True, tasks: Tasks = NO_TASKS, **options):
    with on_disk(pool) as (store, labels):
        config = Config.build({"score": pool.rule, "relative_to": "zero", **options})
        seen = survey(store, make_judge(store, config, tasks))
        return choose(FinishedSweep(store, seen, labels if clusters else None, tasks=tasks), limit, config)


def plain_prefix(rows: list[int], pool: Columns, limit: Limit) -> list[int]:
    """Rows from the first on, up to the first that the budget does not allow."""
    prefix: list[int] = []
    spent = 0
    for row in rows:
        spent += int(pool.tokens[row]) if limit.unit == "tokens" else 1
        if spent > limit.amount:
            break
        prefix.append(row)
    return prefix
