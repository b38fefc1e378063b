"""Options of an earlier start, which hold for a later one that does not give them."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

from gdig.config.options import SelectOptions
from gdig.config.read import typed_option
from gdig.run.layout import RunLayout
from gdig.run.record import read_record

# What belongs to one start of a run, or to one choice from it, and is not inherited by the next.
_NOT_INHERITED = ("overwrite", "quiet", "run_path", "sweep_part", *(field.name for field in fields(SelectOptions)))


def read_stored_options(run_path: str | Path) -> dict[str, Any]:
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
