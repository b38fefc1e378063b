"""What the layers see of each example, for scores that are made from whole gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from gdig.data.tokens import Example
from gdig.model.batches import make_batches
from gdig.model.capture import GradientPass

Use = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], None]
"""Called with a layer's index, rows int64 [B], a [B, L, I] and d [B, L, O], 0 at pads."""


def each_layer(gradients: GradientPass, examples: Sequence[Example], use: Use, token_batch_size: int) -> np.ndarray:
    """Pass the examples; call `use` for each batch and layer. Returns their losses, float64 [n]."""
    losses = np.zeros(len(examples))
    for batch in make_batches(examples, token_batch_size, window=gradients.model.window):
        rows, shape = torch.from_numpy(batch.rows), batch.shape

        def sink(
            index: int,
            a: torch.Tensor,
            d: torch.Tensor,
            mask: torch.Tensor,
            rows: torch.Tensor = rows,
            shape: tuple[int, int] = shape,
        ) -> None:
            use(index, rows, a.unflatten(0, shape), d.unflatten(0, shape))

        losses[batch.rows] = gradients.run(batch, sink).numpy()
    return losses
