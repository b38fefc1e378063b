"""The configuration of a run: every option of :mod:`gdig.config.options` in one object, checked on construction."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_type_hints

from gdig.config.budget import parse_budget
from gdig.config.convert import WRONG, convert, describe
from gdig.config.options import (
    PRESETS,
    CheckpointOptions,
    ClusterOptions,
    CurvatureOptions,
    DataOptions,
    ModelOptions,
    RandomOptions,
    RunOptions,
    SeedOptions,
    SelectOptions,
    SweepOptions,
    TrainOptions,
)
from gdig.errors import ConfigError


@dataclass(frozen=True)
class Config(
    RunOptions,
    RandomOptions,
    SelectOptions,
    ClusterOptions,
    CheckpointOptions,
    SweepOptions,
    SeedOptions,
    CurvatureOptions,
    ModelOptions,
    DataOptions,
):
    """All options of a run, checked on construction.

    Raises:
        ConfigError: naming the field, the value and what was expected.
    """

    preset: Literal["default", "paper"] = "default"
    """Set of defaults: gdig's own, or the choices of the published G-DIG code. Options given beside it win."""

    def __post_init__(self) -> None:
        _convert(self)
        _check(self)

    @classmethod
    def build(cls, options: Mapping[str, Any]) -> Config:
        """Make a Config from option names, on top of the preset that `options["preset"]` names.

        Raises:
            ConfigError: on an unknown name (with the nearest known one), an unknown preset, or a bad value.
        """
        import difflib

        known = {f.name for f in fields(cls)}
        for name in options:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                raise ConfigError(f"unknown option {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        preset = options.get("preset", "default")
        if preset not in PRESETS:
            raise ConfigError(f"preset: expected one of {', '.join(PRESETS)}, got {preset!r}")
        return cls(**{**PRESETS[preset], **options})

    def with_options(self, **options: Any) -> Config:
        """Return a copy with some options replaced, checked again."""
        return replace(self, **options)

    def group(self, group: type) -> dict[str, Any]:
        """Return one group's options as JSON-ready values."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(group)}

    def to_dict(self) -> dict[str, Any]:
        """Return every option as JSON-ready values."""
        return {f.name: _plain(getattr(self, f.name)) for f in fields(self)}

    def require(self, *names: str) -> None:
        """Raise ConfigError if one of the named options is missing."""
        for name in names:
            if not getattr(self, name):
                flag = "--" + name.replace("_", "-")
                raise ConfigError(f"{name}: required, but not given (flag {flag}, or {name}: in the YAML file)")


@dataclass(frozen=True)
class Training(TrainOptions):
    """The options of gdig score-net besides those of a run, checked on construction.

    Raises:
        ConfigError: naming the field, the value and what was expected.
    """

    def __post_init__(self) -> None:
        _convert(self)
        for name, least in (("epochs", 1), ("batch_size", 2), ("accumulate", 1), ("save_steps", 1)):
            if getattr(self, name) < least:
                reason = ", which are weighed against each other" if name == "batch_size" else ""
                raise ConfigError(
                    f"{name}: expected a whole number of at least {least}{reason}, got {getattr(self, name)!r}"
                )
        for name in ("learning_rate", "score_learning_rate"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name}: expected a finite number >= 0, got {getattr(self, name)!r}")
        if self.score_learning_rate == 0:
            raise ConfigError("score_learning_rate: expected a number above 0, or the score net learns nothing")


def _convert(options: Any) -> None:
    """Bring every value to its declared type.

    Raises:
        ConfigError: naming the field that is of another.
    """
    kind: type = type(options)
    for name, hint in _hints(kind).items():
        value = getattr(options, name)
        converted = convert(value, hint)
        if converted is WRONG:
            raise ConfigError(f"{name}: expected {describe(hint)}, got {value!r}")
        object.__setattr__(options, name, converted)


@cache
def _hints(options: type) -> dict[str, Any]:
    """Name and type of every option."""
    return get_type_hints(options)


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


_POSITIVE = (
    "fit_rows", "cg_rows", "cg_iterations", "seed_rank", "probe_rows", "projection_dim", "projection_side",
    "feature_side", "rows_per_shard", "kmeans_max_iter", "token_batch_size", "max_length", "n_clusters",
    "n_neighbours", "n_probe", "threads",
)  # fmt: skip


def _check(c: Config) -> None:
    """Check every value at the door, so that no stage has to."""
    for name in _POSITIVE:
        value = getattr(c, name)
        if isinstance(value, int) and value < 1:
            raise ConfigError(f"{name}: expected a whole number of at least 1, got {value!r}")
    if c.workers is not None and c.workers < 0:
        raise ConfigError(f"workers: expected a whole number of at least 0, got {c.workers!r}")
    for name in ("random_seed", "projection_seed"):
        if not 0 <= getattr(c, name) < 2**63:
            raise ConfigError(f"{name}: expected a whole number from 0 to 2^63 - 1, got {getattr(c, name)!r}")
    for name in ("damping_factor", "kmeans_tol", "cg_tolerance"):
        if not 0 <= getattr(c, name) < float("inf"):
            raise ConfigError(f"{name}: expected a finite number >= 0, got {getattr(c, name)!r}")
    for name in ("seed_energy", "tau"):
        if not 0 < getattr(c, name) <= 1:
            raise ConfigError(f"{name}: expected a share above 0 and up to 1, got {getattr(c, name)!r}")
    if isinstance(c.train_rows, int) and c.train_rows < (c.n_clusters or 1):
        least = f"{c.n_clusters or 1}" + (", one a cluster" if c.n_clusters else "")
        raise ConfigError(f"train_rows: expected all or a whole number of at least {least}, got {c.train_rows!r}")
    if any(not 0 <= weight < float("inf") for weight in c.checkpoint_weights):
        raise ConfigError(f"checkpoint_weights: expected finite numbers >= 0, got {list(c.checkpoint_weights)!r}")
    if c.damping_mode == "factored_tikhonov" and c.inversion != "kfac":
        raise ConfigError(f"damping_mode: factored_tikhonov needs inversion=kfac, got inversion={c.inversion}")
    if c.kfac_approx == "reduce" and c.inversion in ("ekfac", "cg"):
        raise ConfigError("kfac_approx: reduce needs inversion=kfac (EK-FAC's eigenvalues are per example already)")
    if c.sketch_space == "fisher" and c.inversion == "identity":
        raise ConfigError("sketch_space: fisher needs inversion=ekfac, kfac or cg, whose curvature it is, got identity")
    if c.torch_compile:
        for name, off in (("gradient_checkpointing", False), ("device_map", "none"), ("quantization", "none")):
            if getattr(c, name) != off:
                raise ConfigError(f"torch_compile: works with {name}={str(off).lower()} only, got {getattr(c, name)!r}")
    if (c.prompt_template is None) != (c.target_template is None):
        raise ConfigError("prompt_template and target_template: give both or neither")
    if c.row_format == "template" and c.prompt_template is None:
        raise ConfigError("row_format: template needs prompt_template and target_template")
    if c.agreement == "tasks" and c.task_field is None:
        raise ConfigError("agreement: tasks needs task_field, the field of a seed's row that names its task")
    if c.output is not None and Path(c.output).suffix not in (".jsonl", ".parquet"):
        raise ConfigError(f"output: expected a name ending in .jsonl or .parquet, got {c.output!r}")
    if c.filter_modules is not None:
        try:
            re.compile(c.filter_modules)
        except re.error as error:
            raise ConfigError(f"filter_modules: not a regular expression: {c.filter_modules!r} ({error})") from None
    parse_budget(c.budget)
    if c.sweep_part is not None:
        match = re.fullmatch(r"([1-9][0-9]*)/([1-9][0-9]*)", c.sweep_part)
        if match is None or int(match[1]) > int(match[2]):
            raise ConfigError(f"sweep_part: expected K/N with K from 1 to N, such as 2/4, got {c.sweep_part!r}")
