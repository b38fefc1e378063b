"""What the files of a run are made from: hashes of its inputs, its options and what its earlier stages found.

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
    """Return the origin of the curvature: of the inputs, and the options of the fit."""
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
    """Return the origin of the shards of the sweep, and of what is made of the pool beside them.

    The batch size and the memory of the seeds' gradients are not in it: they change results by rounding at most, and
    parts of one sweep may come from machines of different memory.
    """
    sweep = record.stages.sweep
    assert sweep is not None
    return pass_origin(record, "sweep", sweep.rows, sweep.scale)


def checkpoint_origin(record: RunRecord, key: str) -> str:
    """Return the origin of the shards of a training checkpoint."""
    sweep = record.stages.sweep
    assert sweep is not None
    checkpoint = sweep.checkpoints[key]
    return pass_origin(record, "checkpoint", key, sweep.rows, checkpoint.step, checkpoint.layers)


def cluster_origin(record: RunRecord) -> str:
    """Return the origin of the clusters: that of the sweep, and the options of the cluster stage."""
    assert record.stages.cluster is not None
    return _digest(sweep_origin(record), record.stages.cluster.config)


def _inputs(record: RunRecord) -> list[Any]:
    """The fingerprints of the inputs; the order of the files is that of the rows."""
    return [[kind, list(files.items())] for kind, files in sorted(record.inputs.items())]


def _curvature(record: RunRecord) -> Any:
    fit = record.stages.fit
    return asdict(fit.curvature) if fit and fit.curvature else None


def _digest(*values: Any) -> str:
    text = json.dumps(plain(values), sort_keys=True)
    return blake2b(text.encode(), digest_size=8).hexdigest()
