"""Gradient cosine, a baseline without curvature: exact, from whole gradients, so for small models only."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from gdig.config import Config
from gdig.data.tokens import Example
from gdig.model.batches import make_batches
from gdig.model.capture import GradientPass
from gdig.progress import Progress
from gdig.workspace import Workspace


def gradient_cosines(config: Config, token_batch_size: int = 4096) -> tuple[np.ndarray, np.ndarray]:
    """Cosine and dot product of every candidate's gradient with the mean gradient of the seeds: float64 [N] each.

    The gradients are those of the layers and the loss that `config` names; nothing is projected or damped.
    """
    work = Workspace(config, Progress(quiet=True))
    layers = work.model.layers
    mean = [torch.zeros(layer.out_features, layer.width) for layer in layers]
    n = len(work.candidates)
    examples = [example for example in work.encoder.encode(work.candidates, range(n)) if isinstance(example, Example)]
    if len(examples) != n:
        raise ValueError(f"{n - len(examples)} of {n} candidates have no target token; the baseline needs all")
    dots, squares = torch.zeros(n, dtype=torch.float64), torch.zeros(n, dtype=torch.float64)

    def add_to_mean(index: int, rows: torch.Tensor, gradients: torch.Tensor) -> None:
        mean[index] += gradients.sum(0) / len(work.seed_examples)

    def compare(index: int, rows: torch.Tensor, gradients: torch.Tensor) -> None:
        dots[rows] += (gradients * mean[index]).sum((1, 2)).double()
        squares[rows] += gradients.square().sum((1, 2)).double()

    gradients = GradientPass(work.model, config.loss_reduction)
    _each_gradient(gradients, work.seed_examples, add_to_mean, token_batch_size)
    _each_gradient(gradients, examples, compare, token_batch_size)
    length = sum(float(g.double().square().sum()) for g in mean) ** 0.5
    return (dots / (squares.sqrt() * length)).numpy(), dots.numpy()


def _each_gradient(
    gradients: GradientPass,
    examples: Sequence[Example],
    use: Callable[[int, torch.Tensor, torch.Tensor], None],
    token_batch_size: int,
) -> None:
    """Call use(layer's index, rows [B], gradients [B, O, J]) for each batch and layer."""
    for batch in make_batches(examples, token_batch_size, window=gradients.model.window):
        rows, shape = torch.from_numpy(batch.rows), batch.shape

        def sink(
            index: int,
            a: torch.Tensor,
            d: torch.Tensor,
            keep: torch.Tensor,
            rows: torch.Tensor = rows,
            shape: tuple[int, int] = shape,
        ) -> None:
            use(index, rows, d.unflatten(0, shape).transpose(1, 2) @ a.unflatten(0, shape))

        gradients.run(batch, sink)
