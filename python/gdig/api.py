"""The story of a run: fit, sweep, cluster, select. Each function first runs the stages that are missing before it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from typing_extensions import Unpack

from gdig.config.budget import Limit, parse_budget
from gdig.config.config import Config, Training, Trial
from gdig.config.options import TrialOptions
from gdig.config.typed_options import CompareOptions, Options, ScoreNetOptions
from gdig.distributed.ranks import Ranks
from gdig.distributed.torchrun import is_launched
from gdig.errors import ConfigError
from gdig.influence.fit import fit_curvature_on_ranks, fit_is_sound, fit_stage, precondition_seeds_on_ranks, skip_fit
from gdig.model.load import require_package
from gdig.passes.checkpoint_check import check_checkpoints_of_run
from gdig.passes.input_check import check_inputs
from gdig.passes.planned_stages import planned_stages
from gdig.passes.sweep_stage import missing_of_sweep, seeds_are_swept, sweep_on_ranks, sweep_stage
from gdig.passes.torch_errors import torch_errors_explained
from gdig.passes.training_checkpoints import checkpoints_stage, sweep_checkpoint_on_ranks
from gdig.progress import Progress, WarningsOnly
from gdig.reporting.report import report_after_select
from gdig.resampling import label_counts
from gdig.run.directory import require_options, require_run
from gdig.run.layout import RunLayout
from gdig.run.origin import rows_origin
from gdig.run.session import Workspace
from gdig.run.stored_options import config_of_start
from gdig.selection.check_choice import check_amounts, check_choice, require_whole_sweep
from gdig.selection.cluster_stage import ensure_clusters, fit_centroids_on_ranks, label_rows_on_ranks
from gdig.selection.compare import Comparison
from gdig.selection.compare import compare as compare_methods
from gdig.selection.exclude import ensure_excluded
from gdig.selection.hidden_mean import ensure_hidden_mean
from gdig.selection.judge import Judge
from gdig.selection.methods import METHODS, allowed_methods, needs_tokens
from gdig.selection.result import Selection
from gdig.selection.select_stage import (
    check_selection_output,
    eligible_sweep,
    excluded_rows,
    open_finished_sweep,
    select_stage,
)
from gdig.selection.sources import ensure_sources, read_sources
from gdig.selection.survey import Survey, make_judge, survey, tokens_of_first
from gdig.selection.tasks import Tasks
from gdig.selection.token_files import ensure_tokens
from gdig.store.sketches import SketchStore


def fit(
    config: Config | None = None,
    *,
    progress: Progress | None = None,
    ranks: Ranks | None = None,
    **options: Unpack[Options],
) -> Path:
    """Fit the curvature, precondition the seeds' gradients, and return the run directory.

    Args:
        config: the options; those given by name replace its values.
        progress: where to show progress.
        ranks: the processes that take part; None for this process alone.
        options: see :class:`gdig.Config`. `model`, `candidates`, `seeds` and `run_path` are required. Without `config`
            and `model`, the options that are not given are those of the run in `run_path`.

    Raises:
        GdigError: a subclass that says what is wrong with the options, the inputs, the model or the run directory.

    Example:
        >>> gdig.fit(run_path="runs/a", **inputs)
        PosixPath('runs/a')
    """
    with _workspace(config, progress, options, ranks) as work:
        _expect(work, "fit")
        _fit(work)
        return work.run.path


def sweep(
    config: Config | None = None,
    *,
    progress: Progress | None = None,
    ranks: Ranks | None = None,
    **options: Unpack[Options],
) -> Path:
    """Sweep the pool: influence on every seed and a sketch of each row. Return the run directory.

    The arguments and errors are those of :func:`fit`, which runs first where it is missing. With `sweep_part`, only a
    part of the shards is made.

    Example:
        >>> gdig.sweep(run_path="runs/a", **inputs)
        PosixPath('runs/a')
    """
    with _workspace(config, progress, options, ranks) as work:
        check_checkpoints_of_run(work)
        _expect(work, "sweep")
        _sweep(work, whole=False)
        return work.run.path


def cluster(
    config: Config | None = None,
    *,
    progress: Progress | None = None,
    ranks: Ranks | None = None,
    **options: Unpack[Options],
) -> Path:
    """Cluster the sketches by k-means, label every row, and return the run directory.

    The arguments and errors are those of :func:`fit`. Fit and sweep run first where they are missing.

    Example:
        >>> gdig.cluster(run_path="runs/a", **inputs)
        PosixPath('runs/a')
    """
    with _workspace(config, progress, options, ranks) as work:
        require_whole_sweep(work.config)
        check_checkpoints_of_run(work)
        check_amounts(work, work.run.record, clusters=True)
        _expect(work, "cluster")
        store = _sweep(work)
        pool = survey(store, Judge(work.config.score))
        ensure_clusters(work, store, pool, _limit(work, store, pool))
        return work.run.path


def select(
    config: Config | None = None,
    *,
    progress: Progress | None = None,
    ranks: Ranks | None = None,
    **options: Unpack[Options],
) -> Selection:
    """Select rows of the pool, write them, and return them. Every stage that is missing runs first.

    The arguments and errors are those of :func:`fit`. The option `method` says how rows are selected.

    Example:
        >>> selection = gdig.select(run_path="runs/a", **inputs, budget="10%")
        >>> another = gdig.select(run_path="runs/a", method="top")
        >>> selection.summary[0]
        '6 of 60 rows (... tokens): runs/a/selection.jsonl'
    """
    with _workspace(config, progress, options, ranks) as work:
        tasks = check_choice(work, work.run.record, [work.config.method], check_checkpoints_of_run(work))
        check_selection_output(work)
        _expect(work, "cluster" if METHODS[work.config.method].clusters else "sweep")
        store = _sweep(work)
        pool = _survey(work, store, tasks)
        limit = _limit(work, store, pool)
        if METHODS[work.config.method].clusters:
            ensure_clusters(work, store, pool, limit)
        if needs_tokens(work.config.method, work.config):
            ensure_tokens(work, store)
        _ensure_eligible(work, store)
        selection = select_stage(work, store, pool, tasks, limit)
        if work.config.report:
            selection.summary.extend(report_after_select(work, store, pool, tasks, limit, selection))
        return selection


def compare(
    config: Config | None = None,
    methods: Sequence[str] = (),
    trial: Trial | None = None,
    *,
    train: bool = False,
    progress: Progress | None = None,
    **options: Unpack[CompareOptions],
) -> Comparison:
    """Select by several methods from one run, and show the selections side by side. No selection is written.

    Args:
        config: options, as of :func:`select`.
        methods: values of the option `method`, in its place; none for all methods whose needs the run meets.
        trial: how to train; its options may also be given by name (see :class:`gdig.config.config.Trial`).
        train: whether to train on what each method selected, and to compare the losses on the rows of `held_out`.
        progress: where to show progress.
        options: see :class:`gdig.Config` and :class:`gdig.config.config.Trial`.

    Example:
        >>> comparison = gdig.compare(run_path="runs/a", **inputs, methods=["gdig", "top"])
        >>> [summary.method for summary in comparison.summaries], comparison.overlap.shape
        (['gdig', 'top'], (2, 2))
    """
    for method in methods:
        if method not in METHODS:
            raise ConfigError(f"methods: expected one of {', '.join(METHODS)}, got {method!r}")
    names = {option.name for option in fields(TrialOptions)}
    how: dict[str, Any] = {name: value for name, value in options.items() if name in names}
    if not train and (how or trial):
        raise ConfigError(f"{next(iter(how), 'trial')}: given without train; add train=True, or leave it out")
    trial = (replace(trial, **how) if trial else Trial(**how)) if train else None
    options_of_run = {name: value for name, value in options.items() if name not in names}
    with _workspace(config, progress, options_of_run, None) as work:
        tasks = check_choice(work, work.run.record, methods, check_checkpoints_of_run(work))
        check_amounts(work, work.run.record, clusters=True)
        _expect(work, "cluster")
        if trial is not None:  # transformers' Trainer takes seconds to import
            from gdig.training.trial_training import read_held_out, train_on_each

            held_out = read_held_out(work, trial)
        store = _sweep(work)
        pool = _survey(work, store, tasks)
        limit = _limit(work, store, pool)
        ensure_clusters(work, store, pool, limit)
        _ensure_eligible(work, store)
        sources = read_sources(work, work.layout, store)
        finished = open_finished_sweep(work.layout, work.run.record, store, pool, tasks, clusters=True, sources=sources)
        excluded = excluded_rows(work.layout, work.run.record, work.config, store)
        eligible = eligible_sweep(work.layout, work.run.record, work.config, finished, excluded)
        possible = allowed_methods(eligible.sweep, work.config)
        if any(needs_tokens(name, work.config) for name in methods or possible):
            ensure_tokens(work, store)
        n_clusters = int((label_counts(work.layout.labels) > 0).sum())
        compared = compare_methods(eligible, methods or possible, limit, work.config, time.monotonic, n_clusters)
        if trial is None:
            return compared
        return replace(compared, held_out=train_on_each(work, trial, compared, held_out))


def score_net(
    config: Config | None = None,
    training: Training | None = None,
    *,
    progress: Progress | None = None,
    **options: Unpack[ScoreNetOptions],
) -> Path:
    """Train a score net beside a copy of a swept run's model, and return the difficulty of each row (Self-Filter).

    A call after an interruption continues from the last saved state.

    Args:
        config: options of the run, as of :func:`fit`.
        training: how to train; its options may also be given by name (see :class:`gdig.config.config.Training`).
        progress: where to show progress.
        options: see :class:`gdig.Config` and :class:`gdig.config.config.Training`; `run_path` is required.

    Returns:
        The file of the difficulties, float32 [N], for the option `difficulty` of method self-filter.

    Raises:
        GdigError: a subclass that says what is wrong with the options, the run, the features or the training.

    Example:
        >>> file = gdig.score_net(run_path="runs/a", epochs=2)  # doctest: +SKIP
        >>> selection = gdig.select(run_path="runs/a", method="self-filter", difficulty=file)  # doctest: +SKIP
    """
    if is_launched():
        raise ConfigError("score-net runs in one process; gdig.training.ScoreNetTrainer also runs in several")
    names = {f.name for f in fields(Training)}
    how: dict[str, Any] = {name: value for name, value in options.items() if name in names}
    training = replace(training or Training(), **how)
    config = config_of_start(config, {name: value for name, value in options.items() if name not in names})
    config.require("run_path")
    require_run(RunLayout(Path(str(config.run_path))), "run_path")
    with _workspace(config, progress, {}, None) as work:
        require_package("accelerate", "score-net", "train")  # the import works without it, the training does not
        from gdig.training.job import train_difficulty

        return train_difficulty(work, training)


def serve(ranks: Ranks) -> None:
    """Be a rank beside the first: do this rank's part of each task until rank 0 ends the run."""
    tasks = ranks.tasks()
    for name, arguments in tasks:
        assert name == "open", name
        config = Config.build(arguments["config"])
        progress = WarningsOnly(f"rank {ranks.rank}", config.quiet, ranks.first_to_say)
        today = date.fromisoformat(arguments["today"])
        first_rows = arguments["first_rows"]
        opened = Workspace(config, progress, ranks, today=today, first_rows=first_rows)
        with torch_errors_explained(config.device), opened as work:
            for task, task_arguments in tasks:
                _RANK_TASKS[task](work, **task_arguments)


