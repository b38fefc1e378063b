"""The exchange between ranks through NCCL, with as many ranks as there are GPUs."""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist


def exchange(device: torch.device) -> dict[str, Any]:
    """Sum and broadcast through NCCL (gloo in a rehearsal) with one rank: what `gdig.distributed` calls.

    Returns:
        The backend, and whether the sums were those that went in.
    """
    backend = "nccl" if device.type == "cuda" else "gloo"
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29511", "RANK": "0", "WORLD_SIZE": "1"}
    dist.init_process_group(backend, rank=0, world_size=1)
    try:
        x = torch.arange(1 << 20, dtype=torch.float32, device=device)
        y = x.clone()
        dist.reduce(y, 0)
        dist.broadcast(y, 0)
        dist.barrier()
        facts = {"backend": backend, "ranks": dist.get_world_size(), "exact": bool(torch.equal(x, y))}
    finally:
        dist.destroy_process_group()
    print(facts, flush=True)
    return facts
