"""The options of gdig in groups. Each is defined once, with its help: the flag, the YAML key and the Python argument
have one name.

A group belongs to the first stage whose result it changes (:data:`STAGE_GROUPS`). From that the run directory derives
what a changed option invalidates. :class:`gdig.config.config.Config` is the union of the groups.
"""

from __future__ import annotations

from typing import Any

from gdig.config.options.basic import Basic, BasicMark
from gdig.config.options.curvature import CurvatureOptions, SeedOptions
from gdig.config.options.inputs import DataOptions, ModelOptions, RowFormat, TrustOptions
from gdig.config.options.run import DeviceOptions, PlaceOptions, PresetOptions, RandomOptions, RunOptions
from gdig.config.options.selection import (
    OUTPUT_ENDINGS,
    ChoiceOptions,
    ClusterOptions,
    FeatureOptions,
    Method,
    OutputFormat,
    Quotas,
    RelativeTo,
    Score,
    SelectOptions,
)
from gdig.config.options.sweep import CheckpointOptions, SweepOptions
from gdig.config.options.training import TrainOptions
from gdig.config.options.trial_training import TrialOptions

__all__ = [
    "GROUPS", "OUTPUT_ENDINGS", "PRESETS", "STAGES", "STAGE_GROUPS", "Basic", "BasicMark", "CheckpointOptions",
    "ChoiceOptions", "ClusterOptions", "CurvatureOptions", "DataOptions", "DeviceOptions", "FeatureOptions", "Method",
    "ModelOptions", "OutputFormat", "PlaceOptions", "PresetOptions", "Quotas", "RandomOptions", "RelativeTo",
    "RowFormat", "RunOptions", "Score", "SeedOptions", "SelectOptions", "SweepOptions", "TrainOptions", "TrialOptions",
    "TrustOptions",
]  # fmt: skip

GROUPS: tuple[type, ...] = (
    DataOptions,
    ModelOptions,
    CurvatureOptions,
    SeedOptions,
    SweepOptions,
    CheckpointOptions,
    ClusterOptions,
    SelectOptions,
    RandomOptions,
    RunOptions,
)
"""The groups of a run's options; the preset stands beside them."""

STAGES = ("fit", "sweep", "cluster", "select")
"""Stages in order; each depends on the ones before it."""

STAGE_GROUPS: dict[str, tuple[type, ...]] = {
    "fit": (DataOptions, ModelOptions, CurvatureOptions, SeedOptions, RandomOptions),
    "sweep": (SweepOptions, CheckpointOptions),
    "cluster": (ClusterOptions,),
    "select": (SelectOptions,),
}
"""Options that a stage's result depends on, beside those of the stages before it. RunOptions belong to no stage."""

PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    # The choices of the published G-DIG code. Its layers depend on the architecture, so gdig.model.layers resolves
    # filter_modules when the model is known.
    "paper": {
        "inversion": "kfac",
        "damping_factor": 0.5,
        "damping_mode": "factored_tikhonov",
        "use_empirical_fisher": True,
        "kfac_approx": "reduce",
        "loss_reduction": "mean",
        "seed_energy": 1.0,
        "seed_rank": 32,
        "max_length": 256,
        "sketch_space": "raw",
        "method": "agreement",
        "tau": 1.0,
        "relative_to": "zero",
        "unit_normalize": False,
    },
}
