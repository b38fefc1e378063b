"""Sorted rectangles: examples of like length side by side, padded on the right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from gdig.data.tokens import IGNORED, Example


@dataclass(frozen=True)
class Batch:
    """Examples as one rectangle of tokens. A pad lies to the right of its example, so that in a causal model it
    changes nothing, needs no attention mask and has no gradient.

    `rows` [B] say which example each line is; ids and labels are int64 [B, L] on the CPU; lengths int64 [B]; a label
    stands at its own token's position. `keys` [B] name each line's stream of random numbers.
    """

    rows: np.ndarray
    input_ids: torch.Tensor
    labels: torch.Tensor
    lengths: torch.Tensor
    keys: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """(B, L)."""
        lines, length = self.input_ids.shape
        return lines, length

    @property
    def offsets(self) -> torch.Tensor:
        """Where each line starts in the flattened rectangle: int64 [B + 1]."""
        lines, length = self.shape
        return torch.arange(lines + 1) * length

    @property
    def keep(self) -> torch.Tensor:
        """1 for a token and 0 for a pad: float32 [B * L]."""
        positions = torch.arange(self.input_ids.shape[1])
        return (positions < self.lengths[:, None]).float().flatten()

    def take(self, lines: Sequence[int] | np.ndarray) -> Batch:
        """The same rectangle with some of its lines."""
        index = torch.as_tensor(np.asarray(lines))
        return Batch(self.rows[lines], self.input_ids[index], self.labels[index], self.lengths[index], self.keys[lines])

    def halves(self) -> tuple[Batch, Batch]:
        """Split in two, for a device whose memory the whole does not fit."""
        lines = np.arange(len(self.rows))
        middle = len(lines) // 2
        return self.take(lines[:middle]), self.take(lines[middle:])


def round_up(length: int) -> int:
    """Length of a rectangle: rounded up so that shapes repeat, at most 6 % over 128 tokens."""
    step = 8 if length <= 256 else 32
    return -(-length // step) * step


def make_batches(
    examples: Sequence[Example], token_batch_size: int, *, keys: np.ndarray | None = None, window: int | None = None
) -> list[Batch]:
    """Cut examples into rectangles of at most `token_batch_size` tokens, pads included (at least one line each).

    Args:
        examples: the examples; `Batch.rows` index into this sequence.
        token_batch_size: tokens in a rectangle.
        keys: uint64 [len(examples)], names of streams of random numbers; default: the example's index.
        window: longest input the model takes; a rectangle is not rounded up past it.
    """
    keys = np.arange(len(examples), dtype=np.uint64) if keys is None else keys
    order = sorted(range(len(examples)), key=lambda i: (-len(examples[i].input_ids), i))
    batches, start = [], 0
    while start < len(order):
        longest = len(examples[order[start]].input_ids)
        length = max(longest, min(round_up(longest), window or round_up(longest)))
        stop = start + max(1, token_batch_size // length)
        batches.append(_rectangle([examples[i] for i in order[start:stop]], order[start:stop], length, keys))
        start = stop
    return batches


def _rectangle(examples: list[Example], rows: list[int], length: int, keys: np.ndarray) -> Batch:
    ids = np.zeros((len(examples), length), dtype=np.int64)
    labels = np.full((len(examples), length), IGNORED, dtype=np.int64)
    for line, example in enumerate(examples):
        ids[line, : len(example.input_ids)] = example.input_ids
        labels[line, : len(example.labels)] = example.labels
    lengths = torch.tensor([len(example.input_ids) for example in examples])
    index = np.array(rows)
    return Batch(index, torch.from_numpy(ids), torch.from_numpy(labels), lengths, keys[index])
