"""What of a run is still to come, by what its record and its files say."""

from __future__ import annotations

from dataclasses import dataclass

from gdig.config.budget import parse_budget
from gdig.passes.drift import CURVATURE_ROWS
from gdig.passes.planned_stages import checkpoint_share
from gdig.passes.shards import rows_on_disk
from gdig.run.origin import rows_origin
from gdig.run.record import RunRecord, SweepRecord
from gdig.run.session import Workspace
from gdig.selection.cluster_stage import DEFAULT_CLUSTERS
from gdig.selection.exclude import exclude_key, open_exclude
from gdig.selection.methods import METHODS
from gdig.store.sketches import SketchStore


@dataclass(frozen=True)
class Left:
    """What a start has to do.

    Attributes:
        begun: whether the fit has begun, so that its options hold.
        fit: whether the fit is not done. curvature, seeds: the parts of it that pass the model.
        sweep: share of the rows that are not swept. checkpoints: the same for each training checkpoint.
        compared_rows: rows that pass once more, old and new, because files were appended to a finished sweep.
        clusters, sources, exclude: whether the run lacks them, where the options ask for them. entries: whether the
            evaluation set has to pass the model.
    """

    begun: bool
    fit: bool
    curvature: bool
    seeds: bool
    sweep: float
    checkpoints: tuple[float, ...]
    compared_rows: int
    clusters: bool
    sources: bool
    exclude: bool
    entries: bool

    @property
    def sweeps(self) -> bool:
        """Whether rows have to pass the model, or a checkpoint of it."""
        return self.sweep > 0 or any(self.checkpoints)

    @property
    def model(self) -> bool:
        """Whether a stage needs the model."""
        return self.fit or self.sweeps or self.entries

    def share_done(self, stage: str) -> float:
        """The share of a stage that the run has, 0 to 1. `stage`: as a bar of the run calls it."""
        name = stage.partition(":")[0]
        if name.startswith("checkpoint "):
            left = self.checkpoints[int(name.split()[1]) - 1]
            return float(left < 1) if name != stage else 1 - left
        if stage in ("fit: factors", "fit: eigenvectors", "fit: eigenvalues"):
            return float(not self.curvature)
        if stage in ("sweep: scale", "sweep: seeds"):
            return float(self.sweep < 1)
        flags = {"check": self.fit, "fit": self.fit, "cluster": self.clusters}
        return 1 - self.sweep if name == "sweep" else float(not flags.get(name, True))


def what_is_left(work: Workspace, record: RunRecord | None, rows: int) -> Left:
    """Return what a start with these options has to do.

    Args:
        work: options and paths. The run is not opened.
        record: of the run; None where nothing has begun.
        rows: of the pool.
    """
    config, record = work.config, record or RunRecord()
    fit, sweep = record.stages.fit, record.stages.sweep
    fit_left = fit is None or fit.state != "done"
    curvature = fit.curvature if fit is not None else None
    has_curvature = curvature is not None and not curvature.invalid
    sweep_left = 1 - _share_swept(work, record, rows)
    swept = sweep if sweep is not None and not sweep_left else None
    exclude, entries = _exclude_left(work, swept)
    return Left(
        begun=fit is not None,
        fit=fit_left,
        curvature=fit_left and config.gradients and config.inversion != "identity" and not has_curvature,
        seeds=fit_left and config.gradients,
        sweep=sweep_left,
        checkpoints=tuple(1 - checkpoint_share(work, record, path) for path in config.checkpoints),
        compared_rows=_compared_rows(record, rows),
        clusters=METHODS[config.method].clusters and not _has_clusters(work, record, rows),
        sources=config.source_field is not None and not _has_sources(work, swept),
        exclude=exclude,
        entries=entries,
    )


def _share_swept(work: Workspace, record: RunRecord, rows: int) -> float:
    """Whole shards of a sweep count."""
    sweep = record.stages.sweep
    if sweep is None or not SketchStore.exists(work.layout.sweep):
        return 0.0
    swept = sweep.rows if sweep.state == "done" else None
    return rows_on_disk(work.layout.sweep, rows_origin(record), rows, swept) / rows


def _compared_rows(record: RunRecord, rows: int) -> int:
    sweep = record.stages.sweep
    if sweep is None or sweep.rows is None or sweep.state != "done" or sweep.rows >= rows:
        return 0
    return min(CURVATURE_ROWS, record.first_rows or sweep.rows) + min(CURVATURE_ROWS, rows - sweep.rows)


def _has_clusters(work: Workspace, record: RunRecord, rows: int) -> bool:
    """Whether the run has as many clusters as are asked for: without `n_clusters`, the budget says how many."""
    cluster, sweep, config = record.stages.cluster, record.stages.sweep, work.config
    if cluster is None or cluster.state != "done" or sweep is None or sweep.counts is None:
        return False
    if config.n_clusters is not None or sweep.growth or sweep.rows != rows:
        return config.n_clusters in (None, cluster.n_clusters)
    counts = sweep.counts
    valid = counts.rows - counts.not_usable - counts.not_finite
    limit = parse_budget(config.budget).limit(counts.rows, counts.tokens)
    per_row = max(1.0, counts.tokens / max(1, valid)) if limit.unit == "tokens" else 1
    return cluster.n_clusters == max(1, min(DEFAULT_CLUSTERS, int(limit.amount / per_row), valid))


def _has_sources(work: Workspace, swept: SweepRecord | None) -> bool:
    if swept is None or swept.source_field != work.config.source_field:
        return False
    return all(work.layout.sources_of(shard).exists() for shard in range(swept.shards))


def _exclude_left(work: Workspace, swept: SweepRecord | None) -> tuple[bool, bool]:
    """Whether the pool has to be compared with the evaluation set, and whether the set has to pass the model."""
    if not work.config.exclude:
        return False, False
    layout, compares_hidden = work.layout, work.config.exclude_similarity < 1
    if swept is None or swept.exclude_key != exclude_key(work, open_exclude(work)):
        return True, compares_hidden
    left = not all(layout.excluded_of(shard).exists() for shard in range(swept.shards))
    return left, left and compares_hidden and not layout.evaluation_set.exists()
