"""The collator of every training: rows as the sweep pads them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from gdig.data.tokens import Example
from gdig.model.batches import make_batches


@dataclass
class Rectangle:
    """Pads examples to one rectangle as the sweep does, in the order given."""

    window: int | None

    def __call__(self, examples: list[Example]) -> dict[str, torch.Tensor]:
        """Return input_ids and labels, int64 [rows, longest]."""
        token_limit = len(examples) * 2 * max(map(len, examples)) + 64 * len(examples)
        (batch,) = make_batches(examples, token_limit, window=self.window)
        order = np.argsort(batch.rows)
        return {
            "input_ids": torch.from_numpy(batch.input_ids[order].astype(np.int64)),
            "labels": torch.from_numpy(batch.labels[order].astype(np.int64)),
        }
