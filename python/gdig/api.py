"""The story of a run, one call a stage: fit, sweep, cluster, select. Each runs what is missing before it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gdig.config.budget import Limit, parse_budget
from gdig.config.config import Config, Training
from gdig.data.export import export
from gdig.distributed.ranks import Ranks
from gdig.distributed.torchrun import is_launched
from gdig.errors import ConfigError, ModelError
from gdig.influence.fit import fit_curvature_on_ranks, fit_stage, precondition_seeds_on_ranks
from gdig.model.load import require_package
from gdig.passes.sweep_stage import sweep_on_ranks, sweep_stage
from gdig.passes.training_checkpoints import checkpoints_stage, sweep_checkpoint_on_ranks
from gdig.progress import Progress, WarningsOnly
from gdig.resampling import label_counts
from gdig.run.directory import require_run
from gdig.run.layout import RunLayout
from gdig.run.merge import merge_runs
from gdig.run.session import Workspace
from gdig.run.stored_options import read_stored_options
from gdig.run.verify import verify_run
from gdig.selection.choose import Choice, choose
from gdig.selection.cluster_stage import (
    cluster_sketches,
    fit_centroids_on_ranks,
    label_rows_on_ranks,
    resolve_clusters,
)
from gdig.selection.compare import Comparison
from gdig.selection.compare import compare as compare_methods
from gdig.selection.method import Checkpoint, Swept
from gdig.selection.methods import METHODS
from gdig.selection.result import Selection
from gdig.selection.survey import Survey, survey
from gdig.selection.tasks import Tasks, read_tasks
from gdig.store.sketches import SketchStore

if TYPE_CHECKING:
    from rich.text import Text


def fit(
    config: Config | None = None, *, progress: Progress | None = None, ranks: Ranks | None = None, **options: Any
) -> Path:
    """Fit the curvature and precondition the seeds; return the run directory. Options: see :class:`gdig.Config`."""
    with _workspace(config, progress, options, ranks) as work:
        _fit(work)
        return work.run.path


def sweep(
    config: Config | None = None, *, progress: Progress | None = None, ranks: Ranks | None = None, **options: Any
) -> Path:
    """Sweep the pool, after fitting if need be; return the run directory. Options: see :class:`gdig.Config`."""
    with _workspace(config, progress, options, ranks) as work:
        _sweep(work, whole=False)
        return work.run.path


def cluster(
    config: Config | None = None, *, progress: Progress | None = None, ranks: Ranks | None = None, **options: Any
) -> Path:
    """Cluster the sketches, after the sweep if need be; return the run directory. Options: see :class:`gdig.Config`."""
    with _workspace(config, progress, options, ranks) as work:
        store = _sweep(work)
        found = survey(store, work.config.score)
        _cluster(work, store, found, _limit(work, found))
        return work.run.path


def select(
    config: Config | None = None, *, progress: Progress | None = None, ranks: Ranks | None = None, **options: Any
) -> Selection:
    """Choose from the pool, running every stage that is missing. Options: see :class:`gdig.Config`.

    Raises:
        GdigError: a subclass that says what is wrong with the options, the inputs, the model or the run directory.
    """
    with _workspace(config, progress, options, ranks) as work:
        tasks = read_tasks(work.seed_corpus, work.config.task_field)
        store = _sweep(work)
        found = _survey(work, store, tasks)
        limit = _limit(work, found)
        if METHODS[work.config.method].clusters:
            _cluster(work, store, found, limit)
        return _choose(work, store, found, tasks, limit)


def compare(
    config: Config | None = None, methods: Sequence[str] = (), *, progress: Progress | None = None, **options: Any
) -> Comparison:
    """Choose by several methods from one run, after the sweep if need be; nothing is written but what the run keeps.

    Args:
        config: options, as of `select`.
        methods: names that the option `method` knows; none: all of them that the run has what they need for.
        progress: where to show it.
        options: see :class:`gdig.Config`.
    """
    for method in methods:
        if method not in METHODS:
            raise ConfigError(f"methods: expected one of {', '.join(METHODS)}, got {method!r}")
    with _workspace(config, progress, options, None) as work:
        tasks = read_tasks(work.seed_corpus, work.config.task_field)
        store = _sweep(work)
        found = _survey(work, store, tasks)
        limit = _limit(work, found)
        _cluster(work, store, found, limit)
        swept = _swept(work, store, found, tasks, clusters=True)
        possible = [name for name, method in METHODS.items() if swept.checkpoints or not method.checkpoints]
        n_clusters = int((label_counts(work.layout.labels) > 0).sum())
        return compare_methods(swept, methods or possible, limit, work.config, time.monotonic, n_clusters)


def score_net(
    config: Config | None = None,
    training: Training | None = None,
    *,
    progress: Progress | None = None,
    **options: Any,
) -> Path:
    """Train a score net beside a copy of a swept run's model (Self-Filter): how hard each row of the pool is.

    Called again after an interruption, it goes on from the last checkpoint.

    Args:
        config: options of the run; of those it has not (`features` among them) the run's own hold if there is no model.
        training: how to train; its options may also be given by name (see :class:`gdig.config.config.Training`).
        progress: where to show it.
        options: see :class:`gdig.Config` and :class:`gdig.config.config.Training`; `run_path` is required.

    Returns:
        The file with the difficulties, float32 [rows of the pool], for the option `difficulty` of method self-filter.

    Raises:
        GdigError: a subclass that says what is wrong with the options, the run, the features or the training.
    """
    if is_launched():
        raise ConfigError("score-net runs in one process; gdig.training.ScoreNetTrainer also runs in several")
    names = {f.name for f in fields(Training)}
    how = {name: options.pop(name) for name in names & set(options)}
    training = replace(training or Training(), **how)
    if config is None and "model" not in options and options.get("run_path"):
        options = {**read_stored_options(options["run_path"]), **options}
    config = _config(config, options)
    config.require("run_path")
    require_run(RunLayout(Path(str(config.run_path))), "run_path")
    with _workspace(config, progress, {}, None) as work:
        require_package("accelerate", "score-net", "train")  # the import works without it, the training does not
        from gdig.training.job import train_difficulty

        return train_difficulty(work, training)


def preview(
    config: Config | None = None, *, rows: int = 5, progress: Progress | None = None, **options: Any
) -> list[Text]:
    """Show a few candidates as the model will see them, with the masked part marked; print each, or use rich.

    Needs `model` (for its tokenizer and window) and `candidates`; touches no weights and no run directory.
    """
    from gdig.data.preview import preview_rows

    work = Workspace(_config(config, options), progress or Progress())
    work.config.require("model", "candidates")
    shown = range(min(rows, len(work.candidates)))
    return preview_rows(work.candidates, work.encoder, shown, work.encoder.tokenizer)


def verify(run_path: str | Path, *, progress: Progress | None = None) -> list[str]:
    """Read every file of a run and compare its checksum; return lines that say what was read.

    Raises:
        StoreError: naming every file that is damaged.
    """
    return verify_run(Path(run_path))


def merge(runs: Sequence[str | Path], run_path: str | Path, *, progress: Progress | None = None) -> list[str]:
    """Put the shards that copies of one fitted run have swept (see `sweep_part`) together in the directory `run_path`.

    Args:
        runs: the run directories.
        run_path: where to; one of them, or a new one.
        progress: where to show it.

    Returns:
        Lines that say what is there now. A sweep or select in `run_path` goes on from it.

    Raises:
        GdigError: a subclass that names what differs between the runs, or the file that is damaged.
    """
    return merge_runs([Path(path) for path in runs], Path(run_path), progress or Progress())


def _config(config: Config | None, options: dict[str, Any]) -> Config:
    if config is None:
        return Config.build(options)
    return config.with_options(**options) if options else config


def serve(ranks: Ranks) -> None:
    """Be a rank beside the first: do this rank's part of each task, until rank 0 has come to the end of the run."""
    tasks = ranks.tasks()
    for name, arguments in tasks:
        assert name == "open", name
        config = Config.build(arguments["config"])
        progress = WarningsOnly(f"rank {ranks.rank}", config.quiet, ranks.first_to_say)
        with _explained(config), Workspace(config, progress, ranks) as work:
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
    config: Config | None, progress: Progress | None, options: dict[str, Any], ranks: Ranks | None
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


