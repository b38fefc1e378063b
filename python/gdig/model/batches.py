"""Batches: examples of similar length as one rectangle of tokens, padded on the right."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b

import numpy as np
import torch

from gdig.data.tokens import IGNORED, Example
from gdig.ops import Segments


@dataclass(frozen=True)
class Batch:
    """Examples as one rectangle of tokens.

    Pads are on the right. In a causal model they change nothing, need no attention mask and have no gradient. The
    arrays are numpy's, so that a batch made in another process arrives as plain bytes.

    Attributes:
        rows: [B], the number of each line's example.
        input_ids: int32 [B, L].
        labels: int32 [B, L]. A label is at the position of its own token.
        lengths: int64 [B], tokens of each line without pads.
        keys: [B], names of the lines' streams of random numbers.
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
    def token_mask(self) -> torch.Tensor:
        """1 for a token and 0 for a pad: float32 [B * L], on the CPU."""
        positions = np.arange(self.input_ids.shape[1])
        return torch.from_numpy((positions < self.lengths[:, None]).astype(np.float32).ravel())

    @cached_property
    def targets(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The positions with a loss, line by line.

        Returns:
            predictors: int64 [M], the flat position of the token before each label, which predicts the label.
            labels: int64 [M]. counts: int64 [B], labels of each line.
        """
        has_loss = self.labels[:, 1:] != IGNORED
        lines, positions = np.nonzero(has_loss)
        labels = self.labels[lines, positions + 1].astype(np.int64)
        return lines * self.input_ids.shape[1] + positions, labels, has_loss.sum(1)

    def take(self, lines: Sequence[int] | np.ndarray) -> Batch:
        """A rectangle of the same length with some of the lines."""
        return Batch(self.rows[lines], self.input_ids[lines], self.labels[lines], self.lengths[lines], self.keys[lines])

    def halves(self) -> tuple[Batch, Batch]:
        """The batch in two halves, for a device whose memory does not hold the whole."""
        lines = np.arange(len(self.rows))
        middle = len(lines) // 2
        return self.take(lines[:middle]), self.take(lines[middle:])


def content_digest(batches: Sequence[Batch]) -> str:
    """Return a hash of the shapes, keys and tokens of batches: 16 hexadecimal digits."""
    digest = blake2b(digest_size=8)
    for batch in batches:
        digest.update(np.array(batch.shape).tobytes() + batch.keys.tobytes() + batch.input_ids.tobytes())
    return digest.hexdigest()


def round_up(length: int) -> int:
    """The length of a rectangle: rounded up so that shapes repeat; above 128 tokens, by at most 6 %."""
    step = 8 if length <= 256 else 32
    return -(-length // step) * step


def make_batches(
    examples: Sequence[Example],
    token_batch_size: int,
    *,
    keys: np.ndarray | None = None,
    window: int | None = None,
    rotary_switch: int | None = None,
) -> list[Batch]:
    """Cut examples, longest first, into rectangles of at most `token_batch_size` tokens, or of one line.

    Args:
        examples: the examples; `Batch.rows` are indices into this sequence.
        token_batch_size: tokens in a rectangle, pads included.
        keys: uint64 [len(examples)], names of streams of random numbers. Default: the example's index.
        window: the longest input that the model takes; a rectangle's length is not rounded up above it.
        rotary_switch: the length above which the model takes other rotary factors (`model.rotary`). No rectangle holds
            examples of both sides, and none is rounded up above it.
    """
    keys = np.arange(len(examples), dtype=np.uint64) if keys is None else keys
    order = sorted(range(len(examples)), key=lambda i: (-len(examples[i].input_ids), i))
    batches, start = [], 0
    while start < len(order):
        longest = len(examples[order[start]].input_ids)
        is_short = rotary_switch is not None and longest <= rotary_switch
        length = max(longest, min(round_up(longest), (rotary_switch if is_short else window) or round_up(longest)))
        stop = min(len(order), start + max(1, token_batch_size // length))
        if rotary_switch is not None and not is_short:
            short = (i for i in range(start, stop) if len(examples[order[i]].input_ids) <= rotary_switch)
            stop = next(short, stop)
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
