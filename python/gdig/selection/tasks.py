"""Tasks: which seed is of which."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from gdig.data.corpus import Corpus
from gdig.errors import CorpusError


@dataclass(frozen=True)
class Tasks:
    """Names of the tasks, in the order in which the seeds first name them, and each seed's: int64 [S], an index.

    Without task labels there are neither names nor indices: the seeds are of one kind.
    """

    names: tuple[str, ...] = ()
    of_seed: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))

    def __bool__(self) -> bool:
        return bool(self.names)

    def mean(self, influence: np.ndarray) -> np.ndarray:
        """Mean influence on each task's seeds: float64 [n, tasks], of influence [n, S]."""
        counts = np.bincount(self.of_seed, minlength=len(self.names))
        one_hot = np.eye(len(self.names))[self.of_seed]
        return influence.astype(np.float64) @ one_hot / counts


def read_tasks(seeds: Corpus, name: str | None) -> Tasks:
    """Read the field `name` of every seed; without a name there are no tasks.

    Raises:
        CorpusError: naming the seed that lacks the field or holds no text or whole number there, or when all seeds are
            of one task.
    """
    if name is None:
        return Tasks()
    index: dict[str, int] = {}
    of_seed = []
    for row, fields in enumerate(seeds.rows(0, len(seeds))):
        value = fields.get(name) if isinstance(fields, dict) else None
        if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
            raise CorpusError(
                f"{seeds.where(row)}: {name}: expected the seed's task, a text or a number, got {value!r}"
            )
        of_seed.append(index.setdefault(str(value), len(index)))
    if len(index) == 1:
        raise CorpusError(
            f"task_field: {name}: all {len(of_seed)} seeds are of one task, {next(iter(index))!r}, expected several; "
            "name another field, or leave the option out"
        )
    return Tasks(tuple(index), np.array(of_seed, dtype=np.int64))
