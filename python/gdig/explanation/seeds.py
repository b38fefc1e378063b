"""Explain seeds: which rows help them, and whether the other seeds agree."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gdig.data.show import row_text
from gdig.errors import ConfigError
from gdig.explanation.facts import SeedExplanation, SeedHelp
from gdig.selection.finished_run import FinishedRun

N_ROWS = 10
"""Rows on either side that an explanation names."""


def explain_seeds(run: FinishedRun, seeds: Sequence[int]) -> list[SeedExplanation]:
    """Explain some seeds, in one pass over the influence.

    Raises:
        ConfigError: when there is no seed of such a number, or the run has no gradients.
    """
    if not seeds:
        return []
    n = run.sweep.survey.n_seeds
    if not run.config.gradients:
        raise ConfigError("seed: expected a run with influence, but this run has none (gradients=False)")
    for seed in seeds:
        if not 0 <= seed < n:
            raise ConfigError(f"seed {seed}: expected a seed of the run, 0 to {n - 1}")
    columns = np.array(seeds)
    influence, others, rows = _columns(run, columns)
    order = np.argsort(-influence, axis=0, kind="stable")
    return [_explain(run, seed, influence[:, i], others[:, i], rows, order[:, i]) for i, seed in enumerate(seeds)]


def _columns(run: FinishedRun, seeds: NDArray[np.int64]) -> tuple[NDArray, NDArray, NDArray[np.int64]]:
    """The influence of the valid rows on some seeds, the mean on the others, and the rows: [n, k], [n, k], [n]."""
    store, judge = run.sweep.store, run.sweep.judge
    parts: list[tuple[NDArray, NDArray, NDArray]] = []
    for shard in store.shards:
        start, _ = store.shard_range(shard)
        at = np.flatnonzero(store.tensor(shard, "valid"))
        x = judge.relative(store.tensor(shard, "influence")[at])
        own = x[:, seeds]
        parts.append((own, (x.sum(1)[:, None] - own) / max(1, x.shape[1] - 1), at + start))
    influence, others, rows = (np.concatenate(column) for column in zip(*parts, strict=True))
    return influence, others, rows


def _explain(
    run: FinishedRun, seed: int, influence: NDArray, others: NDArray, rows: NDArray[np.int64], order: NDArray[np.int64]
) -> SeedExplanation:
    corpus, fit = run.work.seed_corpus, run.record.stages.fit
    assert fit is not None and fit.seeds is not None, "a run with influence has a fit"
    chosen = run.chosen
    place = chosen.place if chosen is not None else {}
    share = None
    if chosen is not None and len(chosen.rows):
        share = float(np.mean(influence[np.isin(rows, chosen.rows)] > 0))

    def helps(at: NDArray[np.int64]) -> tuple[SeedHelp, ...]:
        texts = run.work.candidates.take(rows[at])
        return tuple(
            SeedHelp(int(rows[i]), row_text(text), float(influence[i]), place.get(int(rows[i])))
            for i, text in zip(at, texts, strict=True)
        )

    return SeedExplanation(
        seed,
        corpus.where(seed),
        row_text(corpus.take([seed])[0]),
        fit.seeds.losses[seed],
        float(np.mean(influence > 0)),
        share,
        correlation(influence, others),
        helps(order[:N_ROWS]),
        helps(order[::-1][:N_ROWS]),
    )


def correlation(x: NDArray, y: NDArray) -> float:
    """Pearson's r; 0 where one of the two does not vary."""
    x, y = x - x.mean(), y - y.mean()
    size = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / size) if size > 0 else 0.0
