"""Explain seeds: which rows help them, and whether the other seeds agree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from gdig.data.show import row_text
from gdig.errors import ConfigError, NeedsError
from gdig.explanation.facts import SeedExplanation, SeedHelp
from gdig.selection.finished_run import FinishedRun
from gdig.selection.seed_agreement import seed_agreement

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
        raise NeedsError("seed: expected a run with influence, but this run has none (gradients=False)")
    for seed in seeds:
        if not 0 <= seed < n:
            raise ConfigError(f"seed {seed}: expected a seed of the run, 0 to {n - 1}")
    columns = np.array(seeds)
    influence, rows = _columns(run, columns)
    agreement = seed_agreement(lambda: (x for x, _ in _blocks(run)), seeds)
    order = np.argsort(-influence, axis=0, kind="stable")
    return [
        _explain(run, seed, influence[:, i], float(agreement[i]), rows, order[:, i]) for i, seed in enumerate(seeds)
    ]


def _columns(run: FinishedRun, seeds: NDArray[np.int64]) -> tuple[NDArray, NDArray[np.int64]]:
    """The influence of the valid rows on some seeds, and the rows: [n, k], [n]."""
    by_shard = [(x[:, seeds], rows) for x, rows in _blocks(run)]
    influence, rows = (np.concatenate(column) for column in zip(*by_shard, strict=True))
    return influence, rows


def _blocks(run: FinishedRun) -> Iterator[tuple[NDArray, NDArray[np.int64]]]:
    """The influence of the valid rows on all seeds, and the rows, shard by shard."""
    store, judge = run.sweep.store, run.sweep.judge
    for shard in store.shards:
        start, _ = store.shard_range(shard)
        at = np.flatnonzero(store.tensor(shard, "valid"))
        yield judge.relative(store.tensor(shard, "influence")[at]), at + start


def _explain(
    run: FinishedRun, seed: int, influence: NDArray, agreement: float, rows: NDArray[np.int64], order: NDArray[np.int64]
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
        agreement,
        helps(order[:N_ROWS]),
        helps(order[::-1][:N_ROWS]),
    )