_RANK_TASKS: dict[str, Callable[..., object]] = {
    "curvature": fit_curvature_on_ranks,
    "seeds": precondition_seeds_on_ranks,
    "sweep": sweep_on_ranks,
    "checkpoint": sweep_checkpoint_on_ranks,
    "centroids": fit_centroids_on_ranks,
    "labels": label_rows_on_ranks,
}
"""The functions that all ranks call at the same time, by the name of the task."""


@contextmanager
def _workspace(
    config: Config | None, progress: Progress | None, options: Mapping[str, Any], ranks: Ranks | None
) -> Iterator[Workspace]:
    config = config_of_start(config, options)
    require_options(config, "model", "candidates", "seeds", "run_path")
    with torch_errors_explained(config.device), Workspace(config, progress or Progress(config.quiet), ranks) as work:
        yield work


def _expect(work: Workspace, last: Literal["fit", "sweep", "cluster"]) -> None:
    """Let the bars show how far all stages are, up to the `last` that the command asks for."""
    if work.ranks.main:
        work.progress.expect(partial(planned_stages, work, last))


def _fit(work: Workspace, chooses: bool = False) -> None:
    """Fit curvature and seeds, unless the run has them. A file of the fit that cannot be used is made again.

    Raises:
        ConfigError: when the start `chooses` later, and the budget is more tokens than the pool holds.
    """
    if not work.run.done("fit") or not fit_is_sound(work):
        work.run.require_writable("fit")
        with work.run.running("fit"):
            tokens = check_inputs(work)
            if chooses:
                parse_budget(work.config.budget).limit(len(work.candidates), tokens)
            if work.config.gradients:
                fit_stage(work)
            else:
                skip_fit(work)


