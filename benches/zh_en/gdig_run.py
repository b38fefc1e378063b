"""gdig itself on a checkpoint: what it chooses, and how far its scores and sketches are from the exact ones."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

import gdig
from benches.shared.steps import Steps
from benches.zh_en.competence import Checkpoint
from benches.zh_en.exact import DEFAULT, IDENTITY
from benches.zh_en.measure import read_sweep
from benches.zh_en.variants import auroc_with_error, spearman
from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.config.options import SelectOptions
from gdig.run.layout import RunLayout
from gdig.run.record_file import read_record
from gdig.selection.choose import choose
from gdig.selection.method import FinishedSweep
from gdig.selection.methods import METHODS
from gdig.selection.survey import make_judge, survey
from gdig.selection.tasks import Tasks

OPTIONS = {"fit_tokens": 50_000, "token_batch_size": 4096, "quiet": True}


def swept(steps: Steps, checkpoint: Checkpoint, rows: dict[str, Path], n_seeds: int) -> Path:
    """The run directory of a sweep with the first `n_seeds` seeds."""
    seeds = steps.folder / f"seeds-{n_seeds}.jsonl"
    lines = rows["seeds"].read_text(encoding="utf-8").splitlines(keepends=True)
    seeds.write_text("".join(lines[:n_seeds]), encoding="utf-8")

    def make(out: Path) -> None:
        gdig.sweep(model=checkpoint.path, candidates=rows["candidates"], seeds=seeds, run_path=out, **OPTIONS)

    return steps.path(f"run {checkpoint.name}", [checkpoint.path.parent.name, checkpoint.epoch, n_seeds, OPTIONS], make)


def chosen(run: Path, options: dict[str, Any], budget: int, n_draws: int) -> list[np.ndarray]:
    """The rows that `gdig select` chooses of a pool with these options, `n_draws` times with other draws.

    A run has one random seed, because the fit depends on it. Here only the draws are repeated with other random seeds.
    """
    config = Config.build(read_record(RunLayout(run).record).config)
    # A run remembers the options of its last choice; here each begins with the defaults.
    defaults = {option.name: option.default for option in fields(SelectOptions)}
    output = str(run.with_name("chosen.jsonl"))
    config = config.with_options(**{**defaults, **options, "run_path": str(run), "output": output})
    gdig.select(config.with_options(budget=str(budget)))
    layout = RunLayout(run)
    store = gdig.SketchStore.open(layout.sweep)
    labels = layout.labels if METHODS[config.method].clusters else None
    summary = survey(store, make_judge(store, config, Tasks()))
    return [
        choose(
            FinishedSweep(store, summary, labels), Limit("rows", budget), config.with_options(random_seed=random_seed)
        ).rows
        for random_seed in range(n_draws)
    ]


def against_exact(run: Path, exact: dict[str, np.ndarray], kinds: np.ndarray, n_seeds: int) -> dict[str, Any]:
    """How far the sweep's influence is from the exact one, and the sketch's length from the gradient's."""
    influence, sketch, loss = read_sweep(run, "influence", "sketch", "loss")
    exact_influence = exact[f"influence {DEFAULT.name}"][:, :n_seeds].astype(np.float64)
    lengths = np.linalg.norm(sketch.astype(np.float64), axis=1)
    ratio = lengths / exact[f"length {IDENTITY.name}"]
    mean = influence.mean(1, dtype=np.float64)
    return {
        "influence, relative error": float(
            np.linalg.norm(influence - exact_influence) / np.linalg.norm(exact_influence)
        ),
        "mean influence, rank correlation": spearman(mean, exact_influence.mean(1)),
        "agreement, rank correlation": spearman((influence > 0).mean(1), (exact_influence > 0).mean(1)),
        "sketch length / gradient length, relative spread": float(ratio.std() / ratio.mean()),
        "sketch and gradient length, rank correlation": spearman(lengths, exact[f"length {IDENTITY.name}"]),
        "loss, largest difference": float(np.abs(loss - exact["loss"]).max()),
        "auroc": {
            "mean": auroc_with_error(mean, kinds),
            "mean / sketch length": auroc_with_error(mean / lengths, kinds),
            "mean / gradient length": auroc_with_error(mean / exact[f"length {IDENTITY.name}"], kinds),
            "agreement": auroc_with_error((influence > 0).mean(1), kinds),
        },
    }
