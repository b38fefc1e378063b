"""The stages of a run, each with its tokens, passes and seconds: what a trial measured, times what there is to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from gdig.config.config import Config
from gdig.influence.dense_plan import plan_dense
from gdig.influence.layer_scores import shapes_of
from gdig.influence.memory_plan import MemoryPlan
from gdig.influence.sweep_plan import SweepPlan
from gdig.model.causal_model import Model
from gdig.model.precision import takes_bfloat16
from gdig.planning.left import Left
from gdig.planning.pass_trial import block_number
from gdig.planning.pool_size import PoolSize
from gdig.planning.redundancy_trial import RedundancyCosts
from gdig.planning.run_trial import Rates, empty_factors
from gdig.planning.selection_trial import SelectionRates
from gdig.run.record import RunRecord

_COMPARED_SEEDS = 32
"""Most seeds whose factored and exact scores a run compares."""


@dataclass(frozen=True)
class StagePlan:
    """One pass of a stage, or another part of it.

    Attributes:
        name: as the bar of the run calls it.
        tokens: that go through the model; 0 for a part without a pass.
        passes: how often the model passes these tokens: once for each partition of the layers.
        seconds: expected; 0 of a stage that is done and not planned.
        done: the share that the run in run_path has, 0 to 1.
    """

    name: str
    tokens: float
    passes: int
    seconds: float
    done: float = 0.0

    @property
    def left_s(self) -> float:
        """Seconds of what is not done."""
        return self.seconds * (1 - self.done)


@dataclass(frozen=True)
class Expected:
    """What the stages of a run follow from.

    Attributes:
        config: the options.
        model: the model with its layers.
        pool: rows and tokens.
        n_seeds: seeds.
        seed_tokens: their tokens.
        memory: of the fit of the curvature; None for a run without one.
        seed_partitions: indices of the layers of each pass of the seeds.
        sweep: of the sweep.
        rates: of the trial.
        selection: rates of clusters and selection.
        redundancy: what sources, evaluation sets and near-copies add to it.
        left: what is to come. Stages that are done are not planned: they have no seconds.
        record: of the run; None where nothing has begun.
        deepest: blocks from the lowest layer of the trial to the loss.
        load_s: seconds to open the inputs and to load the model.
    """

    config: Config
    model: Model
    pool: PoolSize
    n_seeds: int
    seed_tokens: int
    memory: MemoryPlan | None
    seed_partitions: tuple[tuple[int, ...], ...]
    sweep: SweepPlan
    rates: Rates
    selection: SelectionRates
    deepest: int
    load_s: float
    left: Left
    record: RunRecord | None = None
    redundancy: RedundancyCosts = field(default_factory=RedundancyCosts)

    def stages(self) -> list[StagePlan]:
        """The stages in the order of the run, each with the share that is done."""
        config, left = self.config, self.left
        stages = self._without_model()
        fit = [stage for stage in stages["fit"] if left.share_done(stage.name) == 1]
        if left.curvature:
            fit = self._curvature()
        if left.seeds:
            fit.append(self._seeds())
            if config.inversion == "cg":
                fit.append(self._conjugate_gradients())
        sweep = self._sweep() if left.sweeps else stages["sweep"]
        return with_done([*stages["start"], *fit, *sweep, *self._selection()], left)

    def _without_model(self) -> dict[str, list[StagePlan]]:
        check = StagePlan("check", 0, 1, self.pool.rows * self.pool.encode_s)  # every row becomes tokens once
        done = done_stages(self.config, self.pool, self.seed_tokens, self.record)
        return {**done, "start": [StagePlan("start", 0, 1, self.load_s), check]}

    def _depth(self, layers: Sequence[int] | None = None) -> float:
        """The share of the trial's backward pass that a pass over some layers takes."""
        numbers = block_number(self.model.layers)
        lowest = 0 if layers is None else min(layers)
        return min(1.0, (numbers[-1] + 1 - numbers[lowest]) / self.deepest)

    def _pass_s(self, tokens: float, batch: int, head: float, depth: float) -> float:
        """Seconds of a pass over tokens of the pool. `head`: seconds a label."""
        rates = self.rates.passes
        padded = tokens * self._padded(batch)
        return padded * (rates.forward + rates.backward * depth) + tokens * self.pool.labels * head

    def _padded(self, batch: int) -> float:
        return self.pool.padded(batch, self.model)

    def _curvature(self) -> list[StagePlan]:
        config, memory, rates, layers = self.config, self.memory, self.rates, self.model.layers
        if memory is None:
            return []
        tokens, batch = self.pool.fit_tokens(config), memory.token_batch_size
        rows = tokens / self.pool.mean_tokens
        drawn = 0.0 if config.use_empirical_fisher else rates.passes.draw
        labels = max(1.0, tokens * self.pool.labels)
        a_label = self.model.module.get_input_embeddings().weight.shape[1] * self.model.dtype.itemsize + 8  # type: ignore[operator,union-attr]
        again = rates.passes.head * (1 - min(1.0, memory.head_cache / (labels * a_label)))  # type: ignore[operator]
        first = True
        seconds = {"factors": rows * self.pool.encode_s, "eigenvalues": 0.0}
        corrects = config.inversion != "kfac"
        for partition in memory.partitions:
            own, depth = [layers[index] for index in partition], self._depth(partition)
            head = rates.passes.head + drawn if first else again
            padded = tokens * self._padded(batch)
            seconds["factors"] += self._pass_s(tokens, batch, head, depth) + padded * rates.of_layers("moments", own)
            if corrects:
                pass_s = self._pass_s(tokens, batch, again, depth)
                seconds["eigenvalues"] += pass_s + padded * rates.of_layers("squares", own)
            first = False
        passes = len(memory.partitions)
        stages = [
            StagePlan("fit: factors", tokens, passes, seconds["factors"]),
            StagePlan("fit: eigenvectors", 0, 1, rates.of_layers("eigenvectors", layers)),
        ]
        if corrects:
            stages.append(StagePlan("fit: eigenvalues", tokens, passes, seconds["eigenvalues"]))
        return stages

    def _probe_tokens(self) -> float:
        return min(self.config.probe_rows, self.pool.rows) * self.pool.mean_tokens

    def _seeds(self) -> StagePlan:
        rates, layers, probe = self.rates, self.model.layers, self._probe_tokens()
        forward, backward = rates.passes.forward, rates.passes.backward
        passes = sum(
            (forward + backward * self._depth(partition)) / (forward + backward or 1.0)
            for partition in self.seed_partitions
        )
        tokens = self.seed_tokens + probe
        compared = min(self.n_seeds, _COMPARED_SEEDS) * rates.of_layers("compared", layers)
        seconds = (
            tokens * rates.seed_pass * passes
            + rates.of_layers("inverse", layers)
            + self.n_seeds * rates.of_layers("seed", layers)
            + probe * (rates.of_layers("coordinates", layers) + compared)
        )
        return StagePlan("fit: seeds", tokens, len(self.seed_partitions), seconds)

    def _conjugate_gradients(self) -> StagePlan:
        """A product with the matrix takes four forward passes over its sample."""
        config, pool = self.config, self.pool
        products = config.cg_iterations * self.n_seeds
        tokens = products * min(pool.rows, config.cg_rows) * pool.mean_tokens
        forward = self.rates.passes.forward * self._padded(self.sweep.token_batch_size)
        return StagePlan("fit: conjugate gradients", tokens, 1, tokens * 4 * forward)

    def _sweep(self) -> list[StagePlan]:
        config, pool, rates, batch = self.config, self.pool, self.rates, self.sweep.token_batch_size
        encode = pool.rows * pool.encode_s
        if not config.gradients:
            return [
                StagePlan("sweep", pool.tokens, 1, encode + self._pass_s(pool.tokens, batch, rates.passes.losses, 0.0))
            ]
        layers = self.model.layers
        factors = empty_factors(self.model, rates.kinds, self.n_seeds)
        shapes = shapes_of(factors, takes_bfloat16(config.matmul_precision, self.model.device))
        ways = plan_dense(shapes, self.sweep.dense_bytes)
        of_seeds = self.n_seeds / rates.n_seeds
        features = of_seeds * rates.of_scores("scores", layers, ways) + rates.of_layers("sketch", layers)
        plain = self._pass_s(1.0, batch, rates.passes.head, self._depth())
        a_token = plain + self._padded(batch) * features
        probe = self._probe_tokens()
        once = rates.of_layers("whiten", layers) + of_seeds * rates.of_scores("dense", layers, ways)
        stages = [
            StagePlan("sweep: scale", probe, 1, once + probe * a_token),
            StagePlan("sweep: seeds", self.seed_tokens, 1, self.seed_tokens * a_token),
            StagePlan("sweep", pool.tokens, 1, encode + pool.tokens * a_token),
        ]
        if self.left.compared_rows and self.memory is not None:
            stages.append(self._drift(self.memory))
        directions = self._padded(batch) * rates.of_layers("checkpoint", layers)
        for number in range(1, len(config.checkpoints) + 1):
            name = f"checkpoint {number} of {len(config.checkpoints)}"
            # A seed's gradient costs what a row's direction does, but for the moments.
            stages.append(StagePlan(f"{name}: seeds", self.seed_tokens, 1, self.seed_tokens * (plain + directions)))
            stages.append(StagePlan(name, pool.tokens, 1, self.load_s + encode + pool.tokens * (plain + directions)))
        return stages

    def _drift(self, memory: MemoryPlan) -> StagePlan:
        tokens, rates, seconds = self.left.compared_rows * self.pool.mean_tokens, self.rates, 0.0
        name = "moments" if self.config.inversion == "kfac" else "squares"  # what the trial measures of the two
        for partition in memory.partitions:
            own = [self.model.layers[index] for index in partition]
            seconds += self._pass_s(tokens, memory.token_batch_size, rates.passes.head, self._depth(partition))
            seconds += tokens * self._padded(memory.token_batch_size) * rates.of_layers(name, own)
        return StagePlan("drift", tokens, len(memory.partitions), seconds)

    def _selection(self) -> list[StagePlan]:
        costs, rates, pass_s = self.redundancy, self.rates.passes, 0.0
        if self.left.entries:
            head = rates.head or rates.losses
            pass_s = self._pass_s(costs.entry_tokens, self.sweep.token_batch_size, head, 0.0)
        return selection_stages(self.selection, costs, pass_s)


