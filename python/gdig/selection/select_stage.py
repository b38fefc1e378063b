"""The select stage: pick rows by a method, write them whole, and record the selection."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.data.check_output import check_output, require_writable
from gdig.data.dataset_info import check_entries
from gdig.data.export import export
from gdig.data.fingerprint import hash_content
from gdig.errors import CorpusError, StoreError
from gdig.passes.drift import growth_warnings
from gdig.resampling import label_counts
from gdig.run.layout import RunLayout
from gdig.run.origin import checkpoint_origin, checkpoint_rows_origin, rows_origin, sweep_origin
from gdig.run.output_places import check_place
from gdig.run.record import RunRecord
from gdig.run.session import Workspace
from gdig.run.verify import difficulty_damage
from gdig.selection.choose import choose
from gdig.selection.conversion import Conversion
from gdig.selection.eligible import Eligible, narrow
from gdig.selection.exclude import Excluded, open_exclude, read_excluded, write_excluded_list
from gdig.selection.hidden_mean import read_hidden_mean
from gdig.selection.method import Checkpoint, FinishedSweep
from gdig.selection.methods import METHODS
from gdig.selection.relevance import sketches_are_of_the_metric
from gdig.selection.result import Selection, output_columns, summary_lines
from gdig.selection.similar import SimilarityFeatures
from gdig.selection.sources import Sources, read_sources
from gdig.selection.survey import Survey
from gdig.selection.tasks import Tasks
from gdig.selection.token_files import TokenFiles
from gdig.store.sketches import SketchStore


def output_of(work: Workspace) -> Path:
    """Return the file that the chosen rows go into."""
    return Path(work.config.output) if work.config.output else work.layout.selection


def check_selection_output(work: Workspace) -> None:
    """Raise, before anything is computed, if the output cannot be written, or has no place for the rows of a file.

    Raises:
        ConfigError: if the output would replace an input or a file of the run.
        CorpusError: if it has no place, or cannot be written.
    """
    config, output = work.config, output_of(work)
    if config.output:
        check_place("output", config.output, config)
    require_writable(output)
    if config.format is not None:
        check_entries(output, config.format)
    conversion = Conversion(work, work.config.format) if work.config.format is not None else None

    def is_usable(row: int) -> bool:
        (example,) = work.encoder.encode(work.candidates, [row])
        return not isinstance(example, CorpusError)

    skips = work.config.bad_rows == "skip"
    check_output(work.candidates, output_of(work), conversion, is_usable if skips else None)


def select_stage(work: Workspace, store: SketchStore, survey: Survey, tasks: Tasks, limit: Limit) -> Selection:
    """Select rows within `limit` by the option `method`, and write them whole."""
    config, run = work.config, work.run
    clusters = METHODS[config.method].clusters
    sources = read_sources(work, work.layout, store)
    sweep = open_finished_sweep(work.layout, run.record, store, survey, tasks, clusters=clusters, sources=sources)
    _check_difficulty(work)
    excluded = excluded_rows(work.layout, run.record, config, store)
    eligible = eligible_sweep(work.layout, run.record, config, sweep, excluded)
    scored = choose(eligible, limit, config)
    columns = output_columns(scored, survey, tasks)
    output = output_of(work)
    conversion = Conversion(work, config.format) if config.format is not None else None
    export(work.candidates, scored.rows, None if config.plain else columns, output, conversion)
    if conversion is not None:
        conversion.finish(output)
    warnings = [*run.fit.warnings, *run.sweep.warnings, *growth_warnings(run.record, len(work.candidates.files))]
    warnings += [*excluded.warnings(survey.valid, config.exclude_similarity), *scored.warnings]
    for warning in warnings:  # `warn` repeats no warning that a stage of this start has given
        work.progress.warn(warning)
    if config.exclude:
        entries = open_exclude(work)
        folder, rows = work.layout.excluded, excluded.rows
        work.run.write_beside(
            work.layout.excluded_list, lambda file: write_excluded_list(file, folder, work.candidates, entries, rows)
        )
    else:  # the list is that of the last selection
        work.run.write_beside(work.layout.excluded_list, lambda file: file.unlink(missing_ok=True))
    run.record_selection(
        rows=len(scored.rows),
        tokens=int(scored.columns["tokens"].sum()),
        output=str(output),
        output_hash=hash_content(output),
        pool_rows=len(work.candidates),
        sources=scored.sources,
        repeats=eligible.repeats,
        excluded=eligible.excluded,
        similar=scored.similar,
        notes=tuple(scored.notes),
        warnings=tuple(warnings),
    )
    n_clusters = int((label_counts(sweep.labels) > 0).sum()) if sweep.labels else None
    summary = summary_lines(scored, survey, tasks, n_clusters, output, len(work.candidates))
    if config.exclude:
        summary += excluded.summary(work.layout.excluded_list)
    return Selection(scored.rows, columns, output, summary, warnings)


def open_finished_sweep(
    layout: RunLayout,
    record: RunRecord,
    store: SketchStore,
    survey: Survey,
    tasks: Tasks,
    *,
    clusters: bool,
    sources: Sources,
) -> FinishedSweep:
    """Open the finished sweep as the methods see it, with the clusters or without.

    Args:
        layout: paths of the run.
        record: of the run, whose sweep is done.
        store: the sweep.
        survey: of the sweep.
        tasks: of the seeds.
        clusters: whether the methods may draw from the clusters.
        sources: which source each row is of.
    """
    fit, sweep, origin = record.stages.fit, record.stages.sweep, sweep_origin(record)
    assert fit is not None and sweep is not None, "the sweep is done"
    return FinishedSweep(
        store,
        survey,
        labels=layout.labels if clusters else None,
        centroids=layout.centroids if clusters else None,
        tasks=tasks,
        checkpoints=_checkpoints(layout, record),
        seed_sketches=layout.checked(layout.seed_sketches, origin),
        difficulty=layout.difficulty,
        tokens=TokenFiles(layout, store),
        sources=sources,
        metric_scale=sweep.scale if sketches_are_of_the_metric({**fit.config, **sweep.config}) else None,
    )


def excluded_rows(layout: RunLayout, record: RunRecord, config: Config, store: SketchStore) -> Excluded:
    """Return the rows that the option exclude bars, with the reasons; none without the option."""
    return read_excluded(layout, record, store, config.exclude_similarity) if config.exclude else Excluded([])


def eligible_sweep(
    layout: RunLayout, record: RunRecord, config: Config, sweep: FinishedSweep, excluded: Excluded
) -> Eligible:
    """Return the rows of a finished sweep that the options allow to be chosen."""
    features = None
    if config.max_similarity < 1:
        mean = read_hidden_mean(layout, record) if config.similarity_of == "hidden" else None
        features = SimilarityFeatures(sweep.store, config.similarity_of, mean)
    rows = np.array([row.row for row in excluded.rows], np.int64)
    counts = record.stages.sweep.counts if record.stages.sweep is not None else None
    may_repeat = counts is None or counts.repeat_another > 0
    return narrow(sweep, config, rows, features, may_repeat=may_repeat)


def _check_difficulty(work: Workspace) -> None:
    """Raise StoreError if the option `difficulty` names the run's own difficulties and these were changed."""
    layout, given = work.layout, work.config.difficulty
    if given and layout.score_net.is_file() and Path(given).resolve() == layout.difficulty.resolve():
        net = layout.checked(layout.score_net, rows_origin(work.run.record))
        if (damage := net.damage() or difficulty_damage(net, layout.difficulty)) is not None:
            raise StoreError(f"{damage.what}; gdig score-net makes it again")


def _checkpoints(layout: RunLayout, record: RunRecord) -> tuple[Checkpoint, ...]:
    """The training checkpoints last asked for whose sweep is whole."""
    sweep = record.stages.sweep
    assert sweep is not None
    swept = [(key, sweep.checkpoints[key]) for key in sweep.checkpoint_order]
    whole = [(key, checkpoint) for key, checkpoint in swept if checkpoint.state == "done"]
    checkpoints = []
    for key, checkpoint in whole:
        paths, origin = layout.checkpoint(key), checkpoint_origin(record, key)
        store = SketchStore.open(paths.shards, checkpoint_rows_origin(record, key))
        seeds = layout.checked(paths.seed_sketches, origin)
        checkpoints.append(Checkpoint(checkpoint.path, store, checkpoint.learning_rate, seeds))
    return tuple(checkpoints)
