"""A forward pass alone: losses and hidden states, no gradient."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from gdig.model.batches import Batch
from gdig.model.capture import StatesSink
from gdig.model.causal_model import Model
from gdig.model.device import to_device
from gdig.model.head import head_nll


@torch.no_grad()
def forward_losses(
    model: Model, batch: Batch, loss_reduction: Literal["mean", "sum"], states_sink: StatesSink
) -> torch.Tensor:
    """Pass one batch without gradients. `states_sink` gets the hidden states.

    Returns:
        Each line's loss: float32 [B] on the device of the hidden states.
    """
    hidden, states = model.with_states(to_device(batch.input_ids, model.device).long())
    states_sink(states)
    predictors, labels, counts = (to_device(x, hidden.device) for x in batch.targets)
    nll = head_nll(model, hidden.flatten(0, 1).index_select(0, predictors), labels)
    losses = torch.segment_reduce(nll, "sum", lengths=counts, unsafe=True, initial=0)
    if loss_reduction == "mean":
        losses = losses / to_device(np.maximum(batch.targets[2], 1), hidden.device)
    return losses.float()
