"""What the files of a run are made from: hashes of its inputs, its options and what its earlier stages found.

A pool can grow. The fit, and all that depends on it alone, is of the first files. The shards of the sweep are of these
too, up to the rows that were appended: each step of growth has an origin that continues that of the step before.

Every file of a run says its origin and its place. So a file of another run, of another configuration or of another
place is refused, however sound its bytes are. Equal inputs and options give equal origins: copies of one run can be
merged, and a run that was moved goes on.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from hashlib import blake2b
from typing import Any

from gdig.run.record import RunRecord
from gdig.run.record_file import plain


def curvature_origin(record: RunRecord) -> str:
    """Return the origin of the curvature: of the inputs (of the pool, the first files), and the options of the fit."""
    return _digest(_inputs(record), record.stages.fit and record.stages.fit.config)


def seeds_origin(record: RunRecord) -> str:
    """Return the origin of the seeds' factors: that of the curvature, and its report."""
    return _digest(curvature_origin(record), _curvature(record))


def pass_origin(record: RunRecord, *facts: Any) -> str:
    """Return the origin of the rows of a pass over the pool, before they are scaled.

    Args:
        record: of the run; its fit is done.
        facts: what else the pass depends on, which JSON can hold.
    """
    fit, sweep = record.stages.fit, record.stages.sweep
    seeds = asdict(fit.seeds) if fit and fit.seeds else None
    dtype = fit.dtype if fit else None
    return _digest(_inputs(record), fit and fit.config, dtype, _curvature(record), seeds, sweep and sweep.config, facts)


def sweep_origin(record: RunRecord) -> str:
    """Return the origin of the sweep of the first files, and of what is made of the seeds beside it.

    The batch size and the memory of the seeds' gradients are not in it: they change results by rounding at most, and
    parts of one sweep may come from machines of different memory.
    """
    sweep = record.stages.sweep
    assert sweep is not None
    return pass_origin(record, "sweep", record.first_rows, sweep.scale)


def rows_origin(record: RunRecord) -> str:
    """Return the origin of the shards of the sweep: with the origin of each step of growth (:func:`origin_at`)."""
    return _grown(record, sweep_origin(record))


def origin_at(origin: str, stop: int) -> str:
    """Return what rows are made from of which the last is `stop - 1`: the origin of the step that added this row.

    `origin`: of :func:`rows_origin`, such as "a1 500:b2 720:c3": a1, then b2 from row 500 on, then c3 from row 720 on.
    """
    first, *steps = origin.split(" ")
    for step in steps:
        row, _, text = step.partition(":")
        if int(row) < stop:
            first = text
    return first


def grown_from(origin: str) -> tuple[int, ...]:
    """Return the rows from which each step of growth goes on, in an origin of :func:`rows_origin`."""
    return tuple(int(step.partition(":")[0]) for step in origin.split(" ")[1:])


def continues(origin: str, earlier: str) -> bool:
    """Whether an origin of :func:`rows_origin` is an earlier one with more steps of growth."""
    return origin.startswith(f"{earlier} ")


def checkpoint_origin(record: RunRecord, key: str) -> str:
    """Return the origin of the shards of a training checkpoint."""
    sweep = record.stages.sweep
    assert sweep is not None
    checkpoint = sweep.checkpoints[key]
    return pass_origin(record, "checkpoint", key, record.first_rows, checkpoint.step, checkpoint.layers)


def checkpoint_rows_origin(record: RunRecord, key: str) -> str:
    """Return the origin of the shards of a training checkpoint, with the origin of each step of growth."""
    return _grown(record, checkpoint_origin(record, key))


def cluster_origin(record: RunRecord) -> str:
    """Return the origin of the clusters: that of the rows that k-means saw, and the options of the cluster stage."""
    cluster, rows = record.stages.cluster, rows_origin(record)
    assert cluster is not None
    return _digest(rows if cluster.rows is None else origin_at(rows, cluster.rows), cluster.config)


def field_key(name: str) -> str:
    """Return a key of a field's name, for the origin of what is read from the field."""
    return _digest("field", name)


def _inputs(record: RunRecord) -> list[Any]:
    """The fingerprints of the inputs; the order of the files is that of the rows. Of the pool, the first files."""
    sweep = record.stages.sweep
    first = sweep.growth[0].files if sweep is not None and sweep.growth else None
    return [
        [kind, list(files.items())[: first if kind == "candidates" else None]]
        for kind, files in sorted(record.inputs.items())
    ]


def _grown(record: RunRecord, origin: str) -> str:
    """An origin, continued by each step of growth."""
    sweep = record.stages.sweep
    assert sweep is not None
    files = list(record.inputs.get("candidates", {}).items())
    steps, before = [origin], origin
    for number, growth in enumerate(sweep.growth):
        end = sweep.growth[number + 1].files if number + 1 < len(sweep.growth) else None
        before = _digest(before, files[growth.files : end])
        steps.append(f"{growth.first_row}:{before}")
    return " ".join(steps)


def _curvature(record: RunRecord) -> Any:
    fit = record.stages.fit
    return asdict(fit.curvature) if fit and fit.curvature else None


def _digest(*values: Any) -> str:
    text = json.dumps(plain(values), sort_keys=True)
    return blake2b(text.encode(), digest_size=8).hexdigest()
