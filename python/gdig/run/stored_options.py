"""Options of an earlier start, which hold for a later one that does not give them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from gdig.config.config import Config
from gdig.config.options import PRESETS, SelectOptions
from gdig.config.read import typed_option
from gdig.errors import ConfigError
from gdig.run.layout import RunLayout
from gdig.run.record_file import read_record

# What belongs to one start of a run, or to one choice from it, and is not inherited by the next. Consent to run a
# model's own code is given by who starts, never by who made the run.
_NOT_INHERITED = (
    "overwrite", "quiet", "run_path", "sweep_part", "trust_remote_code",
    *(field.name for field in fields(SelectOptions)),
)  # fmt: skip
# Folders whose code trust_remote_code runs.
_WITH_CODE = ("model", "base_model", "tokenizer", "checkpoints")


def read_stored_options(
    run_path: str | os.PathLike[str], *, trust_remote_code: bool = False, has_model: bool = False
) -> dict[str, Any]:
    """Read the options of the run in a directory; none if the directory holds no run.

    Args:
        run_path: the directory, which somebody else may have made.
        trust_remote_code: the option as this start gives it. With it, the folders whose code it runs are not those of
            the run: who starts names them too.
        has_model: whether this start names a model.

    Raises:
        RunError: if the record of the run is damaged or of another format.
        ConfigError: if the record names an option that does not exist. Also where this start, or the one that made the
            run, trusts the code of a model: this start has to trust it and to name the model.
    """
    file = RunLayout(Path(run_path)).record
    if not file.is_file():
        return {}
    config = read_record(file).config
    needs_consent = trust_remote_code or bool(config.get("trust_remote_code"))
    if needs_consent and not (trust_remote_code and has_model):
        raise ConfigError(
            f"trust_remote_code: runs the code in a model's folder, so neither consent nor the folder is taken from "
            f"{file}, which names {config.get('model')!r}; if you trust that code, give --trust-remote-code and "
            "--model again, and --tokenizer and --checkpoints where the run has them"
        )
    left_out = {*_NOT_INHERITED, *(_WITH_CODE if needs_consent else ())}
    return {key: typed_option(str(file), key, value) for key, value in config.items() if key not in left_out}


def with_preset(stored: Mapping[str, Any], preset: str) -> dict[str, Any]:
    """Return the options of a run for a start with this preset.

    Another preset than the run's replaces the options that the run has from its own. Options of the selection
    are not stored; they are those of the preset.
    """
    before = stored.get("preset", "default")
    if preset != before:
        own = {key: value for key, value in stored.items() if key not in PRESETS[before]}
        return {**own, **PRESETS[preset], "preset": preset}
    return {**PRESETS[preset], **stored}


def with_stored_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options with those of the run in `run_path` where they are not given. With a `model`, none are added.

    Raises:
        RunError, ConfigError: of :func:`read_stored_options`.
    """
    run_path, trusts = options.get("run_path"), bool(options.get("trust_remote_code"))
    if (options.get("model") and not trusts) or not isinstance(run_path, (str, os.PathLike)):
        return dict(options)
    stored = read_stored_options(run_path, trust_remote_code=trusts, has_model=bool(options.get("model")))
    preset = options.get("preset", stored.get("preset", "default"))
    if not stored or preset not in PRESETS:  # Config names what is wrong with a preset
        return dict(options)
    return {**with_preset(stored, preset), **options}


def config_of_start(config: Config | None, options: Mapping[str, Any]) -> Config:
    """Return the configuration of a start: `config` with the options given by name, or these with those of the run.

    Rows in memory become files.
    """
    from gdig.data.in_memory import with_files  # not for the help of the command line

    options = with_files(options)
    if config is None:
        return Config.build(with_stored_options(options))
    return config.with_options(**options) if options else config
