"""The inverse curvature of all layers together, applied to the seeds' gradients by conjugate gradients.

EK-FAC treats the layers, and the tokens of an example, as independent. A search for each seed is more exact:

    x = (G + D)^-1 g    for the gradient g of each seed

Preconditioned conjugate gradients solve this system (Hestenes and Stiefel 1952; Golub and Van Loan 2013, algorithm
11.5.1). The method needs only products G p. The preconditioner is the damped inverse M of EK-FAC. D is the damping of
EK-FAC, a number a layer. g and x have a number for each weight of all layers. gdig.influence.gauss_newton defines G.

If EK-FAC is exact, M (G + D) = 1, and the first iteration ends at EK-FAC's solution. In every case the first iteration
ends at the best multiple of EK-FAC's solution. So the result of a few iterations lies between EK-FAC and the exact x.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from gdig.config.config import Config
from gdig.distributed.ranks import Ranks
from gdig.errors import MemoryShortError, NotFiniteError
from gdig.influence.factors import Factors
from gdig.influence.gauss_newton import GaussNewton, Product, Vector
from gdig.influence.inverse import Inverse, damping
from gdig.model.causal_model import Model
from gdig.model.free_memory import free_memory
from gdig.nouns import gib
from gdig.progress import Bar

_MAX_SEEDS = 16
"""Most seeds side by side. With so many seeds, the work that they share is a tenth of all work."""
_VECTORS = 5
"""Numbers a weight in a seed's search: x, r, p, the product (G + D) p, and M r for the next p."""
_KEPT_VECTORS = 4
"""Those of them that a resume file keeps: all but M r."""


@dataclass
class Search:
    """The search for one seed.

    Attributes:
        x: the solution after the last iteration.
        r: the rest g - (G + D) x.
        p: the direction of the next step.
        product: r^T M r.
        first: the first r^T M r.
        iterations: the number of iterations.
        residual: sqrt(r^T M r) as a share of the first one. With the exact inverse M, it is the error in the norm of
            G + D.
        ended: whether the search has ended.
        converged: whether the residual has reached the tolerance.
        begun: the product (G + D) p of the iteration that runs; None between two iterations.
    """

    x: Vector
    r: Vector
    p: Vector
    product: float
    first: float
    iterations: int = 0
    residual: float = 1.0
    ended: bool = False
    converged: bool = False
    begun: Product | None = None

    @classmethod
    def begin(cls, g: Vector, m: Sequence[Inverse]) -> Search:
        """Begin at x = 0. The search changes the tensors of g."""
        p = _precondition(g, m)
        product = _dot(g, p)
        search = cls([torch.zeros_like(x) for x in g], g, p, product, product)
        search.ended = search.converged = product == 0  # a gradient of 0 has no influence
        return search

    def advance(self, q: Vector, m: Sequence[Inverse], tolerance: float) -> None:
        """Do one iteration.

        Args:
            q: (G + D) p.
            m: M of each layer.
            tolerance: the residual at which the search ends.

        Raises:
            FloatingPointError: if a number is not finite.
        """
        self.iterations += 1
        curvature = _dot(self.p, q)
        if not math.isfinite(curvature):
            raise FloatingPointError
        if curvature <= 0:  # only by rounding; then no step lowers the error
            self.ended = True
            return
        step = self.product / curvature
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
    searches: Sequence[Search],
    inverses: Sequence[Inverse],
    config: Config,
    names: Sequence[str],
    bar: Bar | None = None,
    keep: Callable[[], object] = lambda: None,
) -> None:
    """Solve (G + D) x = g for several seeds side by side. A solution depends on its own g alone.

    Args:
        product: G + D.
        searches: changed; the search of each seed, which may be at any iteration, and inside one.
        inverses: EK-FAC's inverse of each layer.
        config: cg_iterations, cg_tolerance.
        names: the names of the seeds, for errors.
        bar: a bar with product.rows * cg_iterations units a seed. What the searches have done is counted already.
        keep: called after each batch, when the searches can be kept.

    Raises:
        ModelError: if a number is not finite; the message names the seed.
    """
    advance_bar = (lambda rows: None) if bar is None else bar.advance
    while running := [i for i, x in enumerate(searches) if not x.ended and x.iterations < config.cg_iterations]:
        directions, begun = [searches[i].p for i in running], []
        for i, p in zip(running, directions, strict=True):
            searches[i].begun = product_of_seed = searches[i].begun or Product.begin(p)
            begun.append(product_of_seed)
        products = product.multiply(directions, advance_bar, begun, keep)
        for i, q in zip(running, products, strict=True):
            searches[i].begun = None
            try:
                searches[i].advance(q, inverses, config.cg_tolerance)
            except FloatingPointError:
                n = searches[i].iterations
                raise NotFiniteError(
                    f"{names[i]}: iteration {n} of its conjugate gradients is not finite; check the seed, or raise "
                    f"damping_factor={config.damping_factor:g}"
                ) from None
    if bar is not None:
        bar.advance(sum(config.cg_iterations - search.iterations for search in searches) * product.rows)


def shifts(factors: Sequence[Factors | None], config: Config) -> list[float]:
    """Return D: the number that EK-FAC adds to the eigenvalues of each layer."""
    return [0.0 if f is None else damping(f.eigenvalues(), config) for f in factors]


def seeds_at_once(model: Model, ranks: Ranks, beside: int = 0) -> int:
    """Return how many searches run side by side: as many as half of the free memory holds, and at most 16.

    Args:
        model: the model.
        ranks: the ranks that share the seeds.
        beside: bytes that the model's device will hold beside the searches, and does not hold yet.

    Raises:
        ModelError: if one search needs more than half of the free memory.
    """
    size: dict[torch.device, int] = {}
    width = torch.promote_types(model.dtype, torch.float32).itemsize
    for layer in model.layers:
        size[layer.device] = size.get(layer.device, 0) + _VECTORS * layer.out_features * layer.width * width
    n_seeds = _MAX_SEEDS
    for device, needed in size.items():
        free = free_memory(device)
        if free is None:
            continue
        free = max(0, free - beside) if device == model.device else free
        free //= 2 * (1 if device.type == "cuda" else ranks.local_world)
        if needed > free:
            raise MemoryShortError(
                f"inversion: cg needs {gib(needed)} of {device} for one seed ({_VECTORS} numbers of "
                f"{width} bytes a weight), but half of the free memory is {gib(free)}; choose fewer layers "
                "with filter_modules, or inversion=ekfac"
            )
        n_seeds = min(n_seeds, free // needed)
    return n_seeds


def search_bytes(model: Model) -> tuple[int, int]:
    """Return the bytes that one search holds in memory, and those of its resume files."""
    vector = (
        sum(x.out_features * x.width for x in model.layers) * torch.promote_types(model.dtype, torch.float32).itemsize
    )
    return _VECTORS * vector, _KEPT_VECTORS * vector


def _precondition(g: Vector, m: Sequence[Inverse]) -> Vector:
    return [inverse.dense(x) for inverse, x in zip(m, g, strict=True)]


def _dot(x: Vector, y: Vector) -> float:
    """The scalar product. Products have the precision of the vectors, and sums are float64."""
    return math.fsum(float((a * b).sum(dtype=torch.float64)) for a, b in zip(x, y, strict=True))
