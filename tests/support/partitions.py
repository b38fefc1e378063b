"""Plans of a fit in several partitions, of models that are far too small to need any, and what a fit by one gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from gdig.config.config import Config
from gdig.data.tokens import Example
from gdig.distributed.ranks import Ranks
from gdig.influence import memory_plan
from gdig.influence.curvature import CurvatureFit
from gdig.influence.factors import Factors
from gdig.influence.memory_plan import MemoryPlan, plan_fit
from gdig.model.causal_model import Model
from gdig.model.token_memory import TokenMemory
from gdig.progress import Progress
from gdig.run.record import CurvatureReport


def plans_in_partitions(
    model: Model, sample: Sequence[Example], config: Config, monkeypatch: pytest.MonkeyPatch
) -> Iterator[MemoryPlan]:
    """Yield plans within less and less memory: the first of each number of partitions above one."""
    plan = plan_fit(model, sample, config, Ranks())
    assert len(plan.partitions) == 1
    needed = max(memory.total - memory.weights for memory in plan.passes.values())
    # What the graph keeps is far more than the sums of so small a model: it is set to the same for all layers.
    counted = TokenMemory.count(model)
    same = replace(counted, graph=counted.graph[:1] * len(counted.graph))
    monkeypatch.setattr(TokenMemory, "count", classmethod(lambda cls, model: same))
    monkeypatch.setattr(memory_plan, "blocks_to_recompute", lambda module: [])  # the other way to need less
    seen = {1}
    for limit in range(needed, needed // 2, -500):
        monkeypatch.setattr(memory_plan, "room", lambda model, share, limit=limit: limit)
        small = plan_fit(model, sample, config, Ranks())
        assert max(memory.total - memory.weights for memory in small.passes.values()) <= limit
        if len(small.partitions) not in seen:
            seen.add(len(small.partitions))
            yield small
    raise AssertionError(f"expected limits that ask for more partitions, got {seen}")


def require_the_same_fit(
    model: Model,
    sample: Sequence[Example],
    config: Config,
    plan: MemoryPlan,
    whole: Sequence[Factors],
    report: CurvatureReport,
) -> None:
    """Fit by a plan, and compare with the factors and the report of a fit in one piece, bit by bit."""
    keys = np.arange(len(sample), dtype=np.uint64)
    fit = CurvatureFit(model, sample, keys, config, Progress(quiet=True), Ranks(), plan)
    by_partition = {index: f for partition in plan.partitions for index, f in fit.run(partition).items()}
    assert fit.report == report
    for index, f in enumerate(whole):
        for name in ("q_a", "q_s", "l_a", "l_s", "corrected"):
            together, other = getattr(f, name), getattr(by_partition[index], name)
            assert (together is None and other is None) or torch.equal(together, other), (index, name)
