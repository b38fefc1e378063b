"""The time left of all stages, on runs that were recorded and on runs whose stages take otherwise than expected."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

import pytest

from gdig.forecast import Forecast, PlannedStage
from gdig.meter import Meter
from tests.test_progress import Clock

BATCHES = 50
RECORD = Path(__file__).parents[1] / "benches" / "record" / "plan.json"
STAGES = (
    PlannedStage("fit: factors", 100, 380, 1, 1, repeated=0.9),
    PlannedStage("fit: eigenvectors", 1, 7, 0, 1, apart=True),
    PlannedStage("fit: eigenvalues", 100, 355, 1, 1, repeated=0.7),
    PlannedStage("fit: seeds", 64, 97),
    PlannedStage("sweep: scale", 20, 8, 1),
    PlannedStage("sweep: seeds", 64, 23, 1),
    PlannedStage("sweep", 1000, 359, 1),
    PlannedStage("cluster: k-means", 100, 2, apart=True),
)
"""A run of 20 minutes by its plan; the work is in seconds."""


@dataclass(frozen=True)
class Moment:
    """An estimate after a batch, and the truth.

    Attributes:
        stage: the name of its bar.
        share: of the stage that this start has done, of what it has to do.
        passed: seconds since the start.
        estimate: of the seconds left.
        true: seconds left.
        work: left.
        seen: least and greatest seconds that a unit of work took, of the stages up to this one.
        left: the same, of the stages from this one on.
        weight: of the first batch of the stage in the speed of a stage.
    """

    stage: str
    share: float
    passed: float
    estimate: float
    true: float
    work: float
    seen: tuple[float, float]
    left: tuple[float, float]
    weight: float


def follow(stages: Sequence[PlannedStage], speeds: Sequence[float], names: Sequence[str] = ()) -> list[Moment]:
    """The moments of a start. `speeds`: the true seconds of a unit of work, by stage.

    `names`: of the bars, where they differ from those of the plan. Each divides the work as `Forecast` does.
    """
    clock = Clock()
    forecast = Forecast(stages, clock)
    titles = names or [stage.name for stage in stages]
    planned = {}
    for title in titles:
        stage = forecast.begin(title)
        assert stage is not None
        planned[title] = stage
    forecast = Forecast(stages, clock)
    work = [planned[title].work * (1 - planned[title].done) for title in titles]
    true = [speed * amount for speed, amount in zip(speeds, work, strict=True)]
    moments, start = [], clock.now
    passes = 0.0  # work of this start in passes of the model
    for number, title in enumerate(titles):
        if work[number] == 0:
            continue
        forecast.begin(title)
        done = planned[title].done
        seen = [speeds[n] for n in range(number + 1) if work[n]]
        left = [speeds[n] for n in range(number, len(titles)) if work[n]]
        # As `Forecast` states it: a fiftieth of a stage beside a twentieth of prior weight that ends at a fifth.
        first = (1 - done) / BATCHES
        own = first / (first + 0.05 * (1 - first / 0.2))
        pooled = work[number] / BATCHES / (passes + work[number] / BATCHES) if passes else 1.0
        for batch in range(1, BATCHES + 1):
            clock.now += true[number] / BATCHES
            forecast.update(done + (1 - done) * batch / BATCHES, done)
            passed, estimate, share = clock.now - start, forecast.left_s, batch / BATCHES
            assert estimate is not None
            rest = sum(work[number + 1 :]) + work[number] * (1 - share)
            bounds = (min(seen), max(seen)), (min(left), max(left))
            weight = own + (1 - own) * pooled
            moments.append(Moment(title, share, passed, estimate, sum(true) - passed, rest, *bounds, weight))
        passes += 0.0 if planned[title].apart else work[number]
        before = forecast.left_s
        forecast.end()
        after = forecast.left_s
        assert before is not None and after is not None and math.isclose(before, after, abs_tol=1e-6)
        if number + 1 < len(titles) and work[number + 1]:
            forecast.begin(titles[number + 1])
            assert forecast.left_s == pytest.approx(after), "the change of a stage alone changes the time left"
    return moments


def tenths(moments: list[Moment]) -> Iterator[Moment]:
    """The first moment at or after each tenth of the run but the last."""
    whole = moments[-1].passed
    for tenth in range(1, 10):
        yield next(moment for moment in moments if moment.passed >= whole * tenth / 10)


def check(moments: list[Moment]) -> None:
    """Assert that no estimate is further off than speeds differ.

    A unit of work to come is taken to last a weighted mean of what units lasted in this start. So at each tenth of the
    run the estimate is at least the least speed seen times the work left, and at most the greatest speed seen times it.
    The first batch of a stage moves no speed by more than its weight times the difference of speeds.
    """
    for moment in tenths(moments):
        (least, most), (least_left, most_left) = moment.seen, moment.left
        assert least * moment.work - 1e-6 <= moment.estimate <= most * moment.work + 1e-6, moment
        assert moment.true * least / most_left - 1e-6 <= moment.estimate <= moment.true * most / least_left + 1e-6
    for one, two in pairwise(moments):
        if one.stage != two.stage:
            batch = one.work - two.work
            explained = (two.seen[1] - two.seen[0]) * (two.weight * two.work + batch)
            jump = abs(two.estimate + (two.passed - one.passed) - one.estimate)
            assert jump <= explained + 1e-6, (one, two)


def recorded() -> list[tuple[list[PlannedStage], list[float]]]:
    """Expected seconds as work, and measured seconds of a unit of it, of the runs of the bench of `gdig plan`."""
    runs = []
    for case in json.loads(RECORD.read_text())["cases"].values():
        stages = {name: facts for name, facts in case["stages"].items() if name.startswith(("fit", "sweep"))}
        by_name = {stage.name: stage for stage in STAGES}
        planned = [replace(by_name[name], work=facts["planned_s"]) for name, facts in stages.items()]
        runs.append((planned, [facts["measured_s"] / facts["planned_s"] for facts in stages.values()]))
    return runs


@pytest.mark.parametrize(("stages", "speeds"), recorded())
def test_recorded_runs(stages: list[PlannedStage], speeds: list[float]) -> None:
    moments = follow(stages, speeds)
    check(moments)
    # Passes were within 25 % of what was expected, and the plan as a whole within 8 %.
    assert all(abs(moment.estimate / moment.true - 1) < 0.25 for moment in tenths(moments))


@pytest.mark.parametrize("factor", [5.0, 0.2])
@pytest.mark.parametrize("number", range(len(STAGES)), ids=[stage.name for stage in STAGES])
def test_one_stage_that_is_five_times_slower_or_faster(number: int, factor: float) -> None:
    speeds = [factor if n == number else 1.0 for n in range(len(STAGES))]
    moments = follow(STAGES, speeds)
    check(moments)
    # In the last long stage its own speed is all that counts from a fifth on; k-means is left, 2 s as expected.
    late = [moment for moment in moments if moment.stage == "sweep" and moment.share >= 0.2]
    assert all(abs(moment.estimate - moment.true) <= 4 * 2 + 1e-6 for moment in late), late


@pytest.mark.parametrize("factor", [5.0, 0.2])
def test_eigenvectors_tell_nothing_of_passes(factor: float) -> None:
    """Their speed follows from the sizes of layers. Nothing that is left of passes changes with it."""
    speeds = [factor if stage.name == "fit: eigenvectors" else 1.0 for stage in STAGES]
    stages = [replace(stage, work=1000.0) if stage.apart else stage for stage in STAGES[:-1]]
    moments = [moment for moment in follow(stages, speeds[:-1]) if moment.stage != "fit: factors"]
    passes = [moment for moment in moments if moment.stage != "fit: eigenvectors"]
    assert all(math.isclose(moment.estimate, moment.true, abs_tol=1e-6) for moment in passes)


@pytest.mark.parametrize("factor", [5.0, 0.2])
def test_partitions_go_by_those_before_them(factor: float) -> None:
    """All of one kind are slow: what is left is right from the second partition on."""
    n = 4
    kinds = ("factors", "eigenvectors", "eigenvalues")
    names = [f"fit: {kind}, partition {number} of {n}" for number in range(1, n + 1) for kind in kinds]
    rest = [stage.name for stage in STAGES[3:]]
    speeds = [factor if "factors" in name else 1.0 for name in [*names, *rest]]
    moments = follow(STAGES, speeds, [*names, *rest])
    check(moments)
    ends = {moment.stage: moment for moment in moments}
    known = ends["fit: eigenvalues, partition 1 of 4"]
    partitions = moments[moments.index(known) : moments.index(ends["fit: eigenvalues, partition 4 of 4"])]
    # The other passes are still expected by the mean of those two kinds.
    others = sum(stage.work for stage in STAGES[3:])
    assert all(abs(moment.estimate - moment.true) <= abs(factor - 1) * others + 1e-6 for moment in partitions)


def test_checkpoints_go_by_those_before_them() -> None:
    """Of three training checkpoints, with the pass over the pool twice as slow as that of the sweep."""
    sizes = ((": seeds", 64, 20.0), ("", 1000, 400.0))
    checkpoints = [
        PlannedStage(f"checkpoint {number} of 3{part}", units, work, 1)
        for number in (1, 2, 3)
        for part, units, work in sizes
    ]
    stages = [STAGES[6], *checkpoints]
    moments = follow(stages, [1.0] + [2.0] * 6)
    check(moments)
    later = [moment for moment in moments if moment.stage.startswith(("checkpoint 2", "checkpoint 3"))]
    assert all(math.isclose(moment.estimate, moment.true, rel_tol=1e-6, abs_tol=1e-6) for moment in later)


def test_a_later_start_measures_anew() -> None:
    """Finished stages count as done, without a speed; a part of a stage that was done counts for no speed."""
    done = (1.0, 1.0, 0.6, 0.0, 0.0, 0.0, 0.0, 0.0)
    stages = [replace(stage, done=share) for stage, share in zip(STAGES, done, strict=True)]
    check(follow(stages, [9.0, 9.0, 2.0, 2.0, 1.0, 2.0, 4.0, 2.0]))
    same = follow(stages, [3.0] * 8)
    assert all(math.isclose(moment.estimate, moment.true, abs_tol=1e-6) for moment in same)


def test_a_start_that_has_other_partitions_than_the_one_before_it() -> None:
    """The record tells three; the memory of this start takes two, or no partition at all."""
    stages = [replace(stage, partitions=3) if stage.partitions else stage for stage in STAGES]
    forecast = Forecast(stages, Clock())
    assert forecast.begin("fit: factors, partition 1 of 3") is not None
    two = forecast.begin("fit: factors, partition 1 of 2")
    assert two is not None and two.work == pytest.approx(380 * (0.9 * (0.5 + 0.25 * 3 / 2) + 0.1 / 2))
    assert forecast.begin("fit: factors") == replace(STAGES[0], partitions=3)
    assert forecast.begin("merge, partition 1 of 2") is None


@pytest.mark.parametrize(("share", "shown"), [(math.nextafter(1, 0), 100), (0.9949, 99), (0.29, 29), (0.0, 0)])
def test_the_share_of_a_finished_run_is_shown_as_100(monkeypatch, share, shown):
    clock = Clock()
    meter = Meter(clock, Forecast(STAGES, clock), STAGES[0], 100, "rows", 0)
    monkeypatch.setattr(Forecast, "share", property(lambda self: share))
    monkeypatch.setattr(Forecast, "left_s", property(lambda self: 0.0))
    assert f"{shown} %" in meter.whole_run() and f"all {shown}%" in meter.whole_run(short=True)
