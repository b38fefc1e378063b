"""Which tokens of a batch the rows of a layer's inputs and output gradients are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch

from gdig.ops import ExpertRows, Segments


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


@dataclass(frozen=True)
class ExpertPlaces:
    """The places in a batch [B, L] of the R rows that the experts of a matrix see, expert by expert.

    Attributes:
        rows: whose the rows are.
        mask: float32 [R], as in `Places`.
        tokens: int64 [R], the place of each row's token in the flattened batch.
    """

    rows: ExpertRows
    mask: torch.Tensor
    tokens: torch.Tensor

    def split(self, a: torch.Tensor, d: torch.Tensor) -> Iterator[tuple[int, torch.Tensor, torch.Tensor, Places]]:
        """Yield the number, a, d and places of each expert that has rows, of a [R, I] and d [R, O] of all."""
        for number, (first, last) in enumerate(pairwise(self.rows.bounds)):
            if first < last:
                own = slice(first, last)
                yield (
                    number, a[own], d[own],
                    Places(self.rows.of_experts[number], self.mask[own], self.tokens[own]),
                )  # fmt: skip
