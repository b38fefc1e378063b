"""Which implementation of a kernel runs: asked for by name, or chosen once a process and said."""

from __future__ import annotations

import logging
from functools import cache
from importlib.util import find_spec

import torch

from gdig.errors import ConfigError

IMPLEMENTATIONS = ("auto", "triton", "reference")
_log = logging.getLogger("gdig")


def resolve(name: str, impl: str, device: torch.device, *dtypes: torch.dtype) -> str:
    """Return "triton" or "reference".

    Args:
        name: the operation, for messages.
        impl: "triton", "reference", or "auto": Triton on CUDA where it is installed. What auto chose is logged once
            for each device, as a warning when CUDA runs without Triton.
        device: where the tensors are.
        dtypes: of the inputs, where Triton does not take all: it has no float64, for which auto takes the reference.

    Raises:
        ValueError: on an unknown `impl`.
        ConfigError: when Triton is asked for and missing, or the tensors are not where or what it runs on. There is
            no silent switch. On the CPU it runs only in its interpreter (TRITON_INTERPRET=1 before triton is imported).
    """
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"{name}: impl: expected one of {', '.join(IMPLEMENTATIONS)}, got {impl!r}")
    double = torch.float64 in dtypes
    if impl == "auto":
        return "reference" if double else _choose(device.type)
    if impl == "triton":
        if not _has_triton():
            raise ConfigError(f"{name}: impl='triton' asked for, but the package triton is not installed")
        if device.type != "cuda" and not _interpreted():
            raise ConfigError(f"{name}: impl='triton' needs tensors on CUDA, got them on {device}")
        if double:
            raise ConfigError(f"{name}: impl='triton' sums in float32; for float64 inputs ask for impl='reference'")
    return impl


@cache
def _choose(device_type: str) -> str:
    if device_type != "cuda":
        chosen = "reference"
    elif _has_triton():
        chosen = "triton"
    else:
        _log.warning("kernels: triton is not installed; the plain torch versions run instead, several times slower")
        return "reference"
    _log.info("kernels: %s on %s", chosen, device_type)
    return chosen


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def _interpreted() -> bool:
    import triton

    return bool(triton.knobs.runtime.interpret) if hasattr(triton, "knobs") else False
