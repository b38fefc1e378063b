"""Gradient cosine, a baseline without curvature: exact, from whole gradients, so for small models only."""

from __future__ import annotations

import numpy as np
import torch

from benches.shared.gradients import each_layer
from gdig.config.config import Config
from gdig.data.tokens import Example
from gdig.model.capture import GradientPass
from gdig.progress import Progress
from gdig.run.session import Workspace


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

    def add_to_mean(index: int, rows: torch.Tensor, a: torch.Tensor, d: torch.Tensor) -> None:
        mean[index] += (d.mT @ a).sum(0) / len(work.seed_examples)

    def compare(index: int, rows: torch.Tensor, a: torch.Tensor, d: torch.Tensor) -> None:
        gradients = d.mT @ a
        dots[rows] += (gradients * mean[index]).sum((1, 2)).double()
        squares[rows] += gradients.square().sum((1, 2)).double()

    gradients = GradientPass(work.model, config.loss_reduction)
    each_layer(gradients, work.seed_examples, add_to_mean, token_batch_size)
    each_layer(gradients, examples, compare, token_batch_size)
    length = sum(float(g.double().square().sum()) for g in mean) ** 0.5
    return (dots / (squares.sqrt() * length)).numpy(), dots.numpy()