def _fit(work: Workspace) -> None:
    """Curvature and seeds, unless they are there."""
    if not work.run.done("fit"):
        with work.run.running("fit"):
            fit_stage(work)


def _sweep(work: Workspace, whole: bool = True) -> SketchStore:
    """The pass over the pool, shard by shard; shards that are there are kept.

    Raises:
        ConfigError: when `whole` is asked for, and `sweep_part` is a part.
    """
    if whole and work.config.sweep_part is not None:
        raise ConfigError("sweep_part: only gdig sweep makes a part; what comes after needs the whole sweep")
    _fit(work)
    path = work.layout.sweep
    lost = SketchStore.open(path).missing(len(work.candidates)) if work.run.done("sweep") else []
    if lost:
        work.progress.warn(f"{path}: shards {', '.join(map(str, lost))} are gone or cut short; they are made again")
    if lost or not work.run.done("sweep"):
        with work.run.running("sweep") as end:
            if not sweep_stage(work):
                end.state = "running"
    if work.config.checkpoints and not checkpoints_stage(work):
        work.progress.say("checkpoints: shards of other parts are missing; gdig merge adds them")
    return SketchStore.open(path)


def _checkpoints(work: Workspace) -> tuple[Checkpoint, ...]:
    """The training checkpoints last asked for, each swept whole."""
    sweep = work.run.sweep
    swept = [(key, sweep.checkpoints[key]) for key in sweep.checkpoint_order]
    paths = {key: work.layout.checkpoint(key) for key, _ in swept}
    return tuple(
        Checkpoint(record.path, SketchStore.open(paths[key].shards), record.learning_rate, paths[key].seed_sketches)
        for key, record in swept
        if record.state == "done"
    )


