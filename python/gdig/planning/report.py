"""The plan of a run: what will be done and what it will cost, as numbers, as JSON and in words."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from gdig.influence.memory_plan import MemoryPlan
from gdig.planning.pool_size import PoolSize
from gdig.planning.trial import Rates
from gdig.progress import duration


@dataclass(frozen=True)
class StagePlan:
    """One pass of a stage, or another part of it.

    Attributes:
        name: as the bar of the run calls it.
        tokens: that go through the model.
        passes: how often the model passes these tokens: once for each partition of the layers.
        seconds: expected.
        done: whether the run in run_path has it.
    """

    name: str
    tokens: float
    passes: int
    seconds: float
    done: bool


@dataclass(frozen=True)
class RunPlan:
    """What `gdig select` would do with the same options.

    Attributes:
        model: class, dtype, device, and the chosen layers in words.
        pool: rows and tokens.
        seeds: rows of the seeds.
        seed_tokens: their tokens.
        stages: parts of the run in order.
        spread: share by which the time can be off: the spread of the trial, and the error of the pool's tokens.
        memory: bytes by pass and by what holds them.
        other_memory: bytes that the process holds besides: Python, torch, and what they have loaded.
        disk: bytes by stage.
        free_disk: bytes free on the disk of run_path.
        rates: what the trial measured; None when no stage is left that passes the model.
        notes: what is worth knowing before the start.
        cheaper: what would lower the cost, with the seconds that would be left.
    """

    model: str
    pool: PoolSize
    seeds: int
    seed_tokens: int
    stages: tuple[StagePlan, ...]
    spread: float
    memory: MemoryPlan
    other_memory: int
    disk: dict[str, int]
    free_disk: int
    rates: Rates
    notes: tuple[str, ...]
    cheaper: tuple[tuple[str, float], ...]

    @property
    def seconds(self) -> float:
        """Seconds of all stages that are not done."""
        return sum(stage.seconds for stage in self.stages if not stage.done)

    @property
    def peak_memory(self) -> int:
        """Bytes of the process at its peak."""
        return self.other_memory + self.memory.peak.total

    def lines(self) -> list[str]:
        """Return the plan as lines of text."""
        return plan_lines(self)

    def as_json(self) -> dict[str, Any]:
        """Return the plan as values of JSON."""
        pool = {f.name: getattr(self.pool, f.name) for f in fields(self.pool) if f.name != "examples"}
        return {
            "model": self.model,
            "pool": pool,
            "seeds": self.seeds,
            "seed_tokens": self.seed_tokens,
            "stages": [asdict(stage) for stage in self.stages],
            "seconds": self.seconds,
            "spread": self.spread,
            "token_batch_size": self.memory.token_batch_size,
            "sweep_batch_size": self.memory.sweep_batch_size,
            "partitions": len(self.memory.partitions),
            "memory": {name: asdict(parts) for name, parts in self.memory.passes.items()},
            "peak_memory": self.peak_memory,
            "disk": self.disk,
            "free_disk": self.free_disk,
            "rates": asdict(self.rates),
            "notes": list(self.notes),
            "cheaper": [{"change": change, "seconds": seconds} for change, seconds in self.cheaper],
        }


def plan_lines(plan: RunPlan) -> list[str]:
    """Return the lines that `gdig plan` prints."""
    pool, memory = plan.pool, plan.memory
    exact = pool.sampled == pool.rows
    about = "" if exact else f", +- {100 * pool.error / pool.tokens:.0f} %, from {pool.sampled:,} rows"
    batches = f"batches of {memory.token_batch_size:,} tokens in the fit, {memory.sweep_batch_size:,} in the sweep"
    lines = [
        f"model: {plan.model}",
        f"pool: {pool.rows:,} rows, {pool.tokens:,.0f} tokens{about}; {pool.mean_tokens:.0f} a row, the longest "
        f"{pool.longest:,}",
        f"seeds: {plan.seeds:,} rows, {plan.seed_tokens:,} tokens",
        *(f"note: {note}" for note in plan.notes),
        "",
        *_stage_table(plan),
        "",
        f"time: {duration(plan.seconds)} in all, +- {100 * plan.spread:.0f} % (from a trial of "
        f"{duration(plan.rates.seconds)})",
        f"memory: {_size(plan.peak_memory)} at the peak ({_peak(plan)}); {batches}",
        f"disk: {_size(sum(plan.disk.values()))} ({_parts(plan.disk)}), {_size(plan.free_disk)} free",
    ]
    if plan.cheaper:
        lines.append("cheaper: " + "; ".join(f"{change} takes {duration(seconds)}" for change, seconds in plan.cheaper))
    return lines


def _stage_table(plan: RunPlan) -> list[str]:
    width = max(len(stage.name) for stage in plan.stages)
    lines = []
    for stage in plan.stages:
        tokens = f"{stage.tokens:,.0f} tokens" if stage.tokens else ""
        if stage.passes > 1:
            tokens += f" x {stage.passes} passes"
        time = "done" if stage.done else duration(stage.seconds)
        lines.append(f"  {stage.name:<{width}}  {time:>10}  {tokens}".rstrip())
    return lines


def _peak(plan: RunPlan) -> str:
    """What holds the memory of the pass that takes most."""
    peak = plan.memory.peak
    name = next(name for name, parts in plan.memory.passes.items() if parts is peak)
    sizes = {part.name.replace("_", " "): getattr(peak, part.name) for part in fields(peak)}
    return f"{name}: {_parts({**sizes, 'Python and torch': plan.other_memory})}"


def _parts(sizes: dict[str, int]) -> str:
    """Name sizes from the largest to the smallest, without those that do not matter."""
    total = sum(sizes.values())
    ordered = sorted(sizes.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {_size(size)}" for name, size in ordered if 100 * size >= total) or "nothing"


def _size(n_bytes: int) -> str:
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if n_bytes >= scale:
            number = n_bytes / scale
            return f"{number:.0f} {unit}" if number >= 10 else f"{number:.1f} {unit}"
    return f"{n_bytes / 1e3:.0f} kB"
