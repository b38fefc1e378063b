"""Exact scores, from whole gradients, for small models: what the sweep computes in low rank, and the lengths it lacks.

A layer's gradient is turned into the eigenbasis of its curvature, where every inverse that gdig offers is a division;
so one pass over the pool gives the influence for as many inverses and dampings as are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from benches.shared.gradients import each_layer
from gdig.config.config import Config
from gdig.data.tokens import Example
from gdig.influence.curvature import fit_curvature
from gdig.influence.curvature_sums import with_ones
from gdig.influence.factors import Factors
from gdig.influence.inverse import damped_eigenvalues
from gdig.model.capture import GradientPass
from gdig.progress import Progress
from gdig.run.session import Workspace

TOKENS = 4096


@dataclass(frozen=True)
class Metric:
    """An inverse Hessian: "identity", "kfac" or "ekfac", and its relative damping."""

    inversion: str
    damping: float = 0.1

    @property
    def name(self) -> str:
        """In tables and files."""
        return self.inversion if self.inversion == "identity" else f"{self.inversion} {self.damping:g}"


DEFAULT = Metric("ekfac", 0.1)
IDENTITY = Metric("identity")


@torch.no_grad()
def exact_scores(config: Config, metrics: Sequence[Metric]) -> dict[str, np.ndarray]:
    """Influence and lengths in each metric; the layers, the loss and the sample of the curvature are `config`'s.

    Returns:
        loss [N] and seed loss [S] (means of their target tokens), tokens [N], target tokens [N]; for each metric by
        its name: "influence NAME" [N, S], "length NAME" [N] and "seed length NAME" [S], |G| in the norm of H^-1.
    """
    work = Workspace(config, Progress(quiet=True))
    model, n = work.model, len(work.candidates)
    examples = [example for example in work.encoder.encode(work.candidates, range(n)) if isinstance(example, Example)]
    if len(examples) != n:
        raise ValueError(f"{n - len(examples)} of {n} candidates have no target token")
    sample, rows = work.fit_sample
    factors, _ = fit_curvature(model, sample, rows.astype(np.uint64), config, work.progress)
    scales = [[_scale(f, metric, config) for metric in metrics] for f in factors]

    n_seeds = len(work.seed_examples)
    seeds = [torch.zeros(n_seeds, len(f.l_s) * len(f.l_a)) for f in factors]
    seed_squares = torch.zeros(len(metrics), n_seeds, dtype=torch.float64)

    def keep(index: int, rows: torch.Tensor, turned: torch.Tensor) -> None:
        seeds[index][rows] = turned
        for k, scale in enumerate(scales[index]):
            seed_squares[k, rows] += (turned.square() @ scale).double()

    influence = torch.zeros(len(metrics), n, n_seeds)
    squares = torch.zeros(len(metrics), n, dtype=torch.float64)

    def compare(index: int, rows: torch.Tensor, turned: torch.Tensor) -> None:
        for k, scale in enumerate(scales[index]):
            scaled = turned * scale
            squares[k, rows] += (scaled * turned).sum(1).double()
            influence[k, rows] += scaled @ seeds[index].T

    seed_loss = _each_gradient(work, factors, work.seed_examples, keep)
    scores = {
        "loss": _each_gradient(work, factors, examples, compare),
        "seed loss": seed_loss,
        "tokens": np.array([len(e) for e in examples]),
        "target tokens": np.array([int(np.sum(np.asarray(e.labels) >= 0)) for e in examples]),
    }
    for k, metric in enumerate(metrics):
        scores[f"influence {metric.name}"] = influence[k].numpy()
        scores[f"length {metric.name}"] = squares[k].sqrt().numpy()
        scores[f"seed length {metric.name}"] = seed_squares[k].sqrt().numpy()
    return scores


def _scale(factors: Factors, metric: Metric, config: Config) -> torch.Tensor:
    """1 / (L + damping) [O * J], of the metric, in the eigenbasis."""
    if metric.inversion == "identity":
        return torch.ones(len(factors.l_s) * len(factors.l_a))
    f = factors if metric.inversion == "ekfac" else replace(factors, corrected=None)
    damped = damped_eigenvalues(f, config.with_options(damping_factor=metric.damping))
    if damped is None:
        raise ValueError("a layer that no gradient reaches")
    return (1.0 / damped).float().flatten()


def _each_gradient(
    work: Workspace,
    factors: Sequence[Factors],
    examples: Sequence[Example],
    use: Callable[[int, torch.Tensor, torch.Tensor], None],
) -> np.ndarray:
    """Call use(layer's index, rows [B], gradients in the layer's eigenbasis [B, O * J]) for each batch and layer;
    return the losses [n]."""

    def turn(index: int, rows: torch.Tensor, a: torch.Tensor, d: torch.Tensor) -> None:
        f, shape = factors[index], a.shape[:2]
        a = with_ones(a.flatten(0, 1), work.model.layers[index].width).unflatten(0, shape) @ f.q_a
        use(index, rows, ((d @ f.q_s).mT @ a).flatten(1))

    return each_layer(GradientPass(work.model, work.config.loss_reduction), examples, turn, TOKENS)
