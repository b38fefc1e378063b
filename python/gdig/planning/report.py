"""The plan of a run: what will be done and what it will cost, as numbers, as JSON and in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from gdig.influence.memory_plan import MemoryParts
from gdig.meter import duration
from gdig.planning.pool_size import PoolSize
from gdig.planning.run_trial import Rates
from gdig.planning.stages import StagePlan


@dataclass(frozen=True)
class RunPlan:
    """What `gdig select` would do with the same options. As text, it is what `gdig plan` prints.

    Attributes:
        model: class, dtype, device, and the chosen layers, in words; where no stage to come needs it, that it is not
            loaded.
        layers: names of the chosen layers.
        coverage: share of the weights beside the embeddings that the layers have; None in a run that does not say.
        pool: rows and tokens.
        seeds: rows of the seeds.
        seed_tokens: their tokens.
        renderings: how the rows of each file become text, of `candidates` and of `seeds`.
        stages: parts of the run in order.
        spread: share by which the time can be off: the spread of the trial, and the error of the pool's tokens.
        token_batch_size: tokens in a batch of the fit; None where no curvature is to come.
        sweep_batch_size: tokens in a batch of the sweep; None where no rows have to pass.
        dense_bytes: memory of the seeds' dense gradients in the sweep.
        partitions: layers of each partition of the fit.
        memory: what each pass to come holds, by the pass.
        other_memory: bytes that the process holds besides: Python, torch, and what they have loaded.
        free_memory: bytes of the device's memory that are free beside the weights; None where that is not known.
        disk: bytes of the files to come, by what they hold. A fit removes its resume files.
        free_disk: bytes free on the disk of run_path.
        rates: what the trial measured; None where no stage to come needs the model.
        notes: what is worth knowing before the start.
        cheaper: what would lower the cost, with the seconds that would be left.
    """

    model: str
    layers: tuple[str, ...]
    coverage: float | None
    pool: PoolSize
    seeds: int
    seed_tokens: int
    renderings: Mapping[str, tuple[str, ...]]
    stages: tuple[StagePlan, ...]
    spread: float
    token_batch_size: int | None
    sweep_batch_size: int | None
    dense_bytes: int
    partitions: tuple[int, ...]
    memory: Mapping[str, MemoryParts]
    other_memory: int
    free_memory: int | None
    disk: Mapping[str, int]
    free_disk: int
    rates: Rates | None
    notes: tuple[str, ...]
    cheaper: tuple[tuple[str, float], ...]

    @property
    def seconds(self) -> float:
        """Seconds of what is not done."""
        return sum(stage.left_s for stage in self.stages)

    @property
    def peak_memory(self) -> int:
        """Bytes of the process at its peak."""
        return self.other_memory + max((peak.total for peak in self.memory.values()), default=0)

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def lines(self) -> list[str]:
        """Return the plan as lines of text."""
        pool = self.pool
        about = "" if pool.sampled == pool.rows else f" +- {100 * pool.error / pool.tokens:.0f} %"
        trial = "" if self.rates is None else f" (from a trial of {duration(self.rates.seconds)})"
        sample = "" if pool.sampled == pool.rows else f" (from {pool.sampled:,} rows)"
        return [
            f"model: {self.model}",
            f"pool: {pool.rows:,} rows, {pool.tokens:,.0f} tokens{about}{sample}; {pool.mean_tokens:.0f} a row, the "
            f"longest {pool.longest:,}; {pool.cut:.1%} cut to the window, {pool.not_usable:.1%} not usable",
            f"seeds: {self.seeds:,} rows, {self.seed_tokens:,} tokens",
            f"text: {self._renderings()}",
            *(f"note: {note}" for note in self.notes),
            "",
            *self._stage_table(),
            "",
            f"time: {duration(self.seconds)}, +- {100 * self.spread:.0f} %{trial}",
            f"memory: {_size(self.peak_memory)} at the peak ({self._peak()})" + self._free(),
            *self._batches(),
            f"disk: {_size(sum(self.disk.values()))} ({_largest_first(self.disk)}); {_size(self.free_disk)} free",
            *(f"cheaper: {change} takes {duration(seconds)}" for change, seconds in self.cheaper),
        ]

    def as_json(self) -> dict[str, Any]:
        """Return the plan as values of JSON."""
        pool = {f.name: getattr(self.pool, f.name) for f in fields(self.pool) if f.name != "examples"}
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        return own | {
            "layers": list(self.layers),
            "pool": pool | {"mean_tokens": self.pool.mean_tokens, "longest": self.pool.longest},
            "stages": [asdict(stage) for stage in self.stages],
            "seconds": self.seconds,
            "renderings": {name: list(renderings) for name, renderings in self.renderings.items()},
            "partitions": list(self.partitions),
            "memory": {name: asdict(peak) for name, peak in self.memory.items()},
            "peak_memory": self.peak_memory,
            "disk": dict(self.disk),
            "rates": None if self.rates is None else self.rates.as_json(),
            "notes": list(self.notes),
            "cheaper": [{"change": change, "seconds": seconds} for change, seconds in self.cheaper],
        }

    def _stage_table(self) -> list[str]:
        width = max(len(stage.name) for stage in self.stages)
        lines = []
        for stage in self.stages:
            tokens = f"{stage.tokens:,.0f} tokens" if stage.tokens else ""
            if stage.passes > 1:
                tokens += f" x {stage.passes} passes"
            time = "done" if stage.done == 1 else duration(stage.left_s)
            if 0 < stage.done < 1:
                tokens += f", {stage.done:.0%} done"
            lines.append(f"  {stage.name:<{width}}  {time:>10}  {tokens}".rstrip())
        return lines

    def _renderings(self) -> str:
        pool, seeds = (" and ".join(dict.fromkeys(self.renderings[name])) for name in ("candidates", "seeds"))
        return pool if pool == seeds else f"the pool as {pool}, the seeds as {seeds}"

    def _batches(self) -> list[str]:
        parts, n = [], len(self.partitions)
        if self.token_batch_size is not None:
            partitions = f"{n} partitions of the layers" if n > 1 else "all layers at once"
            parts.append(f"{self.token_batch_size:,} tokens in the fit ({partitions})")
        if self.sweep_batch_size is not None:
            parts.append(f"{self.sweep_batch_size:,} tokens in the sweep")
        return [f"batches: {', '.join(parts)}"] if parts else []

    def _peak(self) -> str:
        """What holds the memory of the pass that takes most."""
        if not self.memory:
            return "Python and torch; no stage to come passes the model"
        name, peak = max(self.memory.items(), key=lambda item: item[1].total)
        sizes = {field.name.replace("_", " "): getattr(peak, field.name) for field in fields(peak)}
        return f"{name}: {_largest_first({**sizes, 'Python and torch': self.other_memory})}"

    def _free(self) -> str:
        return "" if self.free_memory is None else f"; {_size(self.free_memory)} free beside the weights"


def _largest_first(sizes: Mapping[str, int]) -> str:
    """Name sizes from the largest to the smallest, without those that do not matter."""
    total = sum(sizes.values())
    ordered = sorted(sizes.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {_size(size)}" for name, size in ordered if size and 100 * size >= total) or "nothing"


def _size(n_bytes: int) -> str:
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if n_bytes >= scale:
            number = n_bytes / scale
            return f"{number:.0f} {unit}" if number >= 10 else f"{number:.1f} {unit}"
    return f"{n_bytes / 1e3:.0f} kB"
