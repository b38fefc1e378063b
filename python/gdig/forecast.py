"""How far a run is over all of its stages, and the time left: the planned work, and the speed measured so far."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class PlannedStage:
    """What a stage is expected to do.

    Attributes:
        name: the title of the stage's bar.
        units: the units of its bar, such as rows.
        work: the work of the whole stage. All stages of a plan have one unit of work, such as tokens of a plain forward
            and backward pass, or seconds.
        tokens: the tokens that the stage passes; 0 if its work does not go by tokens.
        partitioned: whether the stage may come in partitions of the layers, together with the other such stages.
        done: the share of the stage that earlier starts have finished, 0 to 1.
    """

    name: str
    units: float
    work: float
    tokens: float = 0.0
    partitioned: bool = False
    done: float = 0.0


class Forecast:
    """The share that is done of all planned stages, and the time left.

    What earlier starts finished counts as done. So a later start shows no smaller share than the one before it, but for
    the work that was lost.

    The time left is the work left over the speed of the stage that runs now. So it is there from the first batch on. It
    is as good as the proportions of the planned work.

    Args:
        stages: all stages in order, finished ones too. When one begins, those before it count as done.
        clock: seconds from any origin, never going back.
    """

    def __init__(self, stages: Sequence[PlannedStage], clock: Callable[[], float] = time.monotonic) -> None:
        self._stages = list(stages)
        self._clock = clock
        self._current: int | None = None
        self._share = self._share_before = 0.0
        self._begun = 0.0

    def begin(self, name: str) -> PlannedStage | None:
        """Begin a stage, and return its plan. None: the stage is not planned, and nothing is counted.

        A name that ends in ", partition 1 of n" divides the planned stages that are partitioned.
        """
        partition = re.fullmatch(r".*, partition \d+ of (\d+)", name)
        if partition and name not in [stage.name for stage in self._stages]:
            self._divide(int(partition[1]))
        for number, stage in enumerate(self._stages):
            if stage.name == name:
                self._current, self._share, self._share_before, self._begun = number, 0.0, 0.0, self._clock()
                return stage
        return None

    def update(self, share: float, share_before: float) -> None:
        """Set the share that is done of the stage that runs, and the share of it that an earlier start did."""
        self._share, self._share_before = share, share_before

    def end(self) -> None:
        """Count the stage that runs as done."""
        self._share = 1.0

    @property
    def share(self) -> float:
        """The share that is done of the work of all stages, 0 to 1."""
        total = sum(stage.work for stage in self._stages)
        return self._done() / total if total > 0 else 0.0

    @property
    def left_s(self) -> float | None:
        """The seconds left of all stages; None until some work is measured."""
        if self._current is None:
            return None
        measured = (self._share - self._share_before) * self._stages[self._current].work
        elapsed = self._clock() - self._begun
        if measured <= 0 or elapsed <= 0:
            return None
        return (sum(stage.work for stage in self._stages) - self._done()) * elapsed / measured

    def _divide(self, n: int) -> None:
        """Divide the partitioned stages by n. All of them come in each partition."""
        whole = [stage for stage in self._stages if stage.partitioned]
        divided = [
            replace(stage, name=f"{stage.name}, partition {number} of {n}", work=stage.work / n, partitioned=False)
            for number in range(1, n + 1)
            for stage in whole
        ]
        self._stages = divided + [stage for stage in self._stages if not stage.partitioned]

    def _done(self) -> float:
        """The work that is done: of the stages before the one that runs, of this one, and of those after it."""
        current = -1 if self._current is None else self._current
        done = sum(stage.work for stage in self._stages[: max(0, current)])
        if current >= 0:
            done += self._share * self._stages[current].work
        return done + sum(stage.done * stage.work for stage in self._stages[current + 1 :])
