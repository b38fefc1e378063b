"""Errors of torch during a pass, as errors that say what helps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gdig.errors import MemoryShortError
from gdig.passes.encode_ahead import of_dead_worker


@contextmanager
def torch_errors_explained(device: str) -> Iterator[None]:
    """Raise ModelError where torch runs out of memory in the block, RunError where a process that tokenizes dies."""
    try:
        yield
    except torch.OutOfMemoryError as error:  # of a pass over one example, or of something no smaller batch helps
        raise MemoryShortError(
            f"out of memory on {device}: {str(error).partition(chr(10))[0]}; lower max_length, choose fewer layers "
            "with filter_modules, or take another device"
        ) from error
    except RuntimeError as error:
        if (died := of_dead_worker(error)) is None:
            raise
        raise died from error
