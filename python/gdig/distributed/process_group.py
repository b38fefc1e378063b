"""The process group through which torch.distributed carries tensors between the ranks."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

_TIMEOUT = timedelta(minutes=30)
"""For one tensor between ranks that are both ready for it."""


def is_direct(devices: list[list[str]]) -> bool:
    """Whether GPUs can exchange tensors directly: NCCL is there, and each rank has a GPU of its own.

    Args:
        devices: host and device of each rank.
    """
    on_gpus = all(device.startswith("cuda") for _, device in devices)
    return on_gpus and len({tuple(pair) for pair in devices}) == len(devices) and dist.is_nccl_available()


def join_group(store: Any, rank: int, world: int, direct: bool) -> None:
    """Make the process group: gloo through the CPU and, if `direct`, NCCL from GPU to GPU."""
    backend = "cpu:gloo,cuda:nccl" if direct else "gloo"
    store = dist.PrefixStore("tensors", store)
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=_TIMEOUT)


def numbered(device: torch.device) -> torch.device:
    """The device with its number: "cuda" is the current GPU."""
    return torch.device("cuda", torch.cuda.current_device()) if device == torch.device("cuda") else device
