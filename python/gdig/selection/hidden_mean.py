"""The mean of the pool's hidden-state sketches, from which the similarity of rows is measured."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gdig.run.layout import RunLayout
from gdig.run.origin import sweep_origin
from gdig.run.record import RunRecord
from gdig.run.session import Workspace
from gdig.selection.centred import unit_float16
from gdig.selection.hidden_cosines import read_hidden
from gdig.store.sketches import SketchStore
from gdig.store.tensor_file import CheckedFile


def ensure_hidden_mean(work: Workspace, store: SketchStore) -> None:
    """Write the mean over the valid rows of the pool's first files, unless the run has it. One pass over the shards.

    It stays as it is when the pool grows, so that the similarity of two rows does not change. A sum of float16 numbers
    is exact in float64 for up to 2^28 rows.
    """
    file, n = hidden_mean_file(work.layout, work.run.record), work.run.record.first_rows or 0
    if (damage := file.damage()) is None:
        return
    if damage.state == "damaged":
        work.progress.warn(f"{damage.what}; it is made again")
    work.run.require_writable("sweep")
    total, count = np.zeros(store.dim), 0
    with work.progress.stage("mean of hidden states", n) as bar:
        for shard in store.shards:
            start, stop = store.shard_range(shard)
            if start >= n:
                break
            own = slice(0, min(stop, n) - start)
            units = unit_float16(read_hidden(store, shard)[own][store.tensor(shard, "valid")[own] != 0])
            total += units.sum(0, dtype=np.float64)
            count += len(units)
            bar.advance(min(stop, n) - start)
    file.write({"mean": total / max(1, count)})


def hidden_mean_file(layout: RunLayout, record: RunRecord) -> CheckedFile:
    """Return the file of the mean."""
    return layout.checked(layout.hidden_mean, sweep_origin(record))


def read_hidden_mean(layout: RunLayout, record: RunRecord) -> NDArray[np.float64]:
    """Read the mean, float64 [dim] (`ensure_hidden_mean` before).

    Raises:
        StoreError: when the file is missing or damaged.
    """
    tensors, _ = hidden_mean_file(layout, record).read()
    assert record.stages.sweep is not None
    tensors.shaped({"dim": record.stages.sweep.config["projection_dim"]}, mean="float64 dim")
    return tensors["mean"]
