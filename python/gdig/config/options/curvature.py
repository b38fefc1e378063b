"""Options of the fit: the curvature, and the seeds' gradients times its inverse."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class CurvatureOptions:
    """The inverse Hessian and the sample that it is fitted on."""

    inversion: Literal["ekfac", "kfac", "identity", "cg"] = "ekfac"
    """How the Hessian is approximated: EK-FAC, K-FAC, the identity, or cg. EK-FAC, which corrects the eigenvalues
    of K-FAC, comes nearest to the exact inverse without a search for each seed. cg inverts the Gauss-Newton matrix
    over all layers together, by conjugate gradients from EK-FAC's inverse. cg takes about cg_iterations * cg_rows
    passes a seed."""
    damping_factor: float = 0.1
    """How much damping is added to the eigenvalues, in the unit of damping_mode. The default keeps directions with
    little data from dominating. Raise it when the fit has few rows."""
    damping_mode: Literal["relative", "absolute", "factored_tikhonov"] = "relative"
    """What damping_factor means. relative adds damping_factor times the layer's mean eigenvalue, which fits any
    scale of gradients. absolute adds damping_factor itself. factored_tikhonov shares its square root between the
    two Kronecker factors, as the published code does; it needs inversion=kfac."""
    use_empirical_fisher: bool = False
    """Fit on the data's own labels instead of labels drawn from the model. Off by default, because drawn labels
    give the true Fisher matrix. Switch it on to follow the published code."""
    kfac_approx: Literal["expand", "reduce"] = "expand"
    """How tokens enter the Kronecker factors. expand counts each token by itself, as linear layers do. reduce sums
    the tokens of an example first; it needs inversion=kfac."""
    fit_tokens: int = 100_000
    """Tokens of the pool that the curvature is fitted on, in whole rows drawn by a hash. The default gives wide layers
    several times as many tokens as columns. Lower it when the fit takes too long."""


@dataclass(frozen=True)
class SeedOptions:
    """The seeds' gradients times the inverse curvature, and their low-rank form."""

    cg_rows: int = 1000
    """Rows of the pool whose Gauss-Newton matrix inversion=cg inverts, drawn as the fit's are. The time of a seed
    grows with the rows. Raise it when the scores change with random_seed."""
    cg_iterations: int = 5
    """Most iterations of conjugate gradients; each is one product with the matrix. Few iterations score best
    (LOG.md). Raise it to come nearer to the exact inverse."""
    cg_tolerance: float = 0.01
    """Share of the first residual at which a seed's search stops, measured by EK-FAC's inverse. The default is far
    above the error of float32. Lower it together with more iterations."""
    seed_energy: float = 0.99
    """Share of the squared norm of each seed's preconditioned gradient that is kept in a layer; it decides the
    rank. A rank below the full one makes the sweep fast. Take 1 to compare with exact scores."""
    seed_rank: int = 128
    """Highest rank of a seed's gradient in a layer. The default bounds the sweep's time and memory. Lower it when
    the fit says that little energy is lost."""
    probe_rows: int = 16
    """Rows of the pool on which factored scores are compared with exact scores. A few rows suffice for the error
    that the fit prints. Raise it for a closer estimate of the error."""
