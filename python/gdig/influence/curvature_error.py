"""How well a curvature describes rows that it was not fitted on."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

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


def curvature_errors(
    model: Model,
    factors: Iterable[Factors],
    groups: Sequence[tuple[Sequence[Example], np.ndarray]],
    config: Config,
    progress: Progress,
) -> list[float]:
    """Return the error of a curvature on each group of examples, 0 to 1.

    M = mean of (Q_S^T G Q_A)^2 over the examples, elementwise. The eigenvalues L of EK-FAC would be M if the curvature
    were fitted on these examples. The error of a layer is the distance of the shares of M and of L that each output
    direction has, and each input direction: half the sum of the absolute differences, and the mean of both sides. The
    layers count by their share of L.

    Args:
        model: the frozen model.
        factors: of each layer of the model, in order. Those of one partition are in memory at a time.
        groups: examples, with uint64 [n], the row of each in the pool. The model passes them once for each partition.
        config: options of the fit.
        progress: shows a bar.
    """
    ranks = Ranks()
    plan = plan_fit(model, [example for examples, _ in groups for example in examples], config, ranks)
    remaining = iter(factors)
    pairs: list[list[tuple[float, float]]] = [[] for _ in groups]
    with progress.stage("drift", len(plan.partitions) * sum(len(examples) for examples, _ in groups)) as bar:
        for partition in plan.partitions:
            own = dict(zip(partition, remaining, strict=False))
            for place, (examples, keys) in enumerate(groups):
                fit = CurvatureFit(model, examples, keys, config, Progress(quiet=True), ranks, plan)
                pairs[place] += _of_layers(fit, partition, own)
                bar.advance(len(examples))
            del own
    return [_mean(of_group) for of_group in pairs]


def _mean(pairs: Sequence[tuple[float, float]]) -> float:
    """The mean of the first numbers, weighted by the second ones."""
    total = sum(weight for _, weight in pairs)
    return sum(error * weight for error, weight in pairs) / total if total > 0 else 0.0


def _of_layers(fit: CurvatureFit, partition: Sequence[int], factors: dict[int, Factors]) -> list[tuple[float, float]]:
    """Error and weight of each layer of a partition."""
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
