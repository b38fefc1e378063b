"""Which tokens of a batch the rows of a layer's inputs and output gradients are."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gdig.ops import Segments


@dataclass(frozen=True)
class Places:
    """The places in a batch [B, L] of the T tokens that a layer sees.

    A layer that sees all tokens has T = B * L, pads included, in the order of the flattened batch. An expert has the
    tokens that the router sends it, without pads, line by line in the order of the batch.

    Attributes:
        examples: the tokens of each line; a line can have none.
        mask: float32 [T], 1 for a token that counts, 0 for a pad and for each token of an example whose loss is not
            finite.
        tokens: int64 [T], the place of each token in the flattened batch; None for a layer that sees all.
    """

    examples: Segments
    mask: torch.Tensor
    tokens: torch.Tensor | None = None

    def sums(self, x: torch.Tensor) -> torch.Tensor:
        """The sum of x [T, W] over the tokens of each line: [B, W]."""
        length = self.examples.uniform
        if length is not None:
            return x.unflatten(0, (len(self.examples), length)).sum(1)
        return torch.stack([rows.sum(0) for rows in x.split(self.examples.lengths.tolist())])

    def line(self, number: int, length: int) -> slice:
        """The rows of a line that has `length` tokens without pads."""
        first, last = self.examples.bounds[number], self.examples.bounds[number + 1]
        return slice(first, first + length if self.tokens is None else last)
