"""What to do when the memory of a device does not hold a pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from gdig.errors import ModelError


@contextmanager
def out_of_memory_explained(device: str) -> Iterator[None]:
    """Raise ModelError, which says what helps, where torch runs out of memory in the block."""
    try:
        yield
    except torch.OutOfMemoryError as error:  # of a pass over one example, or of something no smaller batch helps
        raise ModelError(
            f"out of memory on {device}: {str(error).partition(chr(10))[0]}; lower max_length, choose fewer layers "
            "with filter_modules, or take another device"
        ) from error
