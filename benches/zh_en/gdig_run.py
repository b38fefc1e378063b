"""gdig itself on a checkpoint: what it chooses, and how far its scores and sketches are from the exact ones."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from zh_en.competence import Checkpoint
from zh_en.exact import DEFAULT, IDENTITY
from zh_en.measure import read_sweep
from zh_en.steps import Steps
from zh_en.variants import auroc_with_error, spearman

import gdig
from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.config.options import SelectOptions
from gdig.run.layout import RunLayout
from gdig.run.record import read_record
from gdig.selection.choose import choose
from gdig.selection.method import FinishedSweep
from gdig.selection.methods import METHODS
from gdig.selection.survey import survey

OPTIONS = {"fit_rows": 800, "token_batch_size": 4096, "quiet": True}


def swept(steps: Steps, kept: Checkpoint, rows: dict[str, Path], n_seeds: int) -> Path:
    """The run directory of a sweep with the first `n_seeds` seeds."""
    seeds = steps.folder / f"seeds-{n_seeds}.jsonl"
    lines = rows["seeds"].read_text(encoding="utf-8").splitlines(keepends=True)
    seeds.write_text("".join(lines[:n_seeds]), encoding="utf-8")

    def make(out: Path) -> None:
        gdig.sweep(model=kept.path, candidates=rows["candidates"], seeds=seeds, run_path=out, **OPTIONS)

    return steps.path(f"run {kept.name}", [kept.path.parent.name, kept.epoch, n_seeds, OPTIONS], make)


def chosen(run: Path, options: dict[str, Any], budget: int, repeats: int) -> list[np.ndarray]:
    """What `gdig select` with these options chooses of a pool, `repeats` times with other draws. The random seed
    belongs to the fit too, so that a run has one; here only the draws are made again."""
    config = Config.build(read_record(RunLayout(run).record).config)
    # A run remembers the options of its last choice; here each begins with the defaults.
    defaults = {option.name: option.default for option in fields(SelectOptions)}
    output = str(run.with_name("chosen.jsonl"))
    config = config.with_options(**{**defaults, **options, "run_path": str(run), "output": output})
    gdig.select(config.with_options(budget=str(budget)))
    store = gdig.SketchStore.open(run / "sweep")
    labels = run / "clusters" / "labels" if METHODS[config.method].clusters else None
    found = survey(store, config.score)
    return [
        choose(
            FinishedSweep(store, found, labels), Limit("rows", budget), config.with_options(random_seed=random_seed)
        ).rows
        for random_seed in range(repeats)
    ]


def against_exact(run: Path, found: dict[str, np.ndarray], kinds: np.ndarray, n_seeds: int) -> dict[str, Any]:
    """How far the sweep's influence is from the exact one, and the sketch's length from the gradient's."""
    influence, sketch, loss = read_sweep(run, "influence", "sketch", "loss")
    exact = found[f"influence {DEFAULT.name}"][:, :n_seeds].astype(np.float64)
    lengths = np.linalg.norm(sketch.astype(np.float64), axis=1)
    ratio = lengths / found[f"length {IDENTITY.name}"]
    mean = influence.mean(1, dtype=np.float64)
    return {
        "influence, relative error": float(np.linalg.norm(influence - exact) / np.linalg.norm(exact)),
        "mean influence, rank correlation": spearman(mean, exact.mean(1)),
        "agreement, rank correlation": spearman((influence > 0).mean(1), (exact > 0).mean(1)),
        "sketch length / gradient length, relative spread": float(ratio.std() / ratio.mean()),
        "sketch and gradient length, rank correlation": spearman(lengths, found[f"length {IDENTITY.name}"]),
        "loss, largest difference": float(np.abs(loss - found["loss"]).max()),
        "auroc": {
            "mean": auroc_with_error(mean, kinds),
            "mean / sketch length": auroc_with_error(mean / lengths, kinds),
            "mean / gradient length": auroc_with_error(mean / found[f"length {IDENTITY.name}"], kinds),
            "agreement": auroc_with_error((influence > 0).mean(1), kinds),
        },
    }
