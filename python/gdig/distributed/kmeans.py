"""The ranks of one k-means fit."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from gdig.distributed.ranks import Ranks
from gdig.distributed.tensors import Exchange


class KMeansPeers:
    """The ranks of one k-means fit; the Rust core calls these methods.

    Each pass over the rows begins with the centroids of rank 0 on all ranks. It ends with the sums of all ranks on
    rank 0.

    Args:
        ranks: the ranks that take part; more than one.
        n_values: how many numbers the centroids have, K * dim.
    """

    def __init__(self, ranks: Ranks, n_values: int) -> None:
        self.rank, self.world = ranks.rank, ranks.world
        self._ranks, self._n_values, self._exchange = ranks, n_values, Exchange(ranks, torch.device("cpu"))

    def give(self, centroids: NDArray[np.float32]) -> None:
        """Rank 0: send centroids, float32 [K * dim], to all other ranks."""
        self._ranks.gather(True)
        self._exchange.broadcast(torch.from_numpy(centroids), 0)

    def take(self) -> NDArray[np.float32] | None:
        """Other ranks: receive the centroids of the next pass; None when there is no next pass."""
        if not self._ranks.gather(None)[0]:
            return None
        centroids = torch.empty(self._n_values, dtype=torch.float32)
        self._exchange.broadcast(centroids, 0)
        return centroids.numpy()

    def send(self, sums: NDArray[np.uint8]) -> None:
        """Other ranks: send sums, as bytes, to rank 0."""
        self._exchange.move(torch.from_numpy(sums), self.rank, 0)

    def receive(self, source: int, n_bytes: int) -> NDArray[np.uint8]:
        """Rank 0: receive the sums of rank `source`, uint8 [n_bytes]."""
        sums = self._exchange.move(torch.empty(n_bytes, dtype=torch.uint8), source, 0)
        assert sums is not None
        return sums.numpy()

    def end(self) -> None:
        """Rank 0: tell the other ranks that there is no next pass."""
        self._ranks.gather(False)
