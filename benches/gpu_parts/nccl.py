"""The exchange between ranks through NCCL, with a single rank, as there is a single GPU."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist


def exchange(device: torch.device) -> dict[str, Any]:
    """Sum and broadcast through NCCL (gloo in a rehearsal) with one rank: what `gdig.distributed` calls.

    Returns:
        The backend, and whether the sums were those that went in.
    """
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
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
