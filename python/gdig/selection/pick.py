"""Rows by a method, within what the options of sources and redundancy allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.errors import ConfigError
from gdig.nouns import counted
from gdig.selection.method import FinishedSweep, MethodSpec, Picked
from gdig.selection.quotas import share_out, source_weights
from gdig.selection.similar import SimilarityFeatures, SimilarityWalk, fill

_SHOWN = 8
"""Sources up to which the notes are those of each source."""


@dataclass(frozen=True)
class _SourcePick:
    """What a method picked from a source. costs: int64 [n], what each row takes of the limit."""

    picked: Picked
    costs: NDArray[np.int64]


@dataclass(frozen=True)
class _Holding:
    """What a source holds of rows that may be chosen. amount: in rows or tokens. longest: the most of one row."""

    rows: int
    amount: int
    longest: int


def pick_rows(
    sweep: FinishedSweep,
    limit: Limit,
    config: Config,
    methods: dict[str, MethodSpec],
    features: SimilarityFeatures | None = None,
) -> tuple[Picked, int]:
    """Pick rows within a limit by the option `method`.

    With `source_quotas`, the method picks from each source by itself, within the source's share of the limit. With
    `max_similarity`, rows come in the method's order, and a row too near to one that was taken is passed over.

    Args:
        sweep: the finished sweep, of the rows that may be chosen.
        limit: of rows or tokens.
        config: method, source_quotas, max_similarity, and the options of the method.
        methods: by name.
        features: what rows are compared by; None without `max_similarity`.

    Returns:
        What was picked, and how many rows were passed over because they are near to a row picked before.
    """
    method = methods[config.method]
    walk = _walk(config, features)
    if config.source_quotas is not None:
        return _pick_by_source(sweep, limit, config, methods, features)
    picked = _pick(sweep, limit, config, method, walk)
    return picked, walk.passed_over if walk is not None else 0


def fewest_rows(sweep: FinishedSweep, config: Config) -> int:
    """Return how many rows a method picks from at the least: those of the smallest source where quotas are asked for.

    Args:
        sweep: of the rows that may be chosen.
        config: source_quotas.
    """
    if config.source_quotas is None:
        return sweep.survey.valid
    held = [holding.rows for holding in _holdings(sweep, Limit("rows", sweep.survey.valid))]
    weights = source_weights(config.source_quotas, sweep.sources.names, held)
    return min((rows for rows, weight in zip(held, weights, strict=True) if rows and weight), default=0)


def _walk(config: Config, features: SimilarityFeatures | None) -> SimilarityWalk | None:
    return None if features is None else SimilarityWalk(features, config.max_similarity, config.threads or 0)


def _pick(
    sweep: FinishedSweep, limit: Limit, config: Config, method: MethodSpec, walk: SimilarityWalk | None
) -> Picked:
    if walk is None:
        return method.pick(sweep, limit, config.random_seed, config)
    picked, places = fill(lambda more: method.pick(sweep, more, config.random_seed, config), sweep, limit, walk)
    notes = picked.notes
    if len(places) < len(picked.rows):
        notes = (*notes, f"the method was asked for {counted(len(picked.rows), 'row')}; taken: {len(places):,}")
    reasons = {name: reason[places] for name, reason in picked.reasons.items()}
    return replace(picked, rows=picked.rows[places], reasons=reasons, notes=notes)


def _pick_by_source(
    sweep: FinishedSweep,
    limit: Limit,
    config: Config,
    methods: dict[str, MethodSpec],
    features: SimilarityFeatures | None,
) -> tuple[Picked, int]:
    """Let the method pick from each source in turn. What a source cannot give goes to the others."""
    names, method = sweep.sources.names, methods[config.method]
    notes: list[str] = []
    if method.decide is not None:
        name, why = method.decide(sweep)  # once, on the whole pool
        method = methods[name]
        notes.append(why)
    holdings = _holdings(sweep, limit)
    assert config.source_quotas is not None
    weights = source_weights(config.source_quotas, names, [holding.rows for holding in holdings])
    available = [holding.amount for holding in holdings]
    # Near-copies, or the method itself, can leave a source with less than it holds; the next round shares out what is
    # really there.
    for _ in range(2 * len(names) + 1):
        shares = share_out(limit.amount, weights, available)
        walk = _walk(config, features)
        picks = [
            _pick_from(sweep, source, Limit(limit.unit, share), config, method, walk)
            for source, share in enumerate(shares)
        ]
        spent = [int(pick.costs.sum()) for pick in picks]
        room = [0 if limit.unit == "rows" else holding.longest - 1 for holding in holdings]
        short = [i for i in range(len(names)) if spent[i] + room[i] < shares[i]]
        if not short:
            break
        available = [spent[i] if i in short else available[i] for i in range(len(names))]
    if len(names) <= _SHOWN:
        notes += [f"{name}: {note}" for name, pick in zip(names, picks, strict=True) for note in pick.picked.notes]
    warnings = [f"{name}: {text}" for name, pick in zip(names, picks, strict=True) for text in pick.picked.warnings]
    picked = _merged(picks, weights, method)
    return replace(picked, notes=tuple(notes), warnings=tuple(warnings)), walk.passed_over if walk is not None else 0


def _pick_from(
    sweep: FinishedSweep, source: int, limit: Limit, config: Config, method: MethodSpec, walk: SimilarityWalk | None
) -> _SourcePick:
    if limit.amount == 0:
        return _SourcePick(Picked(np.zeros(0, np.int64)), np.zeros(0, np.int64))
    own_sweep = sweep.among(sweep.sources.has(source, sweep.survey.rows))
    try:
        picked = _pick(own_sweep, limit, config, method, walk)
    except ConfigError as error:
        raise type(error)(f"source {sweep.sources.names[source]}: {error}") from None
    costs = np.ones(len(picked.rows), np.int64)
    if limit.unit == "tokens":
        costs = own_sweep.column("tokens", picked.rows).astype(np.int64)
    return _SourcePick(picked, costs)


def _holdings(sweep: FinishedSweep, limit: Limit) -> list[_Holding]:
    """What each source holds, in one pass over the shards."""
    n = len(sweep.sources.names)
    rows, amounts, longest = np.zeros(n, np.int64), np.zeros(n, np.int64), np.zeros(n, np.int64)
    for shard in sweep.store.shards:
        start, _ = sweep.store.shard_range(shard)
        valid = np.flatnonzero(sweep.store.tensor(shard, "valid"))
        tokens = sweep.store.tensor(shard, "tokens")[valid].astype(np.int64)
        costs = np.ones(len(valid), np.int64) if limit.unit == "rows" else tokens
        source = sweep.sources.of(start + valid)
        rows += np.bincount(source, minlength=n)
        np.add.at(amounts, source, costs)
        np.maximum.at(longest, source, costs)
    return [_Holding(*map(int, holding)) for holding in zip(rows, amounts, longest, strict=True)]


def _merged(picks: Sequence[_SourcePick], weights: Sequence[Fraction], method: MethodSpec) -> Picked:
    """Put the sources' rows into one order: each stands at the middle of its cost, with the costs of the rows before it
    in its source, over the source's weight. So equal sources take turns."""
    positions = [
        (np.cumsum(pick.costs) - pick.costs / 2) / float(weight) if len(pick.costs) else np.zeros(0)
        for pick, weight in zip(picks, weights, strict=True)
    ]
    source = np.repeat(np.arange(len(picks)), [len(pick.costs) for pick in picks])
    order = np.lexsort((source, np.concatenate(positions)))
    filled = [pick.picked for pick in picks if len(pick.costs)]
    rows = np.concatenate([np.zeros(0, np.int64), *(picked.rows for picked in filled)])[order]
    names = filled[0].reasons if filled else ()
    reasons = {name: np.concatenate([picked.reasons[name] for picked in filled])[order] for name in names}
    shortfalls = list(dict.fromkeys(picked.shortfall for picked in filled if picked.shortfall is not None))
    is_ordered = all(method.ordered if picked.ordered is None else picked.ordered for picked in filled)
    return Picked(rows, reasons, (), "; ".join(shortfalls) or None, is_ordered)
