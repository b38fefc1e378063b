"""run.json as frozen dataclasses: what a run was asked, what it read, how far each stage is, what it found."""

from __future__ import annotations

import json
import math
import re
import types
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from gdig.config.convert import describe
from gdig.errors import RunError
from gdig.store.atomic import replacing

FORMAT = 2
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
    """The fit. layers: names, in the model's order. dtype: of the model's weights."""

    curvature: CurvatureReport | None = None
    seeds: SeedReport | None = None
    layers: tuple[str, ...] | None = None
    dtype: str | None = None
    warnings: tuple[str, ...] = ()


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
    """What the pool turned out to hold: rows, and of them those that are not usable, have a loss or gradient that is
    not finite, were cut to the window, repeat another row, or equal a seed; tokens of all rows."""

    rows: int
    tokens: int
    not_usable: int
    not_finite: int
    cut: int
    repeat_another: int
    equal_to_a_seed: int


@dataclass(frozen=True)
class CheckpointRecord:
    """A swept training checkpoint. path: where it was. step: the optimizer's. layers: how many of them it trained."""

    path: str
    learning_rate: float
    step: int
    layers: int
    token_batch_size: int
    state: State = "running"


@dataclass(frozen=True)
class SweepRecord(StageRecord):
    """The sweep. rows: N. scale: of the sketches. checkpoints: by key; checkpoint_order: keys as last asked for."""

    rows: int | None = None
    scale: float | None = None
    token_batch_size: int | None = None
    counts: RowCounts | None = None
    seed_health: SeedHealth | None = None
    warnings: tuple[str, ...] = ()
    checkpoints: dict[str, CheckpointRecord] = field(default_factory=dict)
    checkpoint_order: tuple[str, ...] = ()

    @property
    def shards(self) -> int:
        """Shards of the whole sweep."""
        return -(-(self.rows or 0) // self.config["rows_per_shard"]) if self.rows else 0


@dataclass(frozen=True)
class ClusterRecord(StageRecord):
    """k-means and labels. largest: rows of the largest cluster. at_most_one_row: clusters with at most one row."""

    n_clusters: int | None = None
    n_iter: int | None = None
    inertia: float | None = None
    largest: int | None = None
    at_most_one_row: int | None = None


@dataclass(frozen=True)
class SelectRecord(StageRecord):
    """The last selection: rows and tokens chosen, the file, and what was said."""

    rows: int | None = None
    tokens: int | None = None
    output: str | None = None
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
    packages that began the run.
    """

    format: int = FORMAT
    config: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    stages: Stages = field(default_factory=Stages)

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


def write_record(file: Path, record: RunRecord) -> None:
    """Write a run.json, complete or not at all. A number that is not finite is written as null."""
    with replacing(file) as temporary:
        text = json.dumps(_encode(record), indent=1, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def read_record(file: Path) -> RunRecord:
    """Read a run.json.

    Raises:
        RunError: naming the file and the key: no JSON, another format, an unknown or a missing key, a value of another
            type, or a name that cannot be that of a file.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunError(f"{file}: not a run.json: {error}") from None
    format_read = value.get("format") if isinstance(value, dict) else value
    if format_read != FORMAT:
        raise RunError(f"{file}: expected format {FORMAT}, got {format_read!r}; another version of gdig made this run")
    record: RunRecord = _decode(RunRecord, value, str(file))
    fit, sweep = record.stages.fit, record.stages.sweep
    layers = (fit.layers or ()) if fit else ()
    for name in (*layers, *(sweep.checkpoints if sweep else ())):
        if not re.fullmatch(r"[^/\\\0]+", name) or name in (".", ".."):
            raise RunError(f"{file}: expected the name of a layer or a checkpoint, got {name!r}")
    if sweep and (unknown := [key for key in sweep.checkpoint_order if key not in sweep.checkpoints]):
        raise RunError(f"{file}: stages.sweep.checkpoint_order: no checkpoint {unknown[0]!r} in the record")
    return record


def _encode(value: Any) -> Any:
    if isinstance(value, Stages):
        return {f.name: _encode(stage) for f in fields(value) if (stage := getattr(value, f.name)) is not None}
    if is_dataclass(value):
        return {f.name: _encode(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {key: _encode(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encode(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _decode(hint: Any, value: Any, where: str) -> Any:
    """Return the JSON `value` as a value of type `hint`, or raise RunError that names the key."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if is_dataclass(hint):
        return _decode_dataclass(hint, value, where)
    if origin in (Union, types.UnionType):
        if value is None and types.NoneType in args:
            return None
        (hint,) = (arg for arg in args if arg is not types.NoneType)
        return _decode(hint, value, where)
    if origin is dict and isinstance(value, dict):
        return {key: _decode(args[1], item, f"{where}: {key}") for key, item in value.items()}
    if origin is tuple and isinstance(value, list):
        return tuple(_decode(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is Literal and value in args:
        return value
    if hint is float and value is None:
        return math.nan
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(hint, type) and isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    expected = "an object" if origin is dict else "a list" if origin is tuple else describe(hint)
    raise RunError(f"{where}: expected {expected}, got {value!r}")


def _decode_dataclass(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise RunError(f"{where}: expected an object, got {value!r}")
    names = [f.name for f in fields(kind)]
    if unknown := [key for key in value if key not in names]:
        raise RunError(f"{where}: unknown key {unknown[0]!r}; another version of gdig made this run")
    if kind is Stages:
        names = [name for name in names if name in value]
    if missing := [name for name in names if name not in value]:
        raise RunError(f"{where}: key {missing[0]!r} is missing; another version of gdig made this run")
    return kind(**{name: _decode(_hints(kind)[name], value[name], f"{where}: {name}") for name in names})
