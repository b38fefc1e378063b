"""A pass on the device "meta", where tensors have shapes and no numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch


@contextmanager
def no_autocast_on_meta() -> Iterator[None]:
    """In the block, `torch.autocast` of the device "meta" does nothing.

    No autocast can be on there, and torch has no dtype for it. `torch.autocast("meta", enabled=False)` is an error in
    torch 2.6 and 2.15. transformers 5 leaves the call out. The models of transformers 4 make it around their rotary
    factors.
    """
    before = torch.autocast

    def autocast(device_type: str, *args: Any, **options: Any) -> AbstractContextManager:
        return nullcontext() if device_type == "meta" else before(device_type, *args, **options)

    torch.autocast = autocast  # type: ignore[assignment,misc]
    try:
        yield
    finally:
        torch.autocast = before  # type: ignore[misc]
