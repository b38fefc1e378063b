"""Copies of a device's tensors in the host's memory, for which nobody waits before the numbers are needed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch


class HostCopy:
    """A copy of tensors to the host that runs beside the device's other work.

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
        """Wait until the copy is complete, and return the arrays."""
        if self._event is not None:
            self._event.synchronize()
        return [x.numpy() for x in self._host]
