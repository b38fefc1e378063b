"""Sorted rectangles: examples of like length side by side, padded on the right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from gdig.data.tokens import IGNORED, Example
from gdig.ops import Segments


@dataclass(frozen=True)
class Batch:
    """Examples as one rectangle of tokens. A pad lies to the right of its example, so that in a causal model it
    changes nothing, needs no attention mask and has no gradient.

    `rows` [B] say which example each line is; ids and labels are int32 [B, L]; lengths int64 [B]; a label stands at its
    own token's position. `keys` [B] name each line's stream of random numbers. Arrays of numpy, so that a batch made in
    another process comes over as plain bytes.
    """

    rows: np.ndarray
    input_ids: np.ndarray
    labels: np.ndarray
    lengths: np.ndarray
    keys: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """(B, L)."""
        lines, length = self.input_ids.shape
        return lines, length

    @cached_property
    def segments(self) -> Segments:
        """Where each line starts in the flattened rectangle."""
        lines, length = self.shape
        return Segments(torch.arange(lines + 1) * length)

    @cached_property
    def keep(self) -> torch.Tensor:
        """1 for a token and 0 for a pad: float32 [B * L], on the CPU."""
        positions = np.arange(self.input_ids.shape[1])
        return torch.from_numpy((positions < self.lengths[:, None]).astype(np.float32).ravel())

    @cached_property
    def targets(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The positions with a loss, line by line: flat position of the token before (the one that predicts), its
        label, both int64 [M]; and how many each line has, int64 [B]."""
        has_loss = self.labels[:, 1:] != IGNORED
        lines, positions = np.nonzero(has_loss)
        labels = self.labels[lines, positions + 1].astype(np.int64)
        return lines * self.input_ids.shape[1] + positions, labels, has_loss.sum(1)

    def take(self, lines: Sequence[int] | np.ndarray) -> Batch:
        """The same rectangle with some of its lines."""
        return Batch(self.rows[lines], self.input_ids[lines], self.labels[lines], self.lengths[lines], self.keys[lines])

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
    ids = np.zeros((len(examples), length), dtype=np.int32)
    labels = np.full((len(examples), length), IGNORED, dtype=np.int32)
    for line, example in enumerate(examples):
        ids[line, : len(example.input_ids)] = example.input_ids
        labels[line, : len(example.labels)] = example.labels
    lengths = np.array([len(example.input_ids) for example in examples])
    index = np.array(rows)
    return Batch(index, ids, labels, lengths, keys[index])
