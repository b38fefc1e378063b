"""How far a run is over all of its stages, and the time left: the planned work, and the speeds measured so far."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

_FAIR = 0.2
"""The share of a stage whose own speed is enough to go by."""
_PRIOR = 0.05
"""Weight of the speed of the whole run beside a stage's own while little of the stage is measured: a share of it."""


@dataclass(frozen=True)
class PlannedStage:
    """What a stage is expected to do.

    Attributes:
        name: the title of the stage's bar.
        units: the units of its bar, such as rows.
        work: the work of the whole stage. All stages of a plan have one unit of work, such as tokens of a plain forward
            and backward pass, or seconds.
        tokens: the tokens that the stage passes; 0 if its work does not go by tokens.
        partitions: of the layers, in which the stage comes together with the other such stages, as far as is known; 1
            where only its start tells. 0: it never comes in partitions.
        done: the share of the stage that earlier starts have finished, 0 to 1.
        repeated: the share of the work that is a pass of the model, of which every partition makes one.
        apart: whether its time follows from something else than passes of the model, so that its speed tells nothing
            of theirs.
    """

    name: str
    units: float
    work: float
    tokens: float = 0.0
    partitions: int = 0
    done: float = 0.0
    repeated: float = 0.0
    apart: bool = False


class Forecast:
    """The share that is done of all planned stages, and the time left.

    What earlier starts finished counts as done. So a later start shows no smaller share than the one before it, but for
    the work that was lost.

    The time left is the work left of each stage over its speed. That is the stage's own speed in this start. As long as
    little of it is measured, the speed of stages of its kind counts beside it, such as other partitions. As long as
    these are little too, the speed of all that this start has done does. So nothing jumps when a stage ends and another
    one begins. The time left is there from the first batch on.

    It is wrong by no more than speeds differ. With s the seconds of a unit of work, it is the work left times a
    weighted mean of the s that this start measured. The true time left has the s of what is to come in its place.

    Args:
        stages: all stages in order, finished ones too. When one begins, those before it count as done.
        clock: seconds from any origin, never going back.
    """

    def __init__(self, stages: Sequence[PlannedStage], clock: Callable[[], float] = time.monotonic) -> None:
        self._undivided = list(stages)
        self._stages = _divide(stages, max((stage.partitions for stage in stages), default=1))
        self._clock = clock
        self._current: int | None = None
        self._share = self._share_before = 0.0
        self._begun = 0.0
        self._measured: list[tuple[PlannedStage, float, float]] = []  # of this start: seconds and work

    def begin(self, name: str) -> PlannedStage | None:
        """Begin a stage, and return its plan. None: the stage is not planned, and nothing is counted.

        A name that ends in ", partition 1 of n" divides the planned stages that come in partitions by n.
        """
        if name not in [stage.name for stage in self._stages]:
            partition = re.fullmatch(r".*, partition \d+ of (\d+)", name)
            divided = _divide(self._undivided, int(partition[1]) if partition else 1)
            if name in [stage.name for stage in divided]:
                self._stages = divided
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
        if self._current is not None:
            self._measured.append(self._now())
            self._share_before = 1.0

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
        now = self._now()
        measured = [*self._measured, now] if now[2] > 0 else self._measured
        seconds, work = _total(measured)
        if work <= 0 or seconds <= 0:
            return None
        passes = _total(each for each in measured if not each[0].apart)
        # Until a pass is measured, the others tell more than nothing.
        pooled = _blend(passes, seconds / work, _PRIOR * sum(stage.work for stage in self._stages))
        left_s = 0.0
        for number, stage in enumerate(self._stages[self._current :], self._current):
            left = stage.work * (1 - (self._share if number == self._current else stage.done))
            runs = number == self._current
            alike = _total(each for each in (self._measured if runs else measured) if _kind(each[0]) == _kind(stage))
            own = now[1:] if runs else (0.0, 0.0)
            left_s += left * _blend(own, _blend(alike, pooled, stage.work), stage.work)
        return left_s

    def _now(self) -> tuple[PlannedStage, float, float]:
        """The stage that runs, with its seconds and its work in this start."""
        assert self._current is not None
        stage = self._stages[self._current]
        work = max(0.0, self._share - self._share_before) * stage.work
        return stage, self._clock() - self._begun, work

    def _done(self) -> float:
        """The work that is done: of the stages before the one that runs, of this one, and of those after it."""
        current = -1 if self._current is None else self._current
        done = sum(stage.work for stage in self._stages[: max(0, current)])
        if current >= 0:
            done += self._share * self._stages[current].work
        return done + sum(stage.done * stage.work for stage in self._stages[current + 1 :])


def _divide(stages: Sequence[PlannedStage], n: int) -> list[PlannedStage]:
    """Divide the stages that come in partitions of the layers by n. All of them come in each partition.

    Every partition makes the forward pass anew, and the backward pass down to its lowest layer: to half of all depths
    on average, and a little more. The two are taken to be equal. They are where the layers are those of the upper half;
    the higher the layers, the more the forward pass takes.
    """
    if n <= 1:
        return list(stages)
    whole = [stage for stage in stages if stage.partitions]
    a_pass = 0.5 + 0.25 * (n + 1) / n
    parts = [
        replace(
            stage,
            name=f"{stage.name}, partition {number} of {n}",
            work=stage.work * (stage.repeated * a_pass + (1 - stage.repeated) / n),
            partitions=0,
        )
        for number in range(1, n + 1)
        for stage in whole
    ]
    return parts + [stage for stage in stages if not stage.partitions]


def _kind(stage: PlannedStage) -> str:
    """The name without its number, such as that of a partition or of a training checkpoint."""
    return re.sub(r"\d+ of \d+", "", stage.name)


def _total(measured: Iterable[tuple[PlannedStage, float, float]]) -> tuple[float, float]:
    """Seconds and work in all."""
    seconds = work = 0.0
    for _, more_seconds, more_work in measured:
        seconds, work = seconds + more_seconds, work + more_work
    return seconds, work


def _blend(measured: tuple[float, float], otherwise: float, whole: float) -> float:
    """Seconds of a unit of work: as measured, and `otherwise` as far as a fair share of a `whole` is not measured."""
    seconds, work = measured
    prior = _PRIOR * whole * max(0.0, 1 - work / (_FAIR * whole)) if whole > 0 else 0.0
    return (seconds + prior * otherwise) / (work + prior) if work + prior > 0 else otherwise
