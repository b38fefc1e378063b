"""What can be known of a choice before any pass: the needs of its method, the files that it names, and amounts.

Only what is sure is refused. Rows may turn out unusable, repeated or excluded. So an amount within the rows of the pool
may still be more than the rows that can be chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gdig.config.budget import Limit, parse_budget
from gdig.config.config import Config
from gdig.data.features import read_difficulty, read_features
from gdig.errors import AmountError, ConfigError
from gdig.nouns import counted
from gdig.run.record import RunRecord
from gdig.run.session import Workspace
from gdig.selection.checkpoint_weights import weights
from gdig.selection.cluster_stage import DEFAULT_CLUSTERS, too_few_train_rows, too_many_clusters
from gdig.selection.exclude import check_exclude
from gdig.selection.methods import METHODS, needs_checkpoints, require_needs
from gdig.selection.quotas import read_weights, source_weights
from gdig.selection.sources import check_sources
from gdig.selection.tasks import Tasks, read_tasks


def check_choice(
    work: Workspace, record: RunRecord, methods: Sequence[str], rates: Sequence[float], *, most: int | None = None
) -> Tasks:
    """Check the options of a choice, and return the tasks of the seeds.

    Args:
        work: inputs and options.
        record: of the run; a new one where nothing has begun.
        methods: that choose.
        rates: learning rates of the training checkpoints that are swept or will be (`check_checkpoints`).
        most: rows of the pool whose sources are read; None for all, unless the run is swept.

    Raises:
        ConfigError: of a method whose needs the run does not meet, and of an amount that exceeds the pool. Also of a
            file that is not there, or does not fit the pool.
        CorpusError: of seeds without a task, and of an evaluation set or a source that cannot be read.
    """
    config = work.config
    require_whole_sweep(config)
    require_needs(methods, config, bool(rates))
    if any(needs_checkpoints(name, config) for name in methods):
        weights(rates, config.checkpoint_weights)
    tasks = read_tasks(work.seed_corpus, config.task_field)
    check_amounts(work, record, clusters=any(METHODS[name].clusters for name in methods))
    for name in methods:
        _check_neighbours(name, config, len(work.candidates))
    if "self-filter" in methods:
        _check_features(config, rows_of_sweep(work, record))
    sweep = record.stages.sweep
    if most is not None or sweep is None or sweep.state != "done":  # after a sweep, the choice says it at once
        _check_sources(work, methods, most)
    if config.exclude:
        check_exclude(work)
    return tasks


def require_whole_sweep(config: Config) -> None:
    """Raise ConfigError if a stage that needs the whole sweep is asked for beside `sweep_part`."""
    if config.sweep_part is not None:
        raise ConfigError("sweep_part: only gdig sweep makes a part of a sweep; later stages need the whole sweep")


def check_amounts(work: Workspace, record: RunRecord, *, clusters: bool) -> None:
    """Check the budget and, where there will be `clusters`, how many, against the rows of the pool.

    The tokens of a budget are compared when the rows have become tokens (`gdig.passes.input_check`).

    Raises:
        ConfigError: when an option asks for more than the pool has, valid or not.
    """
    config, rows = work.config, len(work.candidates)
    _ = work.readers  # rows of no known format say more than their number
    budget, limit = parse_budget(config.budget), None
    if budget.unit != "tokens":
        limit = budget.limit(rows, 0)
    if not clusters:
        return
    if config.grown_clusters == "keep":
        first = first_rows(work, record)
        if budget.unit == "share" and first < rows:
            limit = budget.limit(first, 0)
        rows = first
    n = config.n_clusters
    if n is not None and n > rows:
        raise too_many_clusters(n, counted(rows, "row"))
    if n is None and limit is not None and config.bad_rows == "error":
        _check_train_rows(config, limit, rows)


def _check_train_rows(config: Config, limit: Limit, rows: int) -> None:
    """Where every row can be used, the clusters are as many as the default and the budget say."""
    n = min(DEFAULT_CLUSTERS, limit.amount, rows)
    if isinstance(config.train_rows, int) and config.train_rows < n:
        raise too_few_train_rows(config.train_rows, n)


def rows_of_sweep(work: Workspace, record: RunRecord) -> int:
    """Rows of the whole sweep: of the pool, or of all files of the run where this start gives fewer."""
    sweep = record.stages.sweep
    swept = (sweep.rows or 0) if sweep is not None and sweep.state == "done" else 0
    return max(len(work.candidates), swept)


def first_rows(work: Workspace, record: RunRecord) -> int:
    """Rows of the pool that the clusters are of when it grows: those of the files that the run began with."""
    sweep, rows = record.stages.sweep, len(work.candidates)
    if sweep is None:
        return rows
    if sweep.growth:
        return min(rows, sweep.growth[0].first_row)
    return min(rows, sweep.rows or rows) if sweep.state == "done" else rows


def _check_neighbours(name: str, config: Config, rows: int) -> None:
    searched = config.with_options(features=None)  # with features, self-filter takes its neighbours from these
    if METHODS[name].neighbours(searched) and config.n_neighbours >= rows:
        raise AmountError(
            f"n_neighbours={config.n_neighbours}: expected at most {max(0, rows - 1)}, because the pool has "
            f"{counted(rows, 'row')}"
        )


def _check_features(config: Config, rows: int) -> None:
    """Check the kind and the shape of the files of self-filter. Which rows are valid, and so must be finite, is not
    known yet."""
    none_valid = np.zeros(rows, np.bool_)
    if config.difficulty:
        read_difficulty(config.difficulty, none_valid)
    if config.features:
        read_features(Path(config.features), none_valid)


def _check_sources(work: Workspace, methods: Sequence[str], most: int | None) -> None:
    config, asked = work.config, work.config.source_quotas
    if asked not in (None, "equal", "proportional"):
        read_weights(Path(str(asked)))
    if config.source_field is None and asked is None:
        return
    rows = check_sources(work, most)
    if asked is None or rows is None:
        return
    shares = source_weights(asked, list(rows), list(rows.values()))
    smallest = min(n for n, share in zip(rows.values(), shares, strict=True) if share)
    source = next(name for name, n in rows.items() if n == smallest)
    for name in methods:
        try:
            _check_neighbours(name, config, smallest)
        except ConfigError as error:
            raise type(error)(f"source {source}: {error}") from None
