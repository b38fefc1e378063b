"""The story of a run: fit, sweep, cluster, select. Each function first runs the stages that are missing before it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from typing_extensions import Unpack

from gdig.config.budget import Limit, parse_budget
from gdig.config.config import Config, Training, Trial
from gdig.config.options import TrialOptions
from gdig.config.typed_options import CompareOptions, Options, ScoreNetOptions
from gdig.data.in_memory import with_files
from gdig.distributed.ranks import Ranks
from gdig.distributed.torchrun import is_launched
from gdig.errors import ConfigError, ModelError
from gdig.explanation.explain import Asked, explain_asked
from gdig.explanation.explanation import Explanation
from gdig.influence.fit import fit_curvature_on_ranks, fit_is_sound, fit_stage, precondition_seeds_on_ranks, skip_fit
from gdig.model.load import require_package
from gdig.passes.encode_ahead import of_dead_worker
from gdig.passes.planned_stages import planned_stages
from gdig.passes.sweep_stage import missing_of_sweep, seeds_are_swept, sweep_on_ranks, sweep_stage
from gdig.passes.training_checkpoints import checkpoints_stage, sweep_checkpoint_on_ranks
from gdig.planning.report import RunPlan
from gdig.planning.run_plan import make_plan
from gdig.progress import Progress, WarningsOnly
from gdig.reporting.report import make_report, report_after_select
from gdig.resampling import label_counts
from gdig.run.directory import require_run
from gdig.run.layout import RunLayout
from gdig.run.merge import merge_runs
from gdig.run.origin import sweep_origin
from gdig.run.session import Workspace
from gdig.run.stored_options import with_stored_options
from gdig.run.verify import Verification, verify_run
from gdig.selection.cluster_stage import ensure_clusters, fit_centroids_on_ranks, label_rows_on_ranks
from gdig.selection.compare import Comparison
from gdig.selection.compare import compare as compare_methods
from gdig.selection.finished_run import open_finished_run
from gdig.selection.judge import Judge
from gdig.selection.methods import METHODS, require_needs
from gdig.selection.result import Selection
from gdig.selection.select_stage import open_finished_sweep, select_stage
from gdig.selection.survey import Survey, make_judge, survey
from gdig.selection.tasks import Tasks, read_tasks
from gdig.selection.token_files import ensure_tokens
from gdig.store.sketches import SketchStore

if TYPE_CHECKING:
    from rich.text import Text


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
        >>> gdig.fit(run_path="runs/a", **inputs)  # doctest: +SKIP
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
        >>> gdig.sweep(run_path="runs/a", **inputs)  # doctest: +SKIP
        PosixPath('runs/a')
    """
    with _workspace(config, progress, options, ranks) as work:
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
        >>> gdig.cluster(run_path="runs/a", **inputs)  # doctest: +SKIP
        PosixPath('runs/a')
    """
    with _workspace(config, progress, options, ranks) as work:
        _expect(work, "cluster")
        store = _sweep(work)
        pool = survey(store, Judge(work.config.score))
        ensure_clusters(work, store, pool, _limit(work, pool))
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
        >>> selection = gdig.select(run_path="runs/a", **inputs, budget="10%")  # doctest: +SKIP
        >>> another = gdig.select(run_path="runs/a", method="less")  # doctest: +SKIP
        >>> selection.rows[:3], selection.summary[0]  # doctest: +SKIP
        (array([812, 40, 977]), '400 of 4,000 rows (22,110 tokens): runs/a/selection.jsonl')
    """
    with _workspace(config, progress, options, ranks) as work:
        require_needs([work.config.method], work.config)
        _expect(work, "cluster" if METHODS[work.config.method].clusters else "sweep")
        tasks = read_tasks(work.seed_corpus, work.config.task_field)
        store = _sweep(work)
        pool = _survey(work, store, tasks)
        limit = _limit(work, pool)
        if METHODS[work.config.method].clusters:
            ensure_clusters(work, store, pool, limit)
        if METHODS[work.config.method].tokens:
            ensure_tokens(work, store)
        selection = select_stage(work, store, pool, tasks, limit)
        if work.config.report:
            selection.summary.extend(report_after_select(work, pool, tasks, limit, selection))
        return selection


