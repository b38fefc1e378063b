"""The inverse curvature of all layers together on the seeds' gradients, by conjugate gradients.

EK-FAC takes the layers, and the tokens of an example, for independent. Few seeds can do better: x = (G + D)^-1 g is
solved for each seed's gradient g by the preconditioned method of conjugate gradients (Hestenes and Stiefel 1952; Golub
and Van Loan 2013, algorithm 11.5.1), which asks only for products G p, with EK-FAC's damped inverse M as the
preconditioner. D is the damping that EK-FAC adds, a number a layer. g and x are over the weights of all layers.

G is described in gdig.influence.gauss_newton. Where EK-FAC is exact, M (G + D) = 1 and the first iteration ends at the
solution, which is EK-FAC's. In any case the first iteration ends at a multiple of that, the best one, so what a few
iterations give lies between.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from gdig.config.config import Config
from gdig.distributed.ranks import Ranks
from gdig.errors import ModelError
from gdig.influence.curvature import Factors
from gdig.influence.gauss_newton import GaussNewton, Vector
from gdig.influence.inverse import Inverse, damping
from gdig.model.causal_model import Model
from gdig.model.memory import free_memory
from gdig.progress import Bar

_AT_ONCE = 16
"""Most seeds side by side: what they share is a tenth of the work by then."""
_VECTORS = 5
"""Numbers a weight that a seed's search holds at once: x, r, p, its product, and M r for the next p."""


@dataclass
class Search:
    """The search for one seed.

    x: the solution so far. r = g - (G + D) x. p: where to go next. residual: sqrt(r^T M r) as a share of the first,
    which would be the error in the norm of G + D if M were the inverse. ended: whether it goes no further. converged:
    whether the residual has reached the tolerance.
    """

    x: Vector
    r: Vector
    p: Vector
    product: float  # r^T M r
    first: float
    iterations: int = 0
    residual: float = 1.0
    ended: bool = False
    converged: bool = False

    @classmethod
    def begin(cls, g: Vector, m: Sequence[Inverse]) -> Search:
        """From x = 0. Takes g for its own."""
        p = _precondition(g, m)
        product = _dot(g, p)
        search = cls([torch.zeros_like(x) for x in g], g, p, product, product)
        search.ended = search.converged = product == 0  # no gradient, no influence
        return search

    def advance(self, q: Vector, m: Sequence[Inverse], tolerance: float) -> None:
        """One iteration; q = (G + D) p.

        Raises:
            FloatingPointError: when a number is not finite.
        """
        self.iterations += 1
        along = _dot(self.p, q)
        if not math.isfinite(along):
            raise FloatingPointError
        if along <= 0:  # only by rounding, which leaves nothing to gain
            self.ended = True
            return
        step = self.product / along
        for x, r, p, y in zip(self.x, self.r, self.p, q, strict=True):
            x.add_(p, alpha=step)
            r.sub_(y, alpha=step)
        z = _precondition(self.r, m)
        before, self.product = self.product, _dot(self.r, z)
        self.residual = math.sqrt(max(0.0, self.product) / self.first)
        if not math.isfinite(self.residual):
            raise FloatingPointError
        self.converged = self.residual <= tolerance
        self.ended = self.converged or self.product <= 0
        for p, y in zip(self.p, z, strict=True):
            p.mul_(self.product / before).add_(y)


def solve(
    product: GaussNewton,
    gradients: Sequence[Vector],
    inverses: Sequence[Inverse],
    config: Config,
    names: Sequence[str],
    bar: Bar | None = None,
) -> list[Search]:
    """Solve (G + D) x = g for several g side by side; none depends on another.

    Args:
        product: G + D.
        gradients: the seeds', which are used up.
        inverses: EK-FAC's, of each layer.
        config: cg_iterations, cg_tolerance.
        names: the seeds', for errors.
        bar: of product.rows * cg_iterations units a seed.

    Raises:
        ModelError: when a number is not finite, naming the seed.
    """
    searches = [Search.begin(g, inverses) for g in gradients]
    for _ in range(config.cg_iterations):
        todo = [i for i, search in enumerate(searches) if not search.ended]

        def passed(rows: int, n: int = len(todo)) -> None:
            if bar is not None:
                bar.advance(rows * n)

        if not todo:
            break
        found = product.multiply([searches[i].p for i in todo], passed)
        for i, q in zip(todo, found, strict=True):
            try:
                searches[i].advance(q, inverses, config.cg_tolerance)
            except FloatingPointError:
                n = searches[i].iterations
                raise ModelError(f"{names[i]}: iteration {n} of its conjugate gradients is not finite") from None
    if bar is not None:
        bar.advance(sum(config.cg_iterations - search.iterations for search in searches) * product.rows)
    return searches


def shifts(factors: Sequence[Factors | None], config: Config) -> list[float]:
    """D: what EK-FAC adds to each layer's eigenvalues."""
    return [0.0 if f is None else damping(f.eigenvalues(), config) for f in factors]


def seeds_at_once(model: Model, ranks: Ranks) -> int:
    """How many seeds may be searched for side by side: half of the memory that is free takes them, and a start that
    is killed loses no more than these.

    Raises:
        ModelError: when not even one fits.
    """
    size: dict[torch.device, int] = {}
    width = torch.promote_types(model.dtype, torch.float32).itemsize
    for layer in model.layers:
        size[layer.device] = size.get(layer.device, 0) + _VECTORS * layer.out_features * layer.width * width
    most = _AT_ONCE
    for device, needed in size.items():
        free = free_memory(device)
        if free is None:
            continue
        free //= 2 * (1 if device.type == "cuda" else ranks.local_world)
        if needed > free:
            raise ModelError(
                f"inversion: cg needs {needed / 2**30:.3g} GiB of {device} for one seed ({_VECTORS} numbers of "
                f"{width} bytes a weight), and half of what is free is {free / 2**30:.3g} GiB; choose fewer layers "
                "with filter_modules, or inversion=ekfac"
            )
        most = min(most, free // needed)
    return most


def _precondition(g: Vector, m: Sequence[Inverse]) -> Vector:
    return [inverse.dense(x) for inverse, x in zip(m, g, strict=True)]


def _dot(x: Vector, y: Vector) -> float:
    """Products in the vectors' precision, sums in float64."""
    return math.fsum(float((a * b).sum(dtype=torch.float64)) for a, b in zip(x, y, strict=True))
