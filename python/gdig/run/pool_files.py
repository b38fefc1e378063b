"""The files of a pool that grows: those of the run, with more after them, or the first of them alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

from gdig.run.record import Growth, RunRecord

CANDIDATES = "candidates"
Prints = Mapping[str, Mapping[str, Any]]
"""The fingerprint of each file by name, in the order of the rows."""


def with_recorded_names(record: RunRecord, inputs: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the inputs of a start, with the names that the run has for the same files of the pool.

    Names are relative to the folder that the files have in common, and an appended file can lie elsewhere.
    """
    before, now = record.inputs.get(CANDIDATES, {}), inputs.get(CANDIDATES, {})
    if list(before) == list(now):
        return inputs
    names = list(before)
    by_content = {(PurePosixPath(name).name, str(file)): name for name, file in before.items()}
    files: dict[str, Any] = {}
    for place, (name, file) in enumerate(now.items()):
        base = PurePosixPath(name).name
        at_place = names[place] if place < len(names) and PurePosixPath(names[place]).name == base else None
        if at_place is not None and before[at_place] == file:  # of files with equal names and contents, the same one
            recorded: str | None = at_place
        else:
            recorded = by_content.get((base, str(file)), at_place)  # at its place: its content changed
        own = name if recorded is None or recorded in files else recorded
        while own in files:
            own = f"+{own}"
        files[own] = file
    return {**inputs, CANDIDATES: files}


def are_appended(before: Prints, now: Prints) -> bool:
    """Whether files come after those of the run, which are as they were."""
    return 0 < len(before) < len(now) and list(now.items())[: len(before)] == list(before.items())


def are_earlier(record: RunRecord, now: Prints) -> bool:
    """Whether the files are those of the run before it grew once, or more often."""
    sweep, before = record.stages.sweep, record.inputs.get(CANDIDATES, {})
    if sweep is None or len(now) not in [growth.files for growth in sweep.growth]:
        return False
    return list(before.items())[: len(now)] == list(now.items())


def grown(record: RunRecord, inputs: dict[str, dict[str, Any]]) -> RunRecord:
    """Return the record of a finished sweep to whose pool files were appended: the sweep has their rows to make."""
    sweep, cluster = record.stages.sweep, record.stages.cluster
    assert sweep is not None and sweep.rows is not None
    growth = Growth(len(record.inputs[CANDIDATES]), sweep.rows)
    checkpoints = {key: replace(checkpoint, state="running") for key, checkpoint in sweep.checkpoints.items()}
    sweep = replace(sweep, growth=(*sweep.growth, growth), state="running", checkpoints=checkpoints)
    record = replace(record, inputs=inputs).with_stage("sweep", sweep)
    # The rows have no labels yet.
    return record if cluster is None else record.with_stage("cluster", replace(cluster, state="running"))


def is_growing(record: RunRecord) -> bool:
    """Whether rows of appended files are not all swept."""
    sweep = record.stages.sweep
    return sweep is not None and bool(sweep.growth) and sweep.state == "running"


def shrunk(record: RunRecord, now: Prints) -> RunRecord:
    """Return the record without the last growth, whose rows are not all swept: its files are not given any more."""
    sweep = record.stages.sweep
    assert sweep is not None
    last = sweep.growth[-1]
    sweep = replace(sweep, growth=sweep.growth[:-1], rows=last.first_row)
    return replace(record, inputs={**record.inputs, CANDIDATES: dict(now)}).with_stage("sweep", sweep)
