"""What the head of a model gave for each batch, for further passes over the same batches."""

from __future__ import annotations

import torch

Key = tuple[bytes, tuple[int, int]]
"""Of a batch: the keys of its lines, and its shape."""


class HeadCache:
    """The head's results for each batch, which further passes over the same batches take.

    Drawn labels are always kept; loss and gradient at the labelled positions, while the cache has room.

    Args:
        size: bytes for losses and gradients.

    Attributes:
        drawn: int64 [M] for each batch.
        results: loss and gradient for each batch, likewise (see `head_loss`).
    """

    def __init__(self, size: int) -> None:
        self.drawn: dict[Key, torch.Tensor] = {}
        self.results: dict[Key, tuple[torch.Tensor, torch.Tensor]] = {}
        self._room = size

    def keep(self, key: Key, nll: torch.Tensor, gradient: torch.Tensor, drawn: torch.Tensor | None) -> None:
        """Keep a batch's results, as far as there is room."""
        if drawn is not None:
            self.drawn[key] = drawn
        size = nll.nbytes + gradient.nbytes
        if size <= self._room:
            self._room -= size
            self.results[key] = nll, gradient
