"""The options of each command: one dataclass a command, whose fields are groups of options.

What several commands share stands once, in a base class. The fields of the last base come first, those of the class
itself last; the help shows them in this order.
"""

# ruff: noqa: RUF009  (groups are frozen, so the same instance can be the default of every start)

from __future__ import annotations

from dataclasses import dataclass

from gdig.cli.groups import (
    CompareOptions,
    DefaultOptions,
    ExplainOptions,
    FileOptions,
    MergedRunOptions,
    PlanOptions,
    PreviewOptions,
    ReportOptions,
    RunsOptions,
    StartOptions,
    SweptRunOptions,
    VerifyOptions,
)
from gdig.config.options import (
    CheckpointOptions,
    ChoiceOptions,
    ClusterOptions,
    CurvatureOptions,
    DataOptions,
    DeviceOptions,
    FeatureOptions,
    ModelOptions,
    PlaceOptions,
    RandomOptions,
    RunOptions,
    SeedOptions,
    SelectOptions,
    SweepOptions,
    TrainOptions,
    TrialOptions,
    TrustOptions,
)


@dataclass(frozen=True)
class _Data:
    data: DataOptions = DataOptions()


@dataclass(frozen=True)
class _Fit:
    model: ModelOptions = ModelOptions()
    curvature: CurvatureOptions = CurvatureOptions()
    seeds: SeedOptions = SeedOptions()
    randomness: RandomOptions = RandomOptions()
    run: RunOptions = RunOptions()
    defaults: DefaultOptions = DefaultOptions()


@dataclass(frozen=True)
class _Sweep:
    sweep: SweepOptions = SweepOptions()


@dataclass(frozen=True)
class _Checkpoints:
    checkpoints: CheckpointOptions = CheckpointOptions()


@dataclass(frozen=True)
class _Cluster:
    clusters: ClusterOptions = ClusterOptions()


@dataclass(frozen=True)
class _Selection(_Data):
    selection: SelectOptions = SelectOptions()


@dataclass(frozen=True)
class _Choice(_Data):
    selection: ChoiceOptions = ChoiceOptions()


@dataclass(frozen=True)
class _Start:
    start: StartOptions = StartOptions()


@dataclass(frozen=True)
class _Plan:
    plan: PlanOptions = PlanOptions()


@dataclass(frozen=True)
class _Comparison:
    comparison: CompareOptions = CompareOptions()
    trial: TrialOptions = TrialOptions()


@dataclass(frozen=True)
class Fit(_Fit, _Data):
    """The options of gdig fit."""


@dataclass(frozen=True)
class Sweep(_Fit, _Checkpoints, _Sweep, _Data):
    """The options of gdig sweep."""


@dataclass(frozen=True)
class Cluster(_Fit, _Sweep, _Cluster, _Data):
    """The options of gdig cluster."""


@dataclass(frozen=True)
class Select(_Fit, _Checkpoints, _Sweep, _Cluster, _Selection, _Start):
    """The options of gdig select."""


@dataclass(frozen=True)
class Plan(_Fit, _Checkpoints, _Sweep, _Cluster, _Selection, _Plan):
    """The options of gdig plan: those of gdig select."""


@dataclass(frozen=True)
class Compare(_Fit, _Checkpoints, _Sweep, _Cluster, _Choice, _Comparison):
    """The options of gdig compare."""


@dataclass(frozen=True)
class Explain:
    """The options of gdig explain."""

    explanation: ExplainOptions = ExplainOptions()
    device: DeviceOptions = DeviceOptions()
    run: PlaceOptions = PlaceOptions()
    defaults: FileOptions = FileOptions()


@dataclass(frozen=True)
class Report:
    """The options of gdig report."""

    report: ReportOptions = ReportOptions()
    run: PlaceOptions = PlaceOptions()
    defaults: FileOptions = FileOptions()


@dataclass(frozen=True)
class ScoreNet:
    """The options of gdig score-net."""

    pool: SweptRunOptions = SweptRunOptions()
    training: TrainOptions = TrainOptions()
    features: FeatureOptions = FeatureOptions()
    device: DeviceOptions = DeviceOptions()
    run: PlaceOptions = PlaceOptions()
    defaults: FileOptions = FileOptions()


@dataclass(frozen=True)
class Preview:
    """The options of gdig preview."""

    preview: PreviewOptions = PreviewOptions()
    data: DataOptions = DataOptions()
    model: TrustOptions = TrustOptions()
    run: PlaceOptions = PlaceOptions()
    defaults: DefaultOptions = DefaultOptions()


@dataclass(frozen=True)
class Verify:
    """The options of gdig verify."""

    verify: VerifyOptions = VerifyOptions()
    run: PlaceOptions = PlaceOptions()


@dataclass(frozen=True)
class Merge:
    """The options of gdig merge."""

    runs: RunsOptions = RunsOptions()
    run: MergedRunOptions = MergedRunOptions()
