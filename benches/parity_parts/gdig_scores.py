"""gdig's scores, as a user gets them: from files, through the stages, out of the store."""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np
import torch

import gdig
from benches.parity_parts.parity_cases import Case, Project
from gdig.config.config import Config
from gdig.influence.curvature import fit_curvature
from gdig.influence.precondition_seeds import precondition_seeds
from gdig.model.causal_model import wrap_model
from gdig.passes.influence_pass import make_influence_pass
from gdig.progress import Progress
from gdig.run.layout import RunLayout

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
            **_options(case),
            **options,
            progress=Progress(quiet=True),
        )
        store = gdig.SketchStore.open(RunLayout(path).sweep)
        return np.concatenate([np.array(store.tensor(shard, "influence")) for shard in range(store.n_shards)])


def scores_float64(project: Project, case: Case) -> np.ndarray:
    """Influence float32 [rows, seeds] of the same stages on the model in float64, at full rank."""
    config = Config.build({"device": "cpu", **_options(case), **FULL})
    model, progress = wrap_model(project.module(torch.float64), config), Progress(quiet=True)
    factors: list = [None] * len(model.layers)
    if case.inversion != "identity":
        factors, _ = fit_curvature(model, project.pool, np.arange(len(project.pool), dtype=np.uint64), config, progress)
    seeds, _ = precondition_seeds(model, factors, project.seeds, project.pool[:1], config, progress)
    return np.asarray(make_influence_pass(model, seeds, config, progress).compute(project.pool)[0])


def _options(case: Case) -> dict[str, Any]:
    return {
        "use_empirical_fisher": True,
        "inversion": case.inversion,
        "damping_mode": case.damping_mode,
        "damping_factor": case.damping_factor,
        "loss_reduction": case.loss_reduction,
        # Several batches, so that the order of sums is not that of one. The sketch plays no part here.
        "token_batch_size": 128,
        "probe_rows": 1,
        "projection_dim": 32,
        "projection_side": 4,
    }