def plan(config: Config | None = None, *, progress: Progress | None = None, **options: Unpack[Options]) -> RunPlan:
    """Plan a run: tell what :func:`select` would do with the same options, and what it would cost.

    A sample of the pool is read, the model is loaded, and a batch passes it in a trial of seconds. Nothing is written.

    Args:
        config: options, as of :func:`select`.
        progress: where to show progress.
        options: see :class:`gdig.Config`.

    Returns:
        The plan: stages, seconds, memory and disk. `print` shows it as text, and `as_json` gives values of JSON.

    Raises:
        GdigError: whatever would stop the run at once, such as memory or disk that cannot hold it.

    Example:
        >>> plan = gdig.plan(run_path="runs/a", **inputs)  # doctest: +SKIP
        >>> plan.seconds, plan.peak_memory, plan.sweep_batch_size  # doctest: +SKIP
        (412.7, 3406577664, 512)
    """
    if is_launched():
        raise ConfigError("plan runs in one process; start it without torchrun")
    config = _config(config, options)
    config.require("model", "candidates", "seeds", "run_path")
    require_needs([config.method], config)
    return make_plan(Workspace(config, progress or Progress(config.quiet)))


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
        methods: values of the option `method`; none for all methods whose needs the run meets.
        trial: how to train; its options may also be given by name (see :class:`gdig.config.config.Trial`).
        train: whether to train on what each method selected, and to compare the losses on the rows of `held_out`.
        progress: where to show progress.
        options: see :class:`gdig.Config` and :class:`gdig.config.config.Trial`.

    Example:
        >>> print(*compare(run_path="runs/a", **inputs, methods=["gdig", "top"]).lines(), sep="\n")  # doctest: +SKIP
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
        require_needs(methods, work.config)
        _expect(work, "cluster")
        tasks = read_tasks(work.seed_corpus, work.config.task_field)
        store = _sweep(work)
        pool = _survey(work, store, tasks)
        limit = _limit(work, pool)
        ensure_clusters(work, store, pool, limit)
        finished = open_finished_sweep(
            work.layout, work.run.record, store, pool, tasks, clusters=True, source_ends=work.candidates.ends
        )
        possible = [
            name
            for name, method in METHODS.items()
            if (finished.checkpoints or not method.checkpoints) and (work.config.gradients or not method.gradients)
        ]
        if any(METHODS[name].tokens for name in methods or possible):
            ensure_tokens(work, store)
        n_clusters = int((label_counts(work.layout.labels) > 0).sum())
        compared = compare_methods(finished, methods or possible, limit, work.config, time.monotonic, n_clusters)
        if trial is None:
            return compared
        from gdig.training.trial import train_on_each

        return replace(compared, held_out=train_on_each(work, trial, compared))


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
    """
    if is_launched():
        raise ConfigError("score-net runs in one process; gdig.training.ScoreNetTrainer also runs in several")
    names = {f.name for f in fields(Training)}
    how: dict[str, Any] = {name: value for name, value in options.items() if name in names}
    training = replace(training or Training(), **how)
    config = _config(config, {name: value for name, value in options.items() if name not in names})
    config.require("run_path")
    require_run(RunLayout(Path(str(config.run_path))), "run_path")
    with _workspace(config, progress, {}, None) as work:
        require_package("accelerate", "score-net", "train")  # the import works without it, the training does not
        from gdig.training.job import train_difficulty

        return train_difficulty(work, training)


def explain(
    config: Config | None = None,
    rows: Sequence[int] = (),
    *,
    seed: Sequence[int] = (),
    text: Sequence[str] = (),
    file: str | Path | None = None,
    methods: Sequence[str] = (),
    model_pass: bool = True,
    selection: str | None = None,
    progress: Progress | None = None,
    **options: Unpack[Options],
) -> Explanation:
    """Say why rows have their scores: seeds, tokens, layers, cluster, nearest rows, and their places by every method.

    The run stays as it is, and its options and those of its last selection hold. One pass of the model over the batch
    of each row takes the row's influence apart; nothing else needs the model.

    Args:
        config: options; `run_path` is required.
        rows: rows of the pool.
        seed: numbers of seeds, for the rows that help them most.
        text: rows outside the pool: JSON objects with the fields of a row, or plain texts.
        file: a file of rows outside the pool.
        methods: methods whose places are looked up; none for all that need no further pass.
        model_pass: whether to pass the model for tokens and layers.
        selection: file of the selection; None for the last one.
        progress: where to show progress.
        options: see :class:`gdig.Config`; `run_path` is required.

    Raises:
        GdigError: a subclass that says what does not exist, is not done, or has changed.

    Example:
        >>> print(gdig.explain(run_path="runs/a", rows=[812]))  # doctest: +SKIP
    """
    config = _config(config, options)
    progress = progress or Progress(config.quiet)
    with _explained(config):
        asked = Asked(tuple(rows), tuple(seed), tuple(text), file, tuple(methods), model_pass, selection)
        return Explanation(explain_asked(config, asked, progress))


def report(
    config: Config | None = None,
    *,
    html: str | Path | None = None,
    atlas: str | Path | None = None,
    selection: str | None = None,
    progress: Progress | None = None,
    **options: Unpack[Options],
) -> Path:
    """Write one page that shows what a run chose, and why. It opens from a disk and asks for nothing.

    The run stays as it is, and its options and those of its last selection hold. :func:`select` makes the report too.

    Args:
        config: options; `run_path` is required.
        html: file of the page; None for report.html in the run directory.
        atlas: Parquet file for Embedding Atlas; None for none.
        selection: file of the selection; None for the last one.
        progress: where to show progress.
        options: see :class:`gdig.Config`; `run_path` is required.

    Returns:
        The file of the page.

    Raises:
        GdigError: a subclass that says what is not done, or has changed.
    """
    config = _config(config, options)
    run = open_finished_run(config, progress or Progress(config.quiet), selection)
    page = Path(html) if html is not None else RunLayout(Path(str(config.run_path))).report
    make_report(run, page, Path(atlas) if atlas is not None else None)
    return page


def preview(
    config: Config | None = None, *, rows: int = 5, progress: Progress | None = None, **options: Unpack[Options]
) -> list[Text]:
    """Show a few candidates as the model will see them, with the masked part marked. Print each, or use rich.

    Needs `model` (for its tokenizer and window) and `candidates`, or a `run_path` with a run. Touches no weights, and
    writes nothing.
    """
    from gdig.data.preview import preview_rows

    work = Workspace(_config(config, options), progress or Progress())
    work.config.require("model", "candidates")
    shown = range(min(rows, len(work.candidates)))
    return preview_rows(work.candidates, work.encoder, shown, work.encoder.tokenizer)


def verify(run_path: str | Path, *, progress: Progress | None = None) -> Verification:
    """Read every file of a run, and say of each whether it is sound, damaged, missing, or of something else.

    Nothing is written, so the run may lie on a read-only disk.

    Raises:
        ConfigError: when the directory holds no run.

    Example:
        >>> report = gdig.verify("runs/a")  # doctest: +SKIP
        >>> report.sound, report.files[0]  # doctest: +SKIP
        (True, FileReport(file='run.json', state='sound', what='', bytes=4127))
    """
    return verify_run(Path(run_path))


def merge(runs: Sequence[str | Path], run_path: str | Path, *, progress: Progress | None = None) -> list[str]:
    """Join in the directory `run_path` the shards that copies of one fitted run have swept (see `sweep_part`).

    Args:
        runs: the run directories.
        run_path: the directory of the result: one of `runs`, or a new one.
        progress: where to show progress.

    Returns:
        Lines that say what is there now. A sweep or select in `run_path` goes on from it.

    Raises:
        GdigError: a subclass that names what differs between the runs, or the file that is damaged.
    """
    return merge_runs([Path(path) for path in runs], Path(run_path), progress or Progress())


def _config(config: Config | None, options: Mapping[str, Any]) -> Config:
    options = with_files(options)
    if config is None:
        return Config.build(with_stored_options(options))
    return config.with_options(**options) if options else config


def serve(ranks: Ranks) -> None:
    """Be a rank beside the first: do this rank's part of each task until rank 0 ends the run."""
    tasks = ranks.tasks()
    for name, arguments in tasks:
        assert name == "open", name
        config = Config.build(arguments["config"])
        progress = WarningsOnly(f"rank {ranks.rank}", config.quiet, ranks.first_to_say)
        today = date.fromisoformat(arguments["today"])
        with _explained(config), Workspace(config, progress, ranks, today=today) as work:
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
    config = _config(config, options)
    config.require("model", "candidates", "seeds", "run_path")
    with _explained(config), Workspace(config, progress or Progress(config.quiet), ranks) as work:
        yield work


