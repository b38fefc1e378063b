"""gdig's scores, as a user gets them: from files, through the stages, out of the store."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
from conventions.inputs import Case, Project

import gdig
from gdig.progress import Progress

FULL = {"seed_energy": 1.0, "seed_rank": 1 << 16}
"""Options with which the seeds' preconditioned gradients are kept whole."""


def scores(project: Project, case: Case, **options: Any) -> np.ndarray:
    """Influence float32 [rows, seeds]. Options besides the case's go to `gdig.sweep`."""
    with tempfile.TemporaryDirectory() as run:
        path = gdig.sweep(
            model=str(project.checkpoint),
            candidates=(str(project.folder / "pool.jsonl"),),
            seeds=(str(project.folder / "seeds.jsonl"),),
            row_format="tokens",
            run_path=f"{run}/run",
            device="cpu",
            precision="float32",
            use_empirical_fisher=True,
            inversion=case.inversion,
            damping_mode=case.damping_mode,
            damping_factor=case.damping_factor,
            loss_reduction=case.loss_reduction,
            # The sketch plays no part here. Several batches, so that the order of sums is not that of one.
            **{"projection_dim": 32, "projection_side": 4, "token_batch_size": 256, "probe_rows": 1, **options},
            progress=Progress(quiet=True),
        )
        store = gdig.SketchStore.open(path / "sweep")
        return np.concatenate([np.array(store.tensor(shard, "influence")) for shard in range(store.n_shards)])
