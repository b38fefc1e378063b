"""The collator of every training: rows as the sweep pads them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from gdig.data.tokens import Example
from gdig.model.batches import make_batches
from gdig.model.directory import Limits


@dataclass
class Rectangle:
    """Pads examples to one rectangle as the sweep does, in the order given.

    A step of the training is one rectangle. Examples may lie on both sides of the model's `rotary_switch`
    (`model.rotary`). Then the short ones take the rotary factors of the long ones, as in every Trainer. Pads alone
    carry no rectangle over it.
    """

    limits: Limits

    def __call__(self, examples: list[Example]) -> dict[str, torch.Tensor]:
        """Return input_ids and labels, int64 [rows, longest]."""
        token_limit = len(examples) * 2 * max(map(len, examples)) + 64 * len(examples)
        switch = self.limits.rotary_switch
        if switch is not None and max(map(len, examples)) > switch:
            switch = None  # one rectangle, though the sweep would cut it
        (batch,) = make_batches(examples, token_limit, window=self.limits.window, rotary_switch=switch)
        order = np.argsort(batch.rows)
        return {
            "input_ids": torch.from_numpy(batch.input_ids[order].astype(np.int64)),
            "labels": torch.from_numpy(batch.labels[order].astype(np.int64)),
        }
