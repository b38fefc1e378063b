"""A run whose sweep is done, opened for reading: for what is shown of it afterwards. Nothing in it changes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from gdig.config.budget import Limit, parse_budget
from gdig.config.config import Config
from gdig.config.read import typed_option
from gdig.data.fingerprint import fingerprint_paths
from gdig.errors import OtherRunError, RunError, UnfinishedRunError
from gdig.progress import Progress
from gdig.run.directory import require_run
from gdig.run.layout import RunLayout
from gdig.run.origin import rows_origin
from gdig.run.pool_files import with_recorded_names
from gdig.run.record import RunRecord
from gdig.run.session import Workspace
from gdig.run.verify import content_damage
from gdig.selection.chosen_rows import ChosenRows, read_chosen_rows
from gdig.selection.eligible import Eligible
from gdig.selection.judge import Judge
from gdig.selection.method import FinishedSweep
from gdig.selection.select_stage import eligible_sweep, excluded_rows, open_finished_sweep
from gdig.selection.sources import read_sources
from gdig.selection.survey import make_judge, survey
from gdig.selection.tasks import read_tasks
from gdig.store.sketches import SketchStore


@dataclass(frozen=True)
class FinishedRun:
    """A run whose sweep is done.

    work: inputs, tokenizer and model, opened when they are needed; never its `run`, which locks the directory.
    record: run.json. sweep: with labels where the run has clusters. limit: the budget of the last selection.
    chosen: its rows; None where there is no selection, or where its file is gone. chosen_file: where they are.
    """

    work: Workspace
    record: RunRecord
    sweep: FinishedSweep
    limit: Limit
    chosen: ChosenRows | None = None
    chosen_file: Path | None = None

    @property
    def config(self) -> Config:
        """The options of the run and of its last selection."""
        return self.work.config

    @cached_property
    def eligible(self) -> Eligible:
        """The rows that the options of the last selection allow to be chosen."""
        layout, config, store = RunLayout(Path(str(self.config.run_path))), self.config, self.sweep.store
        return eligible_sweep(
            layout, self.record, config, self.sweep, excluded_rows(layout, self.record, config, store)
        )

    @property
    def has_clusters(self) -> bool:
        """Whether the run has clusters."""
        return self.sweep.labels is not None


def open_finished_run(config: Config, progress: Progress, selection: str | None = None) -> FinishedRun:
    """Open a run for reading. Its own options of the last selection hold.

    Args:
        config: `run_path`, and the options of the run.
        progress: where warnings are printed.
        selection: file of the selection; None for the last one.

    Raises:
        ConfigError: when the directory holds no run.
        RunError: when the sweep is not done, or the pool or the seeds are not those of the run.
        CorpusError: when the file of the selection is named and cannot be read.
    """
    config.require("run_path")
    layout = RunLayout(Path(str(config.run_path)))
    record = require_run(layout, "run_path")
    if record.stages.sweep is None or record.stages.sweep.state != "done":
        raise UnfinishedRunError(f"{layout.path}: its sweep is not done; run gdig sweep --run-path {layout.path} first")
    if record.stages.select is not None:
        given = record.stages.select.config
        config = config.with_options(**{k: typed_option(str(layout.record), k, v) for k, v in given.items()})
    work = Workspace(config, progress)
    _check_inputs(work, record)
    store = SketchStore.open(layout.sweep, rows_origin(record))
    tasks = read_tasks(work.seed_corpus, config.task_field)
    judge = make_judge(store, config, tasks) if config.gradients else Judge(config.score)
    pool = survey(store, judge)
    clusters = record.stages.cluster is not None and record.stages.cluster.state == "done"
    sources = read_sources(work, layout, store)
    sweep = open_finished_sweep(layout, record, store, pool, tasks, clusters=clusters, sources=sources)
    limit = parse_budget(config.budget).limit(pool.rows, pool.all_tokens)
    # A selection without the field gdig does not say which rows it has.
    file = None if selection is None and config.plain else _chosen_file(layout, record, selection)
    chosen = read_chosen_rows(file, pool.rows) if file is not None else None
    return FinishedRun(work, record, sweep, limit, chosen, file)


def _chosen_file(layout: RunLayout, record: RunRecord, selection: str | None) -> Path | None:
    """The file of the selection: a run that was moved or copied has its own beside its other files."""
    if selection is not None:
        return Path(selection)
    select = record.stages.select
    if select is None or select.output is None or select.config.get("plain"):
        return None
    file = layout.selection if select.config.get("output") is None else Path(select.output)
    if not file.is_file():
        return None
    if (damage := content_damage(file, select.output_hash or "")) is not None:
        raise RunError(
            f"{damage.what}: it was damaged or changed since gdig select wrote it; select again, or name the file by "
            "the option selection to read it as it is"
        )
    return file


def _check_inputs(work: Workspace, record: RunRecord) -> None:
    """Raise RunError if pool, seeds or chat template have changed: the texts would be those of other rows."""
    files: dict[str, Sequence[str | Path]] = {"candidates": work.candidates.files, "seeds": work.seed_corpus.files}
    if work.config.chat_template_file is not None:
        files["chat_template_file"] = [work.config.chat_template_file]
    inputs = {kind: fingerprint_paths(paths) for kind, paths in files.items()}
    for kind, now in with_recorded_names(record, inputs).items():
        then = record.inputs.get(kind, {})
        changed = [name for name in {**then, **now} if then.get(name) != now.get(name)]
        if changed or list(then) != list(now):
            names = ", ".join(changed) or "their order"
            raise OtherRunError(
                f"{kind}: {names} changed since the run began, so rows and numbers would not belong together; "
                f"give the files of the run, or sweep them into another run_path"
            )
