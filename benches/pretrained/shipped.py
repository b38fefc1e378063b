"""The package's own choice, made by the package: a pool's signals as a finished sweep."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from benches.pretrained.view import View
from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.selection.choose import choose
from gdig.selection.judge import Judge
from gdig.selection.method import FinishedSweep
from gdig.selection.survey import survey
from gdig.selection.tasks import Tasks
from gdig.store.sketches import SketchStore
from gdig.store.tensor_file import write_tensors


def shipped(view: View, k: int, random_seed: int, space: str) -> np.ndarray:
    """What `gdig` chooses, with lengths and clusters from raw or from Fisher sketches."""
    unit, length = (view.fisher, view.fisher_length) if space == "fisher" else (view.sketch, view.sketch_length)
    n = len(view.loss)
    with tempfile.TemporaryDirectory() as folder:
        store = SketchStore.create(f"{folder}/sweep", unit.shape[1], dtype="float32", rows_per_shard=n)
        columns = {
            "influence": view.influence.astype(np.float32),
            "sketch": (unit * length[:, None]).astype(np.float32),
            "hash": view.content.astype(np.uint64),
            "valid": np.ones(n, np.uint8),
            "loss": view.loss.astype(np.float32),
            "tokens": np.ones(n, np.int32),
        }
        store.write_shard(0, columns)
        labels = {
            "labels": view.labels(k, random_seed, space).astype(np.uint32),
            "distances": np.zeros(n, np.float32),
        }
        write_tensors(Path(folder) / "labels" / "00000000.safetensors", labels, {"first_row": "0"})
        tasks = Tasks(tuple(str(task) for task in np.unique(view.task_of_seed)), view.task_of_seed)
        sweep = FinishedSweep(
            store,
            survey(store, Judge()),
            Path(folder) / "labels",
            tasks=tasks,
            metric_scale=1.0 if space == "fisher" else None,
        )
        return choose(sweep, Limit("rows", k), Config(method="gdig", random_seed=random_seed)).rows
