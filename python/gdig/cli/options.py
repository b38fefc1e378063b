"""The options of each command: one dataclass a command, whose fields are groups of options.

The groups of a run are those of :mod:`gdig.config.options`; the groups that only the command line has stand here.
"""

# ruff: noqa: RUF009  (groups are frozen, so the same instance can be the default of every start)

from __future__ import annotations

from dataclasses import dataclass

from tyro.conf import Positional

from gdig.config.options import (
    Basic,
    CheckpointOptions,
    ClusterOptions,
    CurvatureOptions,
    DataOptions,
    DeviceOptions,
    FeatureOptions,
    ModelOptions,
    PlaceOptions,
    PresetOptions,
    RandomOptions,
    RunOptions,
    SeedOptions,
    SelectOptions,
    SweepOptions,
    TrainOptions,
    TrustOptions,
)


@dataclass(frozen=True)
class FileOptions:
    """Options without a flag come from the YAML file, then from the run."""

    config: Basic[str | None] = None
    """YAML file of options, whose keys are the flags with underscores (run_path: runs/a). Flags win over the file."""


@dataclass(frozen=True)
class DefaultOptions(PresetOptions, FileOptions):
    """Options without a flag come from the YAML file, then from the run in run_path, then from the preset."""


@dataclass(frozen=True)
class PreviewOptions:
    """What to show."""

    rows: Basic[int] = 5
    """Candidates to show, from the first on. The default fills a screen. Raise it to see rows of other files."""


@dataclass(frozen=True)
class RunsOptions:
    """Runs whose sweeps are put together in run_path, which is one of them or a new directory."""

    runs: Basic[Positional[tuple[str, ...]]] = ()
    """Copies of one fitted run, each with a part of the sweep (sweep_part)."""


@dataclass(frozen=True)
class CompareOptions:
    """What to compare."""

    run: Basic[Positional[str | None]] = None
    """Directory of a run; the same as run_path."""
    methods: Basic[tuple[str, ...]] = ()
    """Methods to compare, by the names of the option method. The default is every method that the run has the inputs
    for. Name a few to save time."""
    json: Basic[bool] = False
    """Print JSON instead of a table. Off by default. Switch it on for other programs."""


@dataclass(frozen=True)
class VerifyOptions:
    """What to print."""

    json: Basic[bool] = False
    """Print JSON, with the state of each file, instead of lines. Off by default. Switch it on for other programs."""


@dataclass(frozen=True)
class SweptRunOptions:
    """Whose pool."""

    run: Basic[Positional[str | None]] = None
    """Directory of a swept run; the same as run_path."""


@dataclass(frozen=True)
class Fit:
    """The options of gdig fit."""

    data: DataOptions = DataOptions()
    model: ModelOptions = ModelOptions()
    curvature: CurvatureOptions = CurvatureOptions()
    seeds: SeedOptions = SeedOptions()
    randomness: RandomOptions = RandomOptions()
    run: RunOptions = RunOptions()
    defaults: DefaultOptions = DefaultOptions()


@dataclass(frozen=True)
class Sweep:
    """The options of gdig sweep."""

    data: DataOptions = DataOptions()
    sweep: SweepOptions = SweepOptions()
    checkpoints: CheckpointOptions = CheckpointOptions()
    model: ModelOptions = ModelOptions()
    curvature: CurvatureOptions = CurvatureOptions()
    seeds: SeedOptions = SeedOptions()
    randomness: RandomOptions = RandomOptions()
    run: RunOptions = RunOptions()
    defaults: DefaultOptions = DefaultOptions()


@dataclass(frozen=True)
class Cluster:
    """The options of gdig cluster."""

    data: DataOptions = DataOptions()
    clusters: ClusterOptions = ClusterOptions()
    sweep: SweepOptions = SweepOptions()
    checkpoints: CheckpointOptions = CheckpointOptions()
    model: ModelOptions = ModelOptions()
    curvature: CurvatureOptions = CurvatureOptions()
    seeds: SeedOptions = SeedOptions()
    randomness: RandomOptions = RandomOptions()
    run: RunOptions = RunOptions()
    defaults: DefaultOptions = DefaultOptions()


@dataclass(frozen=True)
class Select:
    """The options of gdig select."""

    data: DataOptions = DataOptions()
    selection: SelectOptions = SelectOptions()
    clusters: ClusterOptions = ClusterOptions()
    sweep: SweepOptions = SweepOptions()
    checkpoints: CheckpointOptions = CheckpointOptions()
    model: ModelOptions = ModelOptions()
    curvature: CurvatureOptions = CurvatureOptions()
    seeds: SeedOptions = SeedOptions()
    randomness: RandomOptions = RandomOptions()
    run: RunOptions = RunOptions()
    defaults: DefaultOptions = DefaultOptions()


@dataclass(frozen=True)
class Compare:
    """The options of gdig compare."""

    comparison: CompareOptions = CompareOptions()
    data: DataOptions = DataOptions()
    selection: SelectOptions = SelectOptions()
    clusters: ClusterOptions = ClusterOptions()
    sweep: SweepOptions = SweepOptions()
    checkpoints: CheckpointOptions = CheckpointOptions()
    model: ModelOptions = ModelOptions()
    curvature: CurvatureOptions = CurvatureOptions()
    seeds: SeedOptions = SeedOptions()
    randomness: RandomOptions = RandomOptions()
    run: RunOptions = RunOptions()
    defaults: DefaultOptions = DefaultOptions()


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

    parts: RunsOptions = RunsOptions()
    run: PlaceOptions = PlaceOptions()
