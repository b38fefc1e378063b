"""Tile sizes of the Triton kernels: one pinned choice per operation, kind of input and GPU generation.

Nothing is tuned while gdig runs: the order in which a sum is taken follows from the tile sizes, so a choice made by the
clock would change results from one start to the next. `benches/tune.py` measures the candidates and writes pinned.py.

An implementation in Triton has, beside its launch functions (each takes `config=None`, the pinned one):

    kind(...)       which kind of input this is, a key of the table ("half", "float", ...)
    candidates(operation, kind)  the configurations that the tuner tries
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import torch

from gdig.kernels.pinned import PINNED

# Names are the kernel's own constants, and num_warps and num_stages; handed to the launch as they are.
Config = Mapping[str, int]
GENERATIONS = (8, 9, 10)


def generation(device: torch.device) -> int:
    """The major compute capability whose choices suit the device: 8, 9 or 10.

    Consumer Blackwell (12) has neither tcgen05 nor wgmma and as little shared memory as consumer Ampere, so it takes
    what 8 does; so does the interpreter, to which it does not matter.
    """
    if device.type != "cuda":
        return 8
    major = torch.cuda.get_device_capability(device)[0]
    return major if major in GENERATIONS else 8


def pinned(operation: str, kind: str, device: torch.device) -> Config:
    """The configuration to launch with."""
    return PINNED[operation, kind, generation(device)]


def current(device: torch.device) -> AbstractContextManager[object]:
    """Make the device current: Triton launches on the current one, wherever the tensors are."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
