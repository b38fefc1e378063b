"""run.json as frozen dataclasses: what a run was asked, what it read, how far each stage is, what it found."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any, Literal

FORMAT = 4
"""Version of the run directory's layout and of run.json."""

State = Literal["running", "done"]


@dataclass(frozen=True)
class StageRecord:
    """What every stage records: its options, the seconds that it took over all starts, and whether it is done."""

    config: dict[str, Any]
    seconds: float = 0.0
    state: State = "running"

    @property
    def is_bare(self) -> bool:
        """Whether the stage has begun and has kept no result."""
        return self.state == "running" and self == type(self)(self.config, self.seconds)


@dataclass(frozen=True)
class CurvatureReport:
    """What the curvature was fitted on: examples and tokens that count, and examples whose loss is not finite."""

    examples: int
    tokens: int
    invalid: int


@dataclass(frozen=True)
class SeedReport:
    """What preconditioning found.

    losses: of the seeds, [S]. columns: over all layers. least_energy: least share of the squared norm kept of any seed
    in any layer. relative_error, correlation: |factored - exact| / |exact| and Pearson's r of the scores on probe_rows
    rows. iterations, residuals: of conjugate gradients, [S]. unconverged: seeds that did not reach cg_tolerance.
    """

    losses: tuple[float, ...]
    columns: int
    least_energy: float
    probe_rows: int
    relative_error: float
    correlation: float
    iterations: tuple[int, ...] = ()
    residuals: tuple[float, ...] = ()
    unconverged: int = 0


@dataclass(frozen=True)
class FitRecord(StageRecord):
    """The fit. token_batch_size: of the sample. partitions: layers in each run over the sample. layers: names, in the
    model's order; none without gradients. dtype: of the model's weights. coverage: the share of the weights, without
    the embeddings, that the layers have. renderings: how the rows of each file become text, of candidates and seeds."""

    token_batch_size: int | None = None
    partitions: tuple[int, ...] = ()
    curvature: CurvatureReport | None = None
    seeds: SeedReport | None = None
    layers: tuple[str, ...] | None = None
    dtype: str | None = None
    warnings: tuple[str, ...] = ()
    coverage: float | None = None
    renderings: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def is_bare(self) -> bool:
        """Whether the fit has begun and has kept no result. What was planned for it is no result."""
        planned = FitRecord(self.config, self.seconds, "running", self.token_batch_size, self.partitions)
        return self == planned


@dataclass(frozen=True)
class SeedHealth:
    """What a sample of the sweep says of the seeds.

    rows: valid rows looked at. reliability: Cronbach's alpha of the votes (for votes, formula 20 of Kuder and
    Richardson 1937): the share of the variance of agreement that another draw of as many like seeds would show again;
    NaN where nothing varies. seed_loss, seed_loss_error: mean loss of the seeds and its standard error. pool_loss:
    median loss of the rows.
    """

    rows: int
    reliability: float
    seed_loss: float
    seed_loss_error: float
    pool_loss: float


@dataclass(frozen=True)
class RowCounts:
    """What the pool turned out to hold: rows, and the tokens of all.

    Of the rows it counts those that are not usable, and those with a loss or gradient that is not finite. It also
    counts those that were cut to the window, repeat another row, or equal a seed.
    """

    rows: int
    tokens: int
    not_usable: int
    not_finite: int
    cut: int
    repeat_another: int
    equal_to_a_seed: int


@dataclass(frozen=True)
class CheckpointRecord:
    """A swept training checkpoint. path: where it was. step: the optimizer's. layers: how many of them it trained.
    token_batch_size: None until the seeds have passed."""

    path: str
    learning_rate: float
    step: int
    layers: int
    token_batch_size: int | None
    state: State = "running"


@dataclass(frozen=True)
class Shift:
    """How far rows lie from others in one number or sketch. size: distance of the means in standard deviations, less
    what chance adds. error: its standard error."""

    size: float
    error: float


@dataclass(frozen=True)
class CurvatureDrift:
    """Error of the fit's curvature on groups of its own rows, and of appended rows, 0 to 1; NaN without a curvature.

    error: the standard error of the difference.
    """

    old: float
    new: float
    error: float


