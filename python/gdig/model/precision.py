"""The numbers that a model computes with."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import torch


def resolve_dtype(precision: str, device: torch.device) -> torch.dtype:
    """Return the torch dtype of the option `precision` on `device`."""
    if precision == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[precision]


@contextmanager
def float32_products(precision: str) -> Iterator[None]:
    """Set torch's float32 matmul precision in the block, and restore it after. auto is highest there."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest" if precision == "auto" else precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@cache
def multiplies_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 several times as fast as float32: with AMX, or on AMD's with AVX-512 BF16.

    The dot product of AVX-512 BF16 runs at half the speed of float32 on Intel's chips, and at twice on AMD's.
    """
    # Torch for Apple's chips has no oneDNN, and then not the question either.
    if not torch.backends.mkldnn.is_available() or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    if _has("amx_tile"):
        return True
    return _has("avx512_bf16") and "AuthenticAMD" in _vendor()


def takes_bfloat16(matmul_precision: str, device: torch.device) -> bool:
    """Whether large products may be in bfloat16: by the option `matmul_precision`, where this CPU multiplies it."""
    return matmul_precision == "auto" and device.type == "cpu" and multiplies_bfloat16()


def products_made_from(matmul_precision: str, device: torch.device) -> str:
    """What a resume file says of its products, so that no file mixes those of two kinds of chips."""
    return "auto, bfloat16" if takes_bfloat16(matmul_precision, device) else matmul_precision


def _has(instructions: str) -> bool:
    """Whether torch finds the instructions. Torch before 2.6 cannot tell."""
    supported = getattr(torch.cpu, f"_is_{instructions}_supported", None)
    return bool(supported and supported())


def _vendor() -> str:
    """A text with the name of the CPU's maker."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")[:4096]
    except OSError:
        return platform.processor()
