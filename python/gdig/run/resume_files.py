"""What the resume files of a run are made from, and which of them are no longer needed."""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict
from hashlib import blake2b
from typing import Any

from gdig.run.layout import RunLayout, shard_resume_file
from gdig.run.record import read_record
from gdig.store.sketches import SketchStore


def run_origin(layout: RunLayout, *facts: Any) -> str:
    """Return a hash of a run's inputs, of its options, and of what its fit found: 16 hexadecimal digits.

    Rank 0 alone calls this, because the record of the run is its own.

    Args:
        layout: of the run.
        facts: further values that the work depends on, which JSON can hold.
    """
    record = read_record(layout.record)  # numbers as a file gives them, at every start
    fit, sweep = record.stages.fit, record.stages.sweep
    # The numbers that a start finds for itself, such as the batch size, are in the resume files.
    reports = [asdict(report) if report else None for report in (fit.curvature, fit.seeds)] if fit else []
    identity = [record.inputs, fit and [fit.config, fit.dtype], reports, sweep.config if sweep else None, facts]
    return blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=8).hexdigest()


def remove_finished(store: SketchStore) -> None:
    """Remove the resume files of shards that are whole: a start can end between the two, and a merge adds shards."""
    folder = shard_resume_file(store.path, 0).parent
    if not folder.is_dir():
        return
    for shard in store.shards:
        shard_resume_file(store.path, shard).unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # other shards are begun
        folder.rmdir()
