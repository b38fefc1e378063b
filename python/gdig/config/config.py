"""The configuration of a run: every option of :mod:`gdig.config.options` in one object, checked on construction."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from gdig.config.check import check_config, check_training, check_trial, check_types
from gdig.config.options import (
    PRESETS,
    CheckpointOptions,
    ClusterOptions,
    CurvatureOptions,
    DataOptions,
    ModelOptions,
    PresetOptions,
    RandomOptions,
    RunOptions,
    SeedOptions,
    SelectOptions,
    SweepOptions,
    TrainOptions,
    TrialOptions,
)
from gdig.errors import ConfigError, MissingOptionError, UnknownNameError


@dataclass(frozen=True)
class Config(
    PresetOptions,
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
        ConfigError: naming the option, its value and what was expected.

    Example:
        >>> config = Config(budget="5%", method="top")
        >>> config.budget, config.random_seed
        ('5%', 0)
    """

    def __post_init__(self) -> None:
        check_types(self)
        check_config(self)

    @classmethod
    def build(cls, options: Mapping[str, Any]) -> Config:
        """Make a Config from option names, on top of the preset that `options["preset"]` names.

        Raises:
            ConfigError: on an unknown name (with the nearest option), an unknown preset, or a bad value.
        """
        names = {option.name for option in fields(cls)}
        for name in options:
            if name not in names:
                raise UnknownNameError(f"unknown option {name!r}{did_you_mean(name, names)}")
        preset = options.get("preset", "default")
        if preset not in PRESETS:
            raise ConfigError(f"preset={preset!r}: expected one of {', '.join(PRESETS)}")
        return cls(**{**PRESETS[preset], **options})

    @property
    def in_fisher_space(self) -> bool:
        """Whether the sketches of a run are of H^-1/2 G (option sketch_space)."""
        has_curvature = self.gradients and self.inversion != "identity"
        return self.sketch_space == "fisher" or (self.sketch_space == "auto" and has_curvature)

    def with_options(self, **options: Any) -> Config:
        """Return a copy with some options replaced, checked again."""
        return replace(self, **options)

    def group(self, group: type) -> dict[str, Any]:
        """Return the options of one group as JSON-ready values."""
        return {option.name: _plain(getattr(self, option.name)) for option in fields(group)}

    def to_dict(self) -> dict[str, Any]:
        """Return every option as a JSON-ready value."""
        return self.group(type(self))

    def require(self, *names: str) -> None:
        """Raise ConfigError for the first of the named options that is missing."""
        for name in names:
            if not getattr(self, name):
                flag = "--" + name.replace("_", "-")
                raise MissingOptionError(
                    f"{name}: required, but missing; give the flag {flag}, or {name}: in the YAML file"
                )


@dataclass(frozen=True)
class Training(TrainOptions):
    """The options of gdig score-net beside those of a run, checked on construction.

    Raises:
        ConfigError: naming the option, its value and what was expected.
    """

    def __post_init__(self) -> None:
        check_types(self)
        check_training(self)


@dataclass(frozen=True)
class Trial(TrialOptions):
    """The options of the short trainings of gdig compare, checked on construction.

    Raises:
        ConfigError: naming the option, its value and what was expected.
    """

    def __post_init__(self) -> None:
        check_types(self)
        check_trial(self)


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """Return "; did you mean 'x'?" for the nearest of `names`, or nothing when none is near."""
    nearest = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {nearest[0]!r}?" if nearest else ""


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
