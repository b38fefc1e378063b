"""Options of an earlier start, which hold for a later one that does not give them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from gdig.config.options import PRESETS, SelectOptions
from gdig.config.read import typed_option
from gdig.run.layout import RunLayout
from gdig.run.record import read_record

# What belongs to one start of a run, or to one choice from it, and is not inherited by the next.
_NOT_INHERITED = ("overwrite", "quiet", "run_path", "sweep_part", *(field.name for field in fields(SelectOptions)))


def read_stored_options(run_path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the options of the run in a directory; none if the directory holds no run.

    Raises:
        RunError: if the record of the run is damaged or of another format.
        ConfigError: if the record names an option that does not exist.
    """
    file = RunLayout(Path(run_path)).record
    if not file.is_file():
        return {}
    config = read_record(file).config
    return {key: typed_option(str(file), key, value) for key, value in config.items() if key not in _NOT_INHERITED}


def with_preset(stored: Mapping[str, Any], preset: str) -> dict[str, Any]:
    """Return the options of a run for a start with this preset.

    Another preset than the run's replaces the options that the run has from its own. Options of the selection
    are not stored; they are those of the preset.
    """
    before = stored.get("preset", "default")
    if preset != before:
        kept = {key: value for key, value in stored.items() if key not in PRESETS[before]}
        return {**kept, **PRESETS[preset], "preset": preset}
    return {**PRESETS[preset], **stored}


def with_stored_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with those of the run in `run_path` where they are not given. With a `model`, none are added.

    Raises:
        RunError, ConfigError: of :func:`read_stored_options`.
    """
    run_path = options.get("run_path")
    if options.get("model") or not isinstance(run_path, (str, os.PathLike)):
        return dict(options)
    stored = read_stored_options(run_path)
    preset = options.get("preset", stored.get("preset", "default"))
    if not stored or preset not in PRESETS:  # Config names what is wrong with a preset
        return dict(options)
    return {**with_preset(stored, preset), **options}