def _swept(work: Workspace, store: SketchStore, found: Survey, tasks: Tasks, *, clusters: bool) -> Swept:
    """The finished sweep as the methods see it, with the clusters or without."""
    layout = work.layout
    return Swept(
        store,
        found,
        labels=layout.labels if clusters else None,
        centroids=layout.centroids if clusters else None,
        tasks=tasks,
        checkpoints=_checkpoints(work),
        seed_sketches=layout.seed_sketches,
        difficulty=layout.difficulty,
    )


def _survey(work: Workspace, store: SketchStore, tasks: Tasks) -> Survey:
    config = work.config
    return survey(store, config.score, tasks.of_seed if config.agreement == "tasks" else None)


def _limit(work: Workspace, found: Survey) -> Limit:
    """What the option `budget` allows in this pool.

    Raises:
        ConfigError: when the budget is more than the pool holds.
    """
    return parse_budget(work.config.budget).limit(found.rows, found.all_tokens)


def _cluster(work: Workspace, store: SketchStore, found: Survey, limit: Limit) -> None:
    """k-means and labels, unless they are there for as many clusters."""
    run = work.run
    n_clusters = resolve_clusters(work.config, found, limit)
    if run.done("cluster") and run.cluster.n_clusters == n_clusters:
        return
    if run.done("cluster"):
        was = run.cluster.n_clusters
        work.progress.say(f"cluster: the budget now asks for {n_clusters} clusters instead of {was}")
        run.start_over("cluster")
    # What an interrupted stage left says what it was made from, and is gone on from only if that is still the same.
    with run.running("cluster"):
        facts = cluster_sketches(work, store, n_clusters)
        run.update("cluster", **facts)


def _choose(work: Workspace, store: SketchStore, found: Survey, tasks: Tasks, limit: Limit) -> Selection:
    """Choose, and write the chosen rows whole."""
    config, run = work.config, work.run
    swept = _swept(work, store, found, tasks, clusters=METHODS[config.method].clusters)
    choice = choose(swept, limit, config)
    rows, told = choice.rows, choice.columns
    columns = [
        {
            "row": int(row),
            "score": float(told["score"][place]),
            "agreement": float(told["votes"][place] / found.voters),
            "cluster": int(told["label"][place]) if "label" in told else None,
            "distance": float(told["distance"][place]) if "distance" in told else None,
            "rank": place + 1,
            "loss": float(told["loss"][place]),
            "tokens": int(told["tokens"][place]),
            **({"tasks": dict(zip(tasks.names, choice.by_task[place].tolist(), strict=True))} if tasks else {}),
            **{name: reason[place].item() for name, reason in choice.reasons.items()},
        }
        for place, row in enumerate(rows)
    ]
    output = Path(config.output) if config.output else work.layout.selection
    export(work.candidates, rows, columns, output)
    tokens = int(told["tokens"].sum())
    warnings = [*run.fit.warnings, *run.sweep.warnings]
    for warning in warnings:  # a stage that an earlier start finished has said it then
        work.progress.warn(warning)
    run.record_selection(
        rows=len(rows), tokens=tokens, output=str(output), notes=tuple(choice.notes), warnings=tuple(warnings)
    )
    n_clusters = int((label_counts(swept.labels) > 0).sum()) if swept.labels else None
    return Selection(rows, columns, output, _summary(found, choice, tasks, n_clusters, output), warnings)


def _summary(found: Survey, choice: Choice, tasks: Tasks, clusters: int | None, output: Path) -> list[str]:
    rows, told = choice.rows, choice.columns
    lines = [f"{len(rows):,} of {found.rows:,} rows ({int(told['tokens'].sum()):,} tokens): {output}", *choice.notes]
    if len(rows):
        agreement, score = told["votes"].mean() / found.voters, told["score"].mean(dtype=np.float64)
        lines.append(
            f"agreement of the chosen {agreement:.3f} (pool {found.mean_agreement:.3f}), "
            f"mean score {score:.3g} (pool {found.mean_score:.3g})"
        )
    if len(rows) and tasks:
        means = zip(tasks.names, choice.by_task.mean(0), strict=True)
        lines.append("mean influence by task: " + ", ".join(f"{name} {mean:.3g}" for name, mean in means))
    if clusters is not None:
        lines.append(f"{len(np.unique(told['label']))} of {clusters} clusters drawn from")
    return lines
