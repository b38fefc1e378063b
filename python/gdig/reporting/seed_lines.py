"""The seeds of a run: which are served by the choice, outvoted by the others, or hard for the model."""

from __future__ import annotations

import numpy as np

from gdig.data.show import row_text
from gdig.reporting.bounds import SEED_BYTES, SEEDS, fitting
from gdig.reporting.columns import Columns
from gdig.reporting.facts import SeedLine
from gdig.selection.seed_agreement import seed_agreement

_TEXT = 200
_OUTVOTED = 0.0
"""A seed is outvoted when its influences have a correlation of at most so much with the mean of the others."""
_HARD = 2.0
"""A seed is hard when its loss is so many deviations above the mean of the seeds."""


def seed_lines(columns: Columns) -> tuple[SeedLine, ...]:
    """Return a line for each seed, up to 1,000; none in a run without influence."""
    run = columns.run
    fit = run.record.stages.fit
    if not run.sweep.survey.n_seeds or fit is None or fit.seeds is None:
        return ()
    judge = run.sweep.judge
    pool = judge.relative(columns.influence_sample())
    chosen = judge.relative(columns.chosen_influence())
    agreement = seed_agreement(lambda: [pool], range(pool.shape[1]))
    losses = np.array(fit.seeds.losses)
    hard = losses > losses.mean() + _HARD * losses.std()
    corpus = run.work.seed_corpus
    return tuple(
        SeedLine(
            seed,
            fitting(row_text(content, _TEXT), SEED_BYTES),
            float(losses[seed]),
            float((pool[:, seed] > 0).mean()) if len(pool) else 0.0,
            float((chosen[:, seed] > 0).mean()) if len(chosen) else None,
            float(agreement[seed]),
            bool(len(losses) > 1 and agreement[seed] <= _OUTVOTED),
            bool(hard[seed]),
        )
        for seed, content in enumerate(corpus.stream(range(min(SEEDS, len(losses)))))
    )
