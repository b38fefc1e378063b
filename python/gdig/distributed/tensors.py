"""Tensors between ranks, in an order that does not depend on how many ranks there are.

Over gloo, through the CPU; where every rank has a GPU of its own, over NCCL from device to device.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch

from gdig.distributed.ranks import Ranks
from gdig.distributed.torchrun import Several

_TIMEOUT = timedelta(minutes=30)
"""For one tensor, between ranks that are both ready for it."""


class Exchange:
    """Sends tensors between the ranks; every method is called by all ranks with tensors of the same shapes.

    Args:
        ranks: who takes part.
        device: where this rank's tensors are.
    """

    def __init__(self, ranks: Ranks, device: torch.device) -> None:
        self._ranks, self._device, self._direct = ranks, device, False
        if isinstance(ranks, Several):
            self._direct = _connect(ranks, device)

    def fold(
        self, parts: Sequence[torch.Tensor], totals: list[torch.Tensor | None], owners: Sequence[int], holders: int
    ) -> None:
        """Add the parts of the ranks 0 .. holders - 1, one after the other in this order, to the totals.

        Args:
            parts: this rank's; passed over if it is none of the holders.
            totals: totals[i], on the CPU, is kept by rank owners[i] alone; None before the first part. Changed.
            owners: a rank for each part.
            holders: how many ranks have parts.
        """
        for i, (part, owner) in enumerate(zip(parts, owners, strict=True)):
            for holder in range(holders):
                found = self.move(part, holder, owner)
                if found is not None:
                    found = found.cpu()
                    total = totals[i]
                    # A part may be used again, so the first one is copied.
                    totals[i] = found.clone() if total is None else total.add_(found)

    def move(self, like: torch.Tensor, source: int, target: int) -> torch.Tensor | None:
        """Bring a tensor from one rank to another.

        Args:
            like: on `source`, the tensor; on `target`, one of its shape, dtype and device.
            source: the rank that has it.
            target: the rank that gets it.

        Returns:
            The tensor on `target` (`like` itself where that is `source`), None on all other ranks.
        """
        rank = self._ranks.rank
        if source == target:
            return like if rank == target else None
        if rank == source:
            torch.distributed.send(self._wire(like), target)
        elif rank == target:
            wire = torch.empty_like(like, device=like.device if self._direct else "cpu")
            torch.distributed.recv(wire, source)
            return wire.to(like.device)
        return None

    def spread(self, tensor: torch.Tensor, owner: int) -> None:
        """Fill `tensor` on all ranks with what `owner` has in it."""
        if self._ranks.world == 1 or not tensor.numel():
            return
        wire = self._wire(tensor)
        torch.distributed.broadcast(wire, owner)
        if wire is not tensor:
            tensor.copy_(wire)

    def _wire(self, tensor: torch.Tensor) -> torch.Tensor:
        return (tensor if self._direct else tensor.cpu()).contiguous()


def _connect(ranks: Several, device: torch.device) -> bool:
    """Make the process group, once. Returns whether tensors go from device to device."""
    import torch.distributed as dist

    device = torch.device("cuda", torch.cuda.current_device()) if device == torch.device("cuda") else device
    devices: list[Any] = ranks.gather([ranks.host, str(device)])
    direct = (
        all(name.startswith("cuda") for _, name in devices)
        and len({tuple(pair) for pair in devices}) == len(devices)
        and dist.is_nccl_available()
    )
    if not dist.is_initialized():
        ranks.direct = direct
        store = dist.PrefixStore("tensors", ranks.store)
        backend = "cpu:gloo,cuda:nccl" if direct else "gloo"
        dist.init_process_group(backend, store=store, rank=ranks.rank, world_size=ranks.world, timeout=_TIMEOUT)
    return direct and ranks.direct
