"""The implementation of a kernel that runs: asked for by name, or chosen once a process and logged."""

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
        impl: "triton", "reference", or "auto", which is Triton on CUDA if it is installed. The choice of "auto" is
            logged once for each kind of device, as a warning when CUDA runs without Triton.
        device: where the tensors are.
        dtypes: of the inputs. Triton has no float64; "auto" then chooses the reference.

    Raises:
        ValueError: when `impl` is unknown.
        ConfigError: when Triton is asked for, and is missing or cannot run on these tensors; no other implementation
            runs in its place. On the CPU, Triton runs in its interpreter alone (TRITON_INTERPRET=1 before the import).
    """
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"{name}: impl: expected one of {', '.join(IMPLEMENTATIONS)}, got {impl!r}")
    double = torch.float64 in dtypes
    if impl == "auto":
        return "reference" if double else _choose(device.type)
    if impl == "triton":
        if not _has_triton():
            raise ConfigError(f"{name}: impl='triton' needs the package triton (pip install triton)")
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
        _log.warning("kernels: triton is not installed; the torch versions run instead, which are several times slower")
        return "reference"
    _log.info("kernels: %s on %s", chosen, device_type)
    return chosen


@cache
def _has_triton() -> bool:
    return find_spec("triton") is not None


def _interpreted() -> bool:
    import triton

    return bool(triton.knobs.runtime.interpret) if hasattr(triton, "knobs") else False