@dataclass(frozen=True)
class Drift:
    """What appended rows are beside those of the first files.

    old, new: valid rows looked at. shifts: by name (loss, agreement, sketch, hidden). due: the names of what says that
    a new fit is due.
    """

    old: int
    new: int
    shifts: dict[str, Shift]
    curvature: CurvatureDrift
    due: tuple[str, ...]


@dataclass(frozen=True)
class Growth:
    """Files that were appended to the pool of a finished sweep.

    files: of the pool before; the appended ones come after. first_row: of the appended rows. drift: None until they
    are swept.
    """

    files: int
    first_row: int
    drift: Drift | None = None


@dataclass(frozen=True)
class SweepRecord(StageRecord):
    """The sweep.

    rows: N, with those of all growth. scale: of the sketches. dense_bytes: memory of the seeds' dense gradients, which
    decides how scores round. checkpoints: by key; checkpoint_order: keys as last asked for. growth: one entry each time
    that files were appended. source_field: whose sources are in the folder of sources. exclude_key: of the evaluation
    set whose rows are in the folder of excluded rows.
    """

    rows: int | None = None
    scale: float | None = None
    token_batch_size: int | None = None
    dense_bytes: int | None = None
    counts: RowCounts | None = None
    seed_health: SeedHealth | None = None
    warnings: tuple[str, ...] = ()
    checkpoints: dict[str, CheckpointRecord] = field(default_factory=dict)
    checkpoint_order: tuple[str, ...] = ()
    growth: tuple[Growth, ...] = ()
    source_field: str | None = None
    exclude_key: str | None = None

    @property
    def shards(self) -> int:
        """Shards of the whole sweep."""
        return -(-(self.rows or 0) // self.config["rows_per_shard"]) if self.rows else 0


@dataclass(frozen=True)
class ClusterRecord(StageRecord):
    """k-means and labels. rows: of the pool that k-means saw. largest: rows of the largest cluster. at_most_one_row:
    clusters with at most one row."""

    rows: int | None = None
    n_clusters: int | None = None
    n_iter: int | None = None
    inertia: float | None = None
    largest: int | None = None
    at_most_one_row: int | None = None


@dataclass(frozen=True)
class SelectRecord(StageRecord):
    """The last selection: rows and tokens chosen, the file and a hash of its content, and what was said.

    pool_rows: rows of the pool that it was made from; of a pool that has grown since, the first ones. sources: chosen
    rows by source. repeats, excluded: rows that were left out, because they repeat an earlier row or are in the option
    exclude. similar: rows that were passed over for `max_similarity`.
    """

    rows: int | None = None
    tokens: int | None = None
    output: str | None = None
    output_hash: str | None = None
    pool_rows: int | None = None
    sources: dict[str, int] = field(default_factory=dict)
    repeats: int = 0
    excluded: int = 0
    similar: int = 0
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stages:
    """The record of each stage; None, and absent from the file, for a stage that has not begun."""

    fit: FitRecord | None = None
    sweep: SweepRecord | None = None
    cluster: ClusterRecord | None = None
    select: SelectRecord | None = None


@dataclass(frozen=True)
class RunRecord:
    """All of run.json.

    config: the options last asked for. inputs: fingerprint of each input file, by kind and name. versions: of the
    packages that began the run. date: the day on which the fit began, which chat templates see as today.
    """

    format: int = FORMAT
    config: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    date: str = field(default_factory=lambda: date.today().isoformat())
    stages: Stages = field(default_factory=Stages)

    @property
    def first_rows(self) -> int | None:
        """Rows of the pool that the fit saw; None before the sweep has counted them."""
        sweep = self.stages.sweep
        return (sweep.growth[0].first_row if sweep.growth else sweep.rows) if sweep is not None else None

    def with_stage(self, name: str, stage: StageRecord | None) -> RunRecord:
        """Return a copy in which the record of one stage is another; None forgets the stage."""
        stages: dict[str, Any] = {name: stage}
        return replace(self, stages=replace(self.stages, **stages))


STAGE_TYPES: dict[str, type[StageRecord]] = {
    "fit": FitRecord,
    "sweep": SweepRecord,
    "cluster": ClusterRecord,
    "select": SelectRecord,
}
