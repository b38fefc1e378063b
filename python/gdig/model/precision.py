"""The numbers that a model computes with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


def resolve_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the torch dtype of the option `precision` on `device`."""
    if precision == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]


@contextmanager
def float32_products(precision: str) -> Iterator[None]:
    """Set torch's float32 matmul precision ("highest", "high", "medium") in the block, and restore it after."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