@contextmanager
def _explained(config: Config) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:  # of a pass over one example, or of something no smaller batch helps
        raise ModelError(
            f"out of memory on {config.device}: {str(error).partition(chr(10))[0]}; lower max_length, choose fewer "
            "layers with filter_modules, or take another device"
        ) from error
    except RuntimeError as error:
        if (died := of_dead_worker(error)) is None:
            raise
        raise died from error


def _expect(work: Workspace, last: Literal["fit", "sweep", "cluster"]) -> None:
    """Let the bars show how far all stages are, up to the `last` that the command asks for."""
    if work.ranks.main:
        work.progress.expect(partial(planned_stages, work, last))


def _fit(work: Workspace) -> None:
    """Fit curvature and seeds, unless the run has them. A file of the fit that cannot be used is made again."""
    if not work.run.done("fit") or not fit_is_sound(work):
        work.run.require_writable("fit")
        with work.run.running("fit"):
            if work.config.gradients:
                fit_stage(work)
            else:
                skip_fit(work)


def _sweep(work: Workspace, whole: bool = True) -> SketchStore:
    """Make the shards of the sweep that are missing, and sweep the training checkpoints.

    Raises:
        ConfigError: when the `whole` sweep is needed and `sweep_part` asks for a part.
    """
    if whole and work.config.sweep_part is not None:
        raise ConfigError("sweep_part: only gdig sweep makes a part of a sweep; later stages need the whole sweep")
    path, sound = work.layout.sweep, work.run.done("fit") and work.run.done("sweep")
    if sound:
        missing = missing_of_sweep(work)
        if missing:
            work.progress.warn(f"{path}: the sweep makes shards {', '.join(map(str, missing))} again")
        sound = seeds_are_swept(work) and not missing
    if not sound:
        _fit(work)  # a finished sweep needs its files no more
        work.run.require_writable("sweep")
        with work.run.running("sweep") as end:
            if not sweep_stage(work):
                end.state = "running"
    if work.config.checkpoints and not checkpoints_stage(work):
        work.progress.say("checkpoints: the shards of other parts are missing; gdig merge adds them")
    return SketchStore.open(path, sweep_origin(work.run.record))


def _survey(work: Workspace, store: SketchStore, tasks: Tasks) -> Survey:
    if not work.config.gradients:
        return survey(store, Judge(work.config.score))  # no seed has an influence, so nobody votes
    return survey(store, make_judge(store, work.config, tasks))


def _limit(work: Workspace, pool: Survey) -> Limit:
    """Return what the option `budget` allows in this pool.

    Raises:
        ConfigError: when the budget is more than the pool holds.
    """
    return parse_budget(work.config.budget).limit(pool.rows, pool.all_tokens)
