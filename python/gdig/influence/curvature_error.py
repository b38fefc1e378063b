"""How well a curvature describes rows that it was not fitted on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch

from gdig.config.config import Config
from gdig.data.tokens import Example
from gdig.distributed.ranks import Ranks
from gdig.influence.curvature import CurvatureFit
from gdig.influence.factors import Factors
from gdig.influence.memory_plan import plan_fit
from gdig.model.causal_model import Model
from gdig.progress import Progress


def curvature_error(
    model: Model,
    factors: Iterable[Factors],
    examples: Sequence[Example],
    keys: np.ndarray,
    config: Config,
    progress: Progress,
) -> float:
    """Return the error of a curvature on examples, 0 to 1.

    M = mean of (Q_S^T G Q_A)^2 over the examples, elementwise, is what the eigenvalues L of EK-FAC would be if the
    curvature were fitted on them. The error of a layer is the distance of the shares of M and of L that each output
    direction has, and each input direction: half the sum of the absolute differences, and the mean of both sides. The
    layers count by their share of L.

    Args:
        model: the frozen model.
        factors: of each layer of the model, in order. Those of one partition are in memory at a time.
        examples: the examples; one pass of the model over them for each partition.
        keys: uint64 [n], the row of each in the pool.
        config: options of the fit.
        progress: shows a bar.
    """
    ranks = Ranks()
    plan = plan_fit(model, examples, config, ranks)
    fit = CurvatureFit(model, examples, keys, config, progress, ranks, plan)
    remaining = iter(factors)
    pairs = [pair for partition in plan.partitions for pair in _of_layers(fit, partition, remaining)]
    total = sum(weight for _, weight in pairs)
    return sum(error * weight for error, weight in pairs) / total if total > 0 else 0.0


def _of_layers(fit: CurvatureFit, partition: Sequence[int], remaining: Iterator[Factors]) -> list[tuple[float, float]]:
    """Error and weight of each layer of a partition, whose factors are the next: no others are in memory."""
    factors = dict(zip(partition, remaining, strict=False))
    pairs = []
    for index, squares in fit.squares(partition, factors).items():
        expected = factors[index].eigenvalues().cpu()
        sides = [_distance(squares.double().cpu().sum(side), expected.sum(side)) for side in (0, 1)]
        pairs.append((sum(sides) / 2, float(expected.sum())))
    return pairs


def _distance(a: torch.Tensor, b: torch.Tensor) -> float:
    """Half the sum of the absolute differences of two distributions, which are scaled to a sum of 1."""
    a, b = (x / torch.where(x.sum() > 0, x.sum(), 1.0) for x in (a, b))
    return float((a - b).abs().sum() / 2)
