"""The memory plans of a run before it starts, by the functions that plan the run itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from gdig.config.config import Config
from gdig.data.tokens import Example
from gdig.distributed.ranks import Ranks
from gdig.influence.conjugate_gradients import search_bytes, seeds_at_once
from gdig.influence.memory_plan import MemoryParts, MemoryPlan, plan_memory
from gdig.influence.seed_factors import SeedFactors
from gdig.influence.seed_plan import SeedBytes, largest_pass, pass_bytes, plan_seeds
from gdig.influence.sweep_memory import plan_sweep_within
from gdig.influence.sweep_plan import SweepPlan
from gdig.model.batch_size import MEMORY_SHARE
from gdig.model.causal_model import Model
from gdig.model.free_memory import free_host_memory
from gdig.model.token_memory import TokenMemory, weight_bytes
from gdig.passes.row_pass import first_batch_size
from gdig.planning.pool_size import PoolSize
from gdig.planning.run_trial import Rates


@dataclass(frozen=True)
class Planner:
    """Plans the memory of fits with other layers, samples or seeds, as the run will."""

    config: Config
    pool: PoolSize
    seed_examples: Sequence[Example]
    counted: TokenMemory
    limit: int | None

    @property
    def seed_tokens(self) -> int:
        """Tokens of all seeds."""
        return sum(map(len, self.seed_examples))

    @property
    def longest(self) -> int:
        """Tokens of the longest row."""
        return max(self.pool.longest, *map(len, self.seed_examples))

    @property
    def probe_tokens(self) -> int:
        """Tokens of the probe rows."""
        return int(min(self.config.probe_rows, self.pool.rows) * self.pool.mean_tokens)

    @property
    def seeds_activations(self) -> int:
        """Bytes of activations of a batch of seeds in the pass over a training checkpoint."""
        return max(first_batch_size(self.config), *map(len, self.seed_examples)) * self.counted.a_token()

    def sweep(self, model: Model, factors: Sequence[SeedFactors] = ()) -> SweepPlan:
        """Plan the sweep with the seeds' factors, which may be on the device "meta"; without seeds, there are none."""
        return plan_sweep_within(
            model,
            self.config,
            factors,
            limit=self.limit,
            longest=self.longest,
            rows=self.pool.rows,
            token_memory=self.counted,
        )

    def fit(self, model: Model) -> MemoryPlan | None:
        """Plan the fit of the curvature; None for a run without one."""
        if not self.config.gradients or self.config.inversion == "identity":
            return None
        on_cpu, host_free = model.device.type == "cpu", free_host_memory()
        return plan_memory(
            model,
            self.config,
            limit=self.limit,
            longest=self.longest,
            sample_tokens=int(self.pool.fit_tokens(self.config)),
            host_limit=None if on_cpu or host_free is None else int(host_free * MEMORY_SHARE),
            token_memory=self.counted,
        )

    def seed_partitions(self, model: Model) -> tuple[tuple[int, ...], ...]:
        """The layers of each pass of the seeds."""
        lengths = [len(seed) for seed in self.seed_examples]
        passes = pass_bytes(self.counted, self._largest_pass(model))
        return plan_seeds(model, self.config, lengths, self.probe_tokens, self.limit, passes).partitions

    def seeds(self, model: Model, rates: Rates, partitions: Sequence[Sequence[int]]) -> MemoryParts:
        """What the largest pass of the seeds holds, with the columns that the trial has measured.

        The graph of a pass begins at the lowest layer of its partition.
        """
        tokens, held_by_pass = self._largest_pass(model), []
        for partition in partitions:
            layers = [model.layers[index] for index in partition]
            held = [SeedBytes.of(layer, model.dtype, self.config, [], self.probe_tokens) for layer in layers]
            item = torch.promote_types(model.dtype, torch.float32).itemsize
            sides = [layer.out_features + layer.width for layer in layers]
            factors = sum(rates.columns[index] * side for index, side in zip(partition, sides, strict=True)) * item
            size = sum(held, SeedBytes())
            searches = self.searches(model, size.inverses + size.probe)
            held_by_pass.append(
                MemoryParts(
                    weight_bytes(model.module),
                    tokens * self.counted.a_token(partition[0]) + size.probe,
                    self.counted.head,
                    eigenvectors=size.inverses,
                    work=searches * search_bytes(model)[0],
                    seed_factors=factors,
                )
            )
        return max(held_by_pass, key=lambda memory: memory.total)

    def searches(self, model: Model, beside: int) -> int:
        """How many searches by conjugate gradients run side by side. `beside`: other bytes that the pass holds."""
        if self.config.inversion != "cg":
            return 0
        return min(len(self.seed_examples), seeds_at_once(model, Ranks(), beside))

    def _largest_pass(self, model: Model) -> int:
        """Tokens of the largest pass of the seeds and the probe rows, any of which may be the pool's longest."""
        return largest_pass(self.seed_examples, self.pool.longest, model.rotary_switch)
