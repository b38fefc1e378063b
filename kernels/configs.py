"""Tile sizes of the Triton kernels: one pinned configuration for each operation, kind of input and GPU generation.

No kernel is tuned while gdig runs. The tile sizes decide the order of a sum, so tile sizes chosen by the clock would
change results from one start to the next. `benches/tune.py` measures the candidates and writes pinned.py.

An implementation in Triton has launch functions, which take `config=None` for the pinned configuration, and:

    kind(...)                    the kind of input, a key of the table ("half", "float", ...)
    candidates(operation, kind)  the configurations that the tuner tries
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext

import torch

from gdig.kernels.pinned import PINNED

# Arguments of a launch by name: the kernel's own constants, num_warps and num_stages.
Config = Mapping[str, int]
GENERATIONS = (8, 9, 10)


def generation(device: torch.device) -> int:
    """The major compute capability whose configurations suit the device: 8, 9 or 10.

    Consumer Blackwell (12) has neither tcgen05 nor wgmma, and as little shared memory as consumer Ampere, so it takes
    those of 8. The interpreter takes those of 8 too.
    """
    if device.type != "cuda":
        return 8
    major = torch.cuda.get_device_capability(device)[0]
    return major if major in GENERATIONS else 8


def pinned(operation: str, kind: str, device: torch.device) -> Config:
    """The configuration to launch with."""
    return PINNED[operation, kind, generation(device)]


def current(device: torch.device) -> AbstractContextManager[object]:
    """Make the device current in a block: Triton launches on the current device, wherever the tensors are."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
