"""The influence of one row token by token and layer by layer: the sums that the sweep adds up, taken apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from gdig.config.config import Config
from gdig.data.tokens import Example
from gdig.influence.seed_factors import SeedFactors
from gdig.model.batches import Batch, make_batches
from gdig.model.capture import GradientPass
from gdig.model.causal_model import Model
from gdig.model.places import Places
from gdig.model.precision import float32_products
from gdig.passes.encode_ahead import EncodedShard, encode_shard
from gdig.passes.shards import spans_between
from gdig.run.session import Workspace
from gdig.store.sketches import SketchStore


class TokenInfluence(NamedTuple):
    """The influence of a row with T tokens on each of S seeds, taken apart.

    by_token: float64 [T, S]. by_layer: float64 [L, S]. Either adds up to the influence of the row over its first axis.
    """

    by_token: np.ndarray
    by_layer: np.ndarray


class Line(NamedTuple):
    """A row inside the batch that the sweep passes it in. batch: the rectangle. line: the number of the row's line."""

    batch: Batch
    line: int

    @property
    def length(self) -> int:
        """T, tokens of the row."""
        return int(self.batch.lengths[self.line])


class SweptBatches:
    """Finds the batch in which the sweep passed a row. A row's numbers depend on its batch alone.

    Args:
        work: the workspace of the run.
        store: the sweep.
        token_batch_size: of the sweep.
    """

    def __init__(self, work: Workspace, store: SketchStore, token_batch_size: int) -> None:
        self._work, self._store, self._size = work, store, token_batch_size
        self._spans: dict[int, EncodedShard] = {}

    def find(self, row: int) -> Line | None:
        """Return the row's line; None for a row that cannot be encoded. The row's whole span is tokenized."""
        shard, work = row // self._store.rows_per_shard, self._work
        spans = spans_between(self._store, *self._store.shard_range(shard))
        start, stop = next((a, b) for a, b in spans if a <= row < b)
        if start not in self._spans:
            # One span at a time: rows that are explained together seldom lie in many.
            self._spans = {start: encode_shard(work.candidates, work.encoder, start, stop, self._size, work.limits)}
        encoded = self._spans[start]
        at = int(np.searchsorted(encoded.positions, row - encoded.start))
        if at == len(encoded.positions) or encoded.positions[at] != row - encoded.start:
            return None
        for batch in encoded.batches:
            lines = np.flatnonzero(batch.rows == at)
            if len(lines):
                return Line(batch, int(lines[0]))
        raise AssertionError("every row that is encoded lies in a batch")


def line_of_example(example: Example, model: Model) -> Line:
    """Return a row outside the pool as the one line of a batch."""
    switch = model.rotary_switch
    (batch,) = make_batches([example], len(example), window=model.window, rotary_switch=switch)
    return Line(batch, 0)


def token_influence(model: Model, seeds: Sequence[SeedFactors], line: Line, config: Config) -> TokenInfluence:
    """Pass the batch of a row once, and take the influence of the row apart.

    Let d_t and a_t be the output gradient and the input of a layer at token t. The influence of token t on seed s is
    the sum over the layers of d_t^T U_s V_s^T a_t. Products are in the dtype of the factors, sums over them in float64.

    Args:
        model: the frozen model.
        seeds: the seeds' factors in each layer.
        line: the row in its batch.
        config: loss_reduction and matmul_precision.
    """
    n_seeds = len(seeds[0].column_offsets) - 1
    by_token = np.zeros((line.length, n_seeds))
    by_layer = np.zeros((len(seeds), n_seeds))

    def sink(index: int, a: torch.Tensor, d: torch.Tensor, places: Places) -> None:
        rows = places.line(line.line, line.length)
        here = _of_layer(a[rows], d[rows], seeds[index])
        if places.tokens is None:
            by_token[:] += here
        else:
            by_token[places.tokens[rows].cpu().numpy() - line.line * line.batch.shape[1]] += here
        by_layer[index] = here.sum(0)

    gradients = GradientPass(model, config.loss_reduction, mask_not_finite=False)
    with float32_products(config.matmul_precision):
        gradients.run(line.batch, sink, lambda states: None)
    return TokenInfluence(by_token, by_layer)


def _of_layer(a: torch.Tensor, d: torch.Tensor, factors: SeedFactors) -> np.ndarray:
    """The influence of each token in one layer, float64 [T, S], of a [T, I] and d [T, O]."""
    u, v, offsets = factors.u, factors.v, factors.column_offsets
    width = a.shape[1]
    right = a.to(v.dtype) @ v[:width]
    if len(v) > width:  # the bias: a constant 1 is appended to a
        right = right + v[width]
    products = ((d.to(u.dtype) @ u) * right).cpu().double()
    seed_of = torch.repeat_interleave(torch.arange(len(offsets) - 1), offsets.diff())
    return products.new_zeros(len(products), len(offsets) - 1).index_add_(1, seed_of, products).numpy()