def selection_stages(selection: SelectionRates, costs: RedundancyCosts, entries_s: float = 0.0) -> list[StagePlan]:
    """Return the stages after the sweep. `entries_s`: seconds in which the evaluation set passes the model."""
    stages = []
    if selection.cluster_s is not None:
        stages.append(StagePlan("cluster", 0, 1, selection.cluster_s))
    if costs.sources_s:
        stages.append(StagePlan("sources", 0, 1, costs.sources_s))
    if costs.exclude_s:
        stages.append(StagePlan("exclude", costs.entry_tokens, 1, costs.exclude_s + entries_s))
    return [*stages, StagePlan("select", 0, 1, selection.select_s + costs.similar_s)]


def with_done(stages: Sequence[StagePlan], left: Left) -> list[StagePlan]:
    """Return stages with the share of each that is done."""
    return [replace(stage, done=left.share_done(stage.name)) for stage in stages]


def done_stages(
    config: Config, pool: PoolSize, seed_tokens: int, record: RunRecord | None
) -> dict[str, list[StagePlan]]:
    """Return the stages of a fit and of a sweep as a run that has them has done them, with no seconds.

    Args:
        config: the options.
        pool: rows and tokens.
        seed_tokens: tokens of the seeds.
        record: of the run.
    """
    fit: list[StagePlan] = []
    stage = record.stages.fit if record is not None else None
    probe = min(config.probe_rows, pool.rows) * pool.mean_tokens if config.gradients else 0.0
    if config.gradients and config.inversion != "identity":
        curvature, passes = stage and stage.curvature, max(1, len(stage.partitions) if stage is not None else 1)
        tokens = curvature.tokens if curvature else pool.fit_tokens(config)
        fit = [StagePlan("fit: factors", tokens, passes, 0.0), StagePlan("fit: eigenvectors", 0, 1, 0.0)]
        if config.inversion != "kfac":
            fit.append(StagePlan("fit: eigenvalues", tokens, passes, 0.0))
    sweep = [StagePlan("sweep", pool.tokens, 1, 0.0)]
    if config.gradients:
        fit.append(StagePlan("fit: seeds", seed_tokens + probe, 1, 0.0))
        if config.inversion == "cg":
            fit.append(StagePlan("fit: conjugate gradients", 0, 1, 0.0))
        first = [StagePlan("sweep: scale", probe, 1, 0.0), StagePlan("sweep: seeds", seed_tokens, 1, 0.0)]
        sweep = [*first, *sweep]
    for number in range(1, len(config.checkpoints) + 1):
        name = f"checkpoint {number} of {len(config.checkpoints)}"
        sweep += [StagePlan(f"{name}: seeds", seed_tokens, 1, 0.0), StagePlan(name, pool.tokens, 1, 0.0)]
    return {"fit": fit, "sweep": sweep}
