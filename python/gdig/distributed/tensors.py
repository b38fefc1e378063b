"""Tensors between ranks, in an order that does not depend on the number of ranks.

Tensors go through torch.distributed: over gloo through the CPU, or over NCCL from GPU to GPU where every rank has a
GPU of its own.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from gdig.distributed.ranks import Ranks


class Exchange:
    """Sends tensors between the ranks. All ranks call every method, with tensors of the same shapes.

    Args:
        ranks: the ranks that take part.
        device: where this rank's tensors are.
    """

    def __init__(self, ranks: Ranks, device: torch.device) -> None:
        self._ranks = ranks
        self._direct = ranks.connect(device)

    def add_in_order(
        self, sums: Sequence[torch.Tensor], totals: list[torch.Tensor | None], owners: Sequence[int], n_sources: int
    ) -> None:
        """Add the sums of the ranks 0 .. n_sources - 1 to the totals, one rank after the other in this order.

        A reduction of torch.distributed adds in an order that depends on the number of ranks. A gather would hold the
        sums of all ranks at once on the owner; here the owner holds the sums of one.

        Args:
            sums: the tensors of this rank; not read when this rank is no source.
            totals: changed. totals[i] is on the CPU of rank owners[i]; it is None on other ranks and before the first
                sum.
            owners: the rank that owns each total.
            n_sources: how many ranks have sums.
        """
        for i, (tensor, owner) in enumerate(zip(sums, owners, strict=True)):
            for source in range(n_sources):
                received = self.move(tensor, source, owner)
                if received is not None:
                    received = received.cpu()
                    total = totals[i]
                    # The caller uses its sums again, so the first ones are copied.
                    totals[i] = received.clone() if total is None else total.add_(received)

    def move(self, tensor: torch.Tensor, source: int, target: int) -> torch.Tensor | None:
        """Bring a tensor from one rank to another.

        Args:
            tensor: on `source`, the tensor; on `target`, any tensor of its shape, dtype and device.
            source: the rank that has the tensor.
            target: the rank that gets it.

        Returns:
            The tensor on `target` (`tensor` itself where that is `source`), None on all other ranks.
        """
        rank = self._ranks.rank
        if source == target:
            return tensor if rank == target else None
        if rank == source:
            torch.distributed.send(self._wire(tensor), target)
        elif rank == target:
            wire = torch.empty_like(tensor, device=tensor.device if self._direct else "cpu")
            torch.distributed.recv(wire, source)
            return wire.to(tensor.device)
        return None

    def broadcast(self, tensor: torch.Tensor, source: int) -> None:
        """Copy the numbers of `source`'s tensor into `tensor` on all ranks."""
        if self._ranks.world == 1 or not tensor.numel():
            return
        wire = self._wire(tensor)
        torch.distributed.broadcast(wire, source)
        if wire is not tensor:
            tensor.copy_(wire)

    def _wire(self, tensor: torch.Tensor) -> torch.Tensor:
        return (tensor if self._direct else tensor.cpu()).contiguous()
