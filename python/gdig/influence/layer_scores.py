"""The scores of one layer: by the seeds' dense gradients W, or by the columns of their factors (`dense_plan`)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import partial
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
        read: reads the factors. They are then not kept either: each batch reads them.
    """

    def __init__(self, factors: SeedFactors, dense: Dense, read: Callable[[], SeedFactors] | None = None) -> None:
        self.columns = Segments(factors.column_offsets)
        self.w: torch.Tensor | None = None  # [S, O, J]
        self.scale: torch.Tensor | None = None  # [S], of W in float16
        self.empty = not factors.u.shape[1]  # an expert that no seed goes to
        self.read, self._brief = read, dense == "brief columns"
        self._factors: SeedFactors | None = None
        if dense not in COLUMNS:
            self.w, self.scale = _dense_gradients(factors, self.columns, dense)
        elif read is None:
            self._factors = self._in_precision(factors)
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
        if self.empty:
            return
        factors = self.factors
        assert factors is not None
        u, v = factors.u, factors.v
        if a.dtype not in self._prepared:
            self._prepared[a.dtype] = ops.prepare_factors(u, v, self.columns, a.shape[1], a.dtype)
        # What is read anew for the next batch is laid out anew.
        prepared = self._prepared[a.dtype] if self.read is None else self._prepared.pop(a.dtype)
        ops.score(a, d, examples, u, v, self.columns, out, prepared=prepared)

    @property
    def factors(self) -> SeedFactors | None:
        """The factors of a layer without W, which may have to be read."""
        if self.w is not None or self.read is None:
            return self._factors
        return self._in_precision(self.read())

    def _in_precision(self, factors: SeedFactors) -> SeedFactors:
        return replace(factors, u=factors.u.bfloat16(), v=factors.v.bfloat16()) if self._brief else factors


class ExpertScorer:
    """Adds the influence of each example on each seed in all experts of a matrix, in one call for each way to score.

    Args:
        scorers: of the experts, in order.
    """

    def __init__(self, scorers: Sequence[Scorer]) -> None:
        self._scorers = scorers
        self._w = [scorer.w for scorer in scorers]
        self._scale = [scorer.scale for scorer in scorers]
        # An expert that scores by W has no columns, as one that no seed goes to.
        self._columns = [_no_columns(len(s.columns)) if s.w is not None else s.columns for s in scorers]
        self._reads = any(scorer.read is not None for scorer in scorers)
        self._sides = None if self._reads else self._join()
        self._prepared: dict[torch.dtype, Any] = {}

    def _join(self) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """U and V of each expert; none at all where every expert has W."""
        factors = [scorer.factors for scorer in self._scorers]
        some = next((own for own in factors if own is not None), None)
        if some is None:
            return [], []
        sides = [(some.u[:, :0], some.v[:, :0]) if own is None else (own.u, own.v) for own in factors]
        return [u for u, _ in sides], [v for _, v in sides]

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
        if all(scorer.w is not None or scorer.empty for scorer in self._scorers):
            return
        us, vs = self._sides or self._join()
        if a.dtype not in self._prepared:
            self._prepared[a.dtype] = ops.prepare_expert_factors(us, vs, self._columns, a.shape[1], a.dtype)
        prepared = self._prepared.pop(a.dtype) if self._reads else self._prepared[a.dtype]
        ops.score_experts(a, d, rows, us, vs, self._columns, out, prepared=prepared)


def _no_columns(seeds: int) -> Segments:
    return Segments(torch.zeros(seeds + 1, dtype=torch.int64))


def make_scorers(
    factors: Sequence[SeedFactors],
    dense_bytes: int = DENSE_BYTES,
    bfloat16: bool = False,
    from_files: Collection[int] = (),
) -> list[Scorer]:
    """Make a scorer for each layer.

    Args:
        factors: the seeds' factors in each layer. Of files (`SeedFiles`), one layer's is in memory at a time, and those
            of the layers that have no W.
        dense_bytes: the most memory for W over all layers. Scores depend on it by rounding, so a run records the
            memory that the plan takes.
        bfloat16: whether large layers may multiply in bfloat16 (`gdig.model.precision.takes_bfloat16`).
        from_files: the layers whose factors each batch reads anew. No bit depends on it.
    """
    plan = plan_dense(shapes_of(factors, bfloat16), dense_bytes)
    return [
        Scorer(factors[index], dense, partial(factors.__getitem__, index) if index in from_files else None)
        for index, dense in enumerate(plan)
    ]


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
