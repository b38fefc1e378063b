"""The scores of one layer: by the seeds' dense gradients W, or by the columns of their factors (`dense_plan`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from gdig import ops
from gdig.influence.dense_plan import COLUMNS, DENSE_BYTES, Dense, SeedShape, plan_dense
from gdig.influence.seed_factors import SeedFactors
from gdig.ops import ExpertRows, Segments


class Scorer:
    """Adds the influence of each example on each seed in one layer.

    Args:
        factors: the seeds' factors in the layer. With W they are not kept.
        dense: whether to compute W, and in which precision to hold W or the factors.
    """

    def __init__(self, factors: SeedFactors, dense: Dense) -> None:
        self.columns = Segments(factors.column_offsets)
        self.w: torch.Tensor | None = None  # [S, O, J]
        self.scale: torch.Tensor | None = None  # [S], of W in float16
        self.factors: SeedFactors | None = None
        if dense not in COLUMNS:
            self.w, self.scale = _dense_gradients(factors, self.columns, dense)
        elif dense == "brief columns":
            self.factors = replace(factors, u=factors.u.bfloat16(), v=factors.v.bfloat16())
        else:
            self.factors = factors
        # The kernel's layout of the factors, by the dtype of the activations. LoRA matrices can have their own dtype.
        self._prepared: dict[torch.dtype, Any] = {}

    def add(self, a: torch.Tensor, d: torch.Tensor, examples: Segments, out: torch.Tensor) -> None:
        """Add the influence of a batch.

        Args:
            a: [T, I], the inputs of the layer.
            d: [T, O], its output gradients.
            examples: the B examples of the T tokens.
            out: [B, S], changed.
        """
        if self.w is not None:
            ops.score_dense(a, d, examples, self.w, out, scale=self.scale)
            return
        assert self.factors is not None
        u, v = self.factors.u, self.factors.v
        if not u.shape[1]:
            return  # an expert that no seed goes to
        if a.dtype not in self._prepared:
            self._prepared[a.dtype] = ops.prepare_factors(u, v, self.columns, a.shape[1], a.dtype)
        ops.score(a, d, examples, u, v, self.columns, out, prepared=self._prepared[a.dtype])


class ExpertScorer:
    """Adds the influence of each example on each seed in all experts of a matrix, in one call for each way to score.

    Args:
        scorers: of the experts, in order.
    """

    def __init__(self, scorers: Sequence[Scorer]) -> None:
        self._w = [scorer.w for scorer in scorers]
        self._scale = [scorer.scale for scorer in scorers]
        # An expert that scores by W has no columns, as one that no seed goes to.
        some = next((scorer.factors for scorer in scorers if scorer.factors is not None), None)
        self._u: list[torch.Tensor] = []
        self._v: list[torch.Tensor] = []
        self._columns: list[Segments] = []
        for scorer in scorers if some is not None else ():
            assert some is not None
            own = scorer.factors
            self._u.append(some.u[:, :0] if own is None else own.u)
            self._v.append(some.v[:, :0] if own is None else own.v)
            self._columns.append(_no_columns(len(scorer.columns)) if own is None else scorer.columns)
        self._prepared: dict[torch.dtype, Any] = {}

    def add(self, a: torch.Tensor, d: torch.Tensor, rows: ExpertRows, out: torch.Tensor) -> None:
        """Add the influence of a batch.

        Args:
            a: [R, I], the inputs of the experts' rows.
            d: [R, O], their output gradients.
            rows: whose the rows are.
            out: [B, S], changed.
        """
        if any(w is not None for w in self._w):
            ops.score_dense_experts(a, d, rows, self._w, out, scale=self._scale)
        if any(u.shape[1] for u in self._u):
            if a.dtype not in self._prepared:
                self._prepared[a.dtype] = ops.prepare_expert_factors(
                    self._u, self._v, self._columns, a.shape[1], a.dtype
                )
            ops.score_experts(a, d, rows, self._u, self._v, self._columns, out, prepared=self._prepared[a.dtype])


def _no_columns(seeds: int) -> Segments:
    return Segments(torch.zeros(seeds + 1, dtype=torch.int64))


def make_scorers(
    factors: Sequence[SeedFactors], dense_bytes: int = DENSE_BYTES, bfloat16: bool = False
) -> list[Scorer]:
    """Make a scorer for each layer.

    Args:
        factors: the seeds' factors in each layer. Of files (`SeedFiles`), one layer's is in memory at a time, and those
            of the layers that have no W.
        dense_bytes: the most memory for W over all layers. Scores depend on it by rounding, so a run records the
            memory that the plan takes.
        bfloat16: whether large layers may multiply in bfloat16 (`gdig.model.precision.takes_bfloat16`).
    """
    plan = plan_dense(shapes_of(factors, bfloat16), dense_bytes)
    return [Scorer(factors[index], dense) for index, dense in enumerate(plan)]


def shapes_of(factors: Sequence[SeedFactors], bfloat16: bool = False) -> list[SeedShape]:
    """The shapes of the seeds' factors, which are looked at one layer after another."""
    return [
        SeedShape(
            len(f.u),
            len(f.v),
            f.u.shape[1],
            len(f.column_offsets) - 1,
            f.u.element_size(),
            float(f.energy.mean()) if len(f.energy) else 1.0,  # without seeds, no energy is lost
            f.share,
            bfloat16,
        )
        for f in factors
    ]


def _dense_gradients(factors: SeedFactors, columns: Segments, dense: Dense) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return W [S, O, J] with W[s] = U_s V_s^T; and the scale of each seed if W is float16."""
    u, v = factors.u, factors.v
    dtype = {"half": torch.float16, "brief": torch.bfloat16}.get(dense, u.dtype)
    w = torch.empty(len(columns), len(u), len(v), dtype=dtype, device=u.device)
    scale = torch.ones(len(columns), dtype=u.dtype, device=u.device) if dense == "half" else None
    for seed, (i, j) in enumerate(zip(columns.bounds, columns.bounds[1:], strict=False)):
        product = u[:, i:j] @ v[:, i:j].T
        if scale is None:
            w[seed] = product
        else:
            w[seed], scale[seed] = ops.halved(product)
    return w, scale
