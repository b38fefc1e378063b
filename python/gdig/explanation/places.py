"""Where each method puts some rows: in its choice, and in its order of the whole pool where it has one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from gdig.config.budget import Limit
from gdig.explanation.facts import Place
from gdig.selection.choose import ScoredRows, choose
from gdig.selection.finished_run import FinishedRun
from gdig.selection.methods import METHODS, allowed_methods, needs_tokens

MOST_ORDERED_ROWS = 65_536
"""Up to so many valid rows, a row that is not chosen gets its place in the order of the whole pool."""
MOST_NEIGHBOUR_ROWS = 65_536
"""Up to so many valid rows, methods over neighbours are asked: they compare all pairs of rows."""


def possible_methods(run: FinishedRun) -> list[str]:
    """Return the methods that need neither a pass of the model nor files that the run lacks."""
    sweep, config = run.sweep, run.config
    has_tokens = sweep.tokens is not None and sweep.tokens.seeds.damage() is None
    few_enough = sweep.survey.valid <= MOST_NEIGHBOUR_ROWS
    return [
        name
        for name in allowed_methods(run.eligible.sweep, config)
        if (sweep.labels is not None or not METHODS[name].clusters)
        and (has_tokens or not needs_tokens(name, config))
        and (few_enough or not METHODS[name].neighbours(config))
    ]


def places_of(run: FinishedRun, rows: NDArray[np.int64], methods: Sequence[str]) -> list[list[Place]]:
    """Return the places of each of some valid rows by each of `methods`.

    Args:
        run: the run.
        rows: int64 [n], valid rows of the pool. A row that the options leave out has no place.
        methods: names that `possible_methods` has returned.
    """
    eligible, config = run.eligible, run.config
    sweep = eligible.sweep
    places: list[list[Place]] = [[] for _ in rows]
    asked = [n for method in methods if (n := METHODS[method].neighbours(config))]
    sweep.neighbour_cache.most = max(asked, default=0)
    for name in methods:
        method = METHODS[name]
        bare = eligible if method.clusters else eligible.without_clusters()
        options = config.with_options(method=name)
        scored = choose(bare, run.limit, options)
        at = _places(scored, rows)
        whole: ScoredRows | None = None
        if method.nested and 0 in at and sweep.survey.valid <= MOST_ORDERED_ROWS:
            # The method's own order, of all sources together and with near-copies.
            order = options.with_options(source_quotas=None)
            whole = choose(replace(bare, features=None), Limit("rows", sweep.survey.valid), order)
        at_of_whole = _places(whole, rows) if whole is not None else [0] * len(rows)
        for places_of_row, place, later in zip(places, at, at_of_whole, strict=True):
            if place:
                reasons = {key: values[place - 1].item() for key, values in scored.reasons.items()}
                places_of_row.append(Place(name, True, place, len(scored.rows), reasons))
            elif whole is not None and later:
                places_of_row.append(Place(name, False, later, len(whole.rows)))
            else:
                places_of_row.append(Place(name, False, None, len(scored.rows)))
    sweep.neighbour_cache.forget()
    return places


def _places(scored: ScoredRows, rows: NDArray[np.int64]) -> list[int]:
    """The place of each of some rows among those that a method picked, from 1; 0 for a row that it did not pick."""
    place = {row: number for number, row in enumerate(scored.rows.tolist(), 1)}
    return [place.get(row, 0) for row in rows.tolist()]