def _sweep(work: Workspace, whole: bool = True) -> SketchStore:
    """Make the shards of the sweep that are missing, and sweep the training checkpoints.

    Raises:
        ConfigError: when the `whole` sweep is needed and `sweep_part` asks for a part.
    """
    if whole:
        require_whole_sweep(work.config)
    path, sound = work.layout.sweep, work.run.done("fit") and work.run.done("sweep")
    if sound:
        missing = missing_of_sweep(work)
        if missing:
            work.progress.warn(f"{path}: the sweep makes shards {', '.join(map(str, missing))} again")
        sound = seeds_are_swept(work) and not missing
    if not sound:
        work.require_all_files(work.swept_rows)
        _fit(work, chooses=whole)  # a finished sweep needs its files no more
        work.run.require_writable("sweep")
        with work.run.running("sweep") as end:
            if not sweep_stage(work):
                end.state = "running"
    if work.config.checkpoints and not checkpoints_stage(work):
        work.progress.say("checkpoints: the shards of other parts are missing; gdig merge adds them")
    store = SketchStore.open(path, rows_origin(work.run.record))
    if not (whole and work.run.has_more_files):
        return store
    # The pool has grown since: what a choice sees are the rows of the files that this start gives.
    return store.masked(np.arange(len(store)) < len(work.candidates))


def _survey(work: Workspace, store: SketchStore, tasks: Tasks) -> Survey:
    if not work.config.gradients:
        return survey(store, Judge(work.config.score))  # no seed has an influence, so nobody votes
    return survey(store, make_judge(store, work.config, tasks))


def _ensure_eligible(work: Workspace, store: SketchStore) -> None:
    """Make what the options of sources and redundancy need to know of the rows."""
    config = work.config
    ensure_sources(work, store)
    if config.exclude:
        ensure_excluded(work, store)
    if config.max_similarity < 1 and config.similarity_of == "hidden":
        ensure_hidden_mean(work, store)


def _limit(work: Workspace, store: SketchStore, pool: Survey) -> Limit:
    """Return what the option `budget` allows in the pool of this start.

    Raises:
        ConfigError: when the budget is more than the pool holds.
    """
    rows = len(work.candidates)
    return parse_budget(work.config.budget).limit(rows, tokens_of_first(store, rows, pool.all_tokens))
