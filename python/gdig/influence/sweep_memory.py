"""The smallest form of a sweep that a plan allows: factors that stay in their files, other ways to score, or a refusal.

A plan takes 60 % of the free memory. Where the seeds' factors need more, those of the largest layers stay in their
files, and each batch reads them anew. No bit depends on it: a batch reads what it would have held. As measured, the
scores of such a layer take 1.2 to 2.6 times as long (LOG.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from gdig.config.config import Config
from gdig.influence.dense_plan import COLUMNS, cpu_tokens, plan_dense
from gdig.influence.layer_scores import shapes_of
from gdig.influence.refusal import beyond_limit, fits
from gdig.influence.seed_factors import SeedFactors
from gdig.influence.sweep_plan import SweepPlan, plan_sweep
from gdig.model.batch_size import largest_batch
from gdig.model.causal_model import Model
from gdig.model.layers import Layer
from gdig.model.precision import takes_bfloat16
from gdig.model.token_memory import TokenMemory

_COPIES = 2
"""A layer's factors are in memory twice while they are read: as the file has them, and on the model's device."""


def plan_sweep_within(
    model: Model,
    config: Config,
    seeds: Sequence[SeedFactors],
    *,
    limit: int | None,
    longest: int,
    rows: int,
    token_memory: TokenMemory | None = None,
    dense_bytes: int | None = None,
) -> SweepPlan:
    """Plan a sweep (`gdig.influence.sweep_plan.plan_sweep`) within a limit: with the first form that fits.

    1. As it is planned.
    2. With factors of the largest layers in their files.
    3. With another W than `dense_bytes`, which an earlier start with more memory has planned. Scores then differ by
       rounding.
    4. With gradient checkpointing, which is turned on.

    Args: see `plan_sweep`.

    Raises:
        MemoryShortError: where no form fits.
    """
    tokens = token_memory or TokenMemory.count(model)
    seeds = [_without_numbers(factors) for factors in seeds]  # so files are read once

    def plan(dense: int | None) -> SweepPlan:
        planned = plan_sweep(
            model, config, seeds, limit=limit, longest=longest, rows=rows, token_memory=tokens, dense_bytes=dense
        )
        return planned if fits(planned.peak, limit) else _read_by_batch(planned, model, config, seeds, tokens, limit)

    planned = plan(dense_bytes)
    if not fits(planned.peak, limit) and dense_bytes is not None:
        planned = plan(None)
    if not fits(planned.peak, limit) and model.save_memory():
        tokens = TokenMemory.count(model)
        planned = plan(dense_bytes)
        planned = planned if fits(planned.peak, limit) or dense_bytes is None else plan(None)
    if limit is not None and not fits(planned.peak, limit):
        raise beyond_limit("sweep", planned.peak, limit)
    return planned


def _read_by_batch(
    plan: SweepPlan,
    model: Model,
    config: Config,
    seeds: Sequence[SeedFactors],
    tokens: TokenMemory,
    limit: int | None,
) -> SweepPlan:
    """The same plan with the factors of some layers in their files: of as few as it takes, the largest first."""
    assert limit is not None
    shapes = shapes_of(seeds, takes_bfloat16(config.matmul_precision, model.device))
    ways = plan_dense(shapes, plan.dense_bytes)
    held, read = [], []  # bytes of each layer's factors in memory, and while they are read
    for shape, way in zip(shapes, ways, strict=True):
        by_columns = way in COLUMNS
        held.append(shape.bytes_of(way) if by_columns else 0)
        read.append(_COPIES * shape.bytes_of("none") if by_columns else 0)
    beside = plan.peak.total - plan.peak.weights - plan.peak.seed_factors
    from_files: list[int] = []
    kept, largest = sum(held), 0
    for group in sorted(_groups(model.layers), key=lambda group: -sum(held[index] for index in group)):
        if beside + kept + largest <= limit:
            break
        from_files += [index for index in group if held[index]]
        kept -= sum(held[index] for index in group)
        largest = max(largest, sum(read[index] for index in group))
    rest, batch = limit - plan.dense_bytes - plan.peak.rows - kept - largest, plan.token_batch_size
    if config.token_batch_size == "auto":
        most = cpu_tokens(sum(way not in COLUMNS for way in ways), len(ways))
        batch = largest_batch(tokens, rest, model.device, cpu_tokens=most)
    peak = replace(plan.peak, seed_factors=kept, work=largest)
    return replace(plan, limit=rest, token_batch_size=batch, peak=peak, from_files=tuple(sorted(from_files)))


def _without_numbers(factors: SeedFactors) -> SeedFactors:
    u, v = (torch.empty_like(x, device="meta") for x in (factors.u, factors.v))
    return replace(factors, u=u, v=v)


def _groups(layers: Sequence[Layer]) -> list[list[int]]:
    """Indices of layers whose factors a batch needs at once: the experts of a matrix; every other layer by itself."""
    groups: dict[str, list[int]] = {}
    for index, layer in enumerate(layers):
        groups.setdefault(layer.expert.matrix if layer.expert is not None else layer.name, []).append(index)
    return list(groups.values())
