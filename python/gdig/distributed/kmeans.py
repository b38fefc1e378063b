"""The ranks of one k-means fit."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from gdig.distributed.ranks import Ranks
from gdig.distributed.tensors import Exchange


class Passes:
    """The ranks of one k-means fit, as the Rust core asks for them: a pass begins with centroids for all, and ends with
    every rank's sums on rank 0.

    Args:
        ranks: who takes part; several.
        n_values: numbers in the centroids, K * dim.
    """

    def __init__(self, ranks: Ranks, n_values: int) -> None:
        self.rank, self.world = ranks.rank, ranks.world
        self._ranks, self._n_values, self._exchange = ranks, n_values, Exchange(ranks, torch.device("cpu"))

    def give(self, centroids: NDArray[np.float32]) -> None:
        """Rank 0: to all others, float32 [K * dim]."""
        self._ranks.gather(True)
        self._exchange.spread(torch.from_numpy(centroids), 0)

    def take(self) -> NDArray[np.float32] | None:
        """Others: what rank 0 gives, or None at the end."""
        if not self._ranks.gather(None)[0]:
            return None
        found = torch.empty(self._n_values, dtype=torch.float32)
        self._exchange.spread(found, 0)
        return found.numpy()

    def send(self, content: NDArray[np.uint8]) -> None:
        """Others: to rank 0."""
        self._exchange.move(torch.from_numpy(content), self.rank, 0)

    def receive(self, source: int, n_bytes: int) -> NDArray[np.uint8]:
        """Rank 0: what another one sends, uint8 [n_bytes]."""
        found = self._exchange.move(torch.empty(n_bytes, dtype=torch.uint8), source, 0)
        assert found is not None
        return found.numpy()

    def end(self) -> None:
        """Rank 0: there are no more passes."""
        self._ranks.gather(False)
