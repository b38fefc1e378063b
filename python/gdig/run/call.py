"""What every function of :mod:`gdig.api` does first: read its options, and open the run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from gdig.config.config import Config
from gdig.data.in_memory import with_files
from gdig.distributed.ranks import Ranks
from gdig.errors import ModelError
from gdig.progress import Progress
from gdig.run.session import Workspace
from gdig.run.stored_options import with_stored_options


def config_of(config: Config | None, options: Mapping[str, Any]) -> Config:
    """Return the configuration: `config` with the options, or the options over those of the run in `run_path`."""
    options = with_files(options)
    if config is None:
        return Config.build(with_stored_options(options))
    return config.with_options(**options) if options else config


@contextmanager
def workspace(
    config: Config | None, progress: Progress | None, options: Mapping[str, Any], ranks: Ranks | None
) -> Iterator[Workspace]:
    """Open the run of a call that needs model, pool, seeds and run directory."""
    config = config_of(config, options)
    config.require("model", "candidates", "seeds", "run_path")
    with explained(config), Workspace(config, progress or Progress(config.quiet), ranks) as work:
        yield work


@contextmanager
def explained(config: Config) -> Iterator[None]:
    """Say what helps when memory runs out."""
    try:
        yield
    except torch.OutOfMemoryError as error:  # of a pass over one example, or of something no smaller batch helps
        raise ModelError(
            f"out of memory on {config.device}: {str(error).partition(chr(10))[0]}; lower max_length, choose fewer "
            "layers with filter_modules, or take another device"
        ) from error
