"""Results on their way from a device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch


class Arriving:
    """Tensors whose copy to the host has been asked for; nobody waits before the numbers are wanted.

    Args:
        tensors: on one device, of any shape.
    """

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        self._event = None
        device = tensors[0].device
        if device.type == "cuda":
            self._host = [torch.empty(x.shape, dtype=x.dtype, pin_memory=True) for x in tensors]
            for host, x in zip(self._host, tensors, strict=True):
                host.copy_(x, non_blocking=True)
            self._event = torch.cuda.Event()
            self._event.record(torch.cuda.current_stream(device))
        else:
            self._host = [x.cpu() for x in tensors]

    def numpy(self) -> list[np.ndarray]:
        """The arrays, once they are there."""
        if self._event is not None:
            self._event.synchronize()
        return [x.numpy() for x in self._host]
