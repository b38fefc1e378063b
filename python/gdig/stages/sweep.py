"""The sweep: one forward and backward pass over the pool, which gives influence and sketch together."""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from gdig.background import Background
from gdig.config import Config
from gdig.data.tokens import Example
from gdig.model.arriving import Arriving
from gdig.model.batches import Batch, make_batches
from gdig.model.capture import GradientPass
from gdig.model.load import Model
from gdig.model.memory import CPU_TOKENS, Fitting, resolve_token_batch_size, typical_length
from gdig.model.precision import float32_products
from gdig.progress import Bar, Progress
from gdig.stages.curvature import Factors
from gdig.stages.duplicates import count_duplicates
from gdig.stages.feed import EncodedShard, Feed
from gdig.stages.fit import read_curvature, read_seed_factors
from gdig.stages.health import look_at_seeds, warn_of_seeds
from gdig.stages.scoring import make_scorers
from gdig.stages.seeds import SeedFactors
from gdig.stages.sketch import Sketchers
from gdig.store import SketchStore, write_tensors
from gdig.workspace import Workspace

# Headroom below float16's largest number, 65504, for a row that has to be scaled down to fit.
_FLOAT16_MAX = 60000.0

# Batches whose results are still on their way from a device while the next one is launched.
_IN_FLIGHT = 2


@dataclass
class Sweeper:
    """Computes shards of the sweep.

    `seeds` are the layers' seed factors; `scale` multiplies every sketch, a power of two that brings float16 to the
    middle of its range (see `sketch_scale`). `factors` of the curvature are needed for sketch_space "fisher".
    """

    model: Model
    seeds: Sequence[SeedFactors]
    config: Config
    progress: Progress
    scale: float = 1.0
    factors: Iterable[Factors] | None = None

    def __post_init__(self) -> None:
        c = self.config
        tokens = c.token_batch_size if isinstance(c.token_batch_size, int) else CPU_TOKENS
        self.fitting: Fitting = Fitting(tokens, self.model.device, self.progress, self.model.save_memory)
        self._gradients = GradientPass(self.model, c.loss_reduction, mask_bad=False)
        self._dtype = torch.promote_types(self.model.dtype, torch.float32)
        self._n_seeds = len(self.seeds[0].column_offsets) - 1
        self._devices = list(dict.fromkeys(layer.device for layer in self.model.layers))
        self._scorers = make_scorers(self.seeds)
        self._sketchers = Sketchers(self.model, c, self._dtype, self.factors)

    def shard(self, encoded: EncodedShard, bar: Bar | None = None) -> dict[str, np.ndarray]:
        """Compute rows of the pool.

        Returns:
            The shard's tensors: sketch [n, dim] float32, influence [n, S] float32, loss [n] float32, tokens and cut [n]
            int32, valid [n] uint8, hash [n] uint64. A row that is not valid has sketch and influence 0 and loss NaN; if
            it could not even be read, tokens 0.

        Raises:
            CorpusError: on the first row that cannot be used, when bad_rows is "error".
        """
        for error in encoded.errors:
            if self.config.bad_rows == "error":
                raise error
            self.progress.warn(f"not usable, skipped: {error}")
        if bar is not None:
            bar.advance(len(encoded.errors))
        index = encoded.places
        influence, sketch, loss = self._run(len(index), encoded.batches, bar)
        usable = np.isfinite(loss) & np.isfinite(influence).all(1) & np.isfinite(sketch).all(1)
        sketch *= self.scale
        self._fit_range(sketch, usable)
        shard = self._empty(encoded.stop - encoded.start)
        good = index[usable]
        shard["sketch"][good], shard["influence"][good], shard["loss"][good] = (
            sketch[usable], influence[usable], loss[usable],
        )  # fmt: skip
        shard["valid"][good] = 1
        shard["tokens"][index], shard["cut"][index], shard["hash"][index] = encoded.tokens, encoded.cut, encoded.hash
        return shard

    def compute(self, examples: Sequence[Example], bar: Bar | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Influence [n, S], unscaled sketch [n, dim] and loss [n] of examples, in their order; float32."""
        batches = make_batches(examples, self.fitting.token_batch_size, window=self.model.window)
        return self._run(len(examples), batches, bar)

    def _run(self, n: int, batches: Sequence[Batch], bar: Bar | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        influence = np.zeros((n, self._n_seeds), np.float32)
        sketch = np.zeros((n, self.config.projection_dim), np.float32)
        loss = np.full(n, np.nan, np.float32)
        pending: deque[tuple[Batch, Arriving]] = deque()

        def collect() -> None:
            batch, result = pending.popleft()
            influence[batch.rows], sketch[batch.rows], loss[batch.rows] = result.numpy()
            if bar is not None:
                bar.advance(len(batch.rows))

        for one in self.fitting.each(batches, lambda batch, _: self._batch(batch)):
            pending.append(one)
            if len(pending) > _IN_FLIGHT:
                collect()
        while pending:
            collect()
        return influence, sketch, loss

    def _batch(self, batch: Batch) -> Arriving:
        examples, lines = batch.segments, len(batch.rows)
        # One pair of sums a device: the layers of a large model lie on several.
        sums = {
            device: (
                torch.zeros(lines, self._n_seeds, dtype=self._dtype, device=device),
                torch.zeros(lines, self.config.projection_dim, dtype=self._dtype, device=device),
            )
            for device in self._devices
        }
        add_sketch = self._sketchers.begin(examples)

        def sink(index: int, a: torch.Tensor, d: torch.Tensor, keep: torch.Tensor) -> None:
            influence, sketch = sums[self.model.layers[index].device]
            self._scorers[index].add(a, d, examples, influence)
            add_sketch(index, a, d, sketch)

        with float32_products(self.config.matmul_precision):
            loss = self._gradients.run(batch, sink)
        (influence, sketch), *others = sums.values()
        for more_influence, more_sketch in others:
            influence += more_influence.to(influence.device)
            sketch += more_sketch.to(sketch.device)
        return Arriving((influence.float(), sketch.float(), loss.to(influence.device)))

    def find_batch_size(self, examples: Sequence[Example]) -> int:
        """What token_batch_size="auto" means here, found on the device with lines as long as these examples."""
        size = resolve_token_batch_size(
            self.config.token_batch_size, self.model.device, self._batch, typical_length(examples)
        )
        self.fitting.token_batch_size = size
        return size

    def _fit_range(self, sketch: np.ndarray, usable: np.ndarray) -> None:
        """Scale rows down in place that float16 cannot hold; their direction stays."""
        if self.config.sketch_dtype != "float16":
            return
        largest = np.abs(sketch).max(axis=1, initial=0.0)
        over = usable & (largest > _FLOAT16_MAX)
        sketch[over] *= (_FLOAT16_MAX / largest[over])[:, None]
        if over.any():
            self.progress.warn("sweep: gradients 10,000 times the usual length were scaled down to fit float16")

    def _empty(self, n: int) -> dict[str, np.ndarray]:
        return {
            "sketch": np.zeros((n, self.config.projection_dim), np.float32),
            "influence": np.zeros((n, self._n_seeds), np.float32),
            "loss": np.full(n, np.nan, np.float32),
            "tokens": np.zeros(n, np.int32),
            "cut": np.zeros(n, np.int32),
            "valid": np.zeros(n, np.uint8),
            "hash": np.zeros(n, np.uint64),
        }


def sketch_scale(sweeper: Sweeper, probe: Sequence[Example]) -> float:
    """The power of two that brings the median row of `probe` to a root mean square of about 1 an entry.

    float16 then has 2^16 of room above and 2^14 below before it loses precision. k-means does not see the scale.
    """
    _, sketch, loss = sweeper.compute(probe)
    norms = np.linalg.norm(sketch[np.isfinite(loss)].astype(np.float64), axis=1)
    norms = norms[np.isfinite(norms) & (norms > 0)]
    if not len(norms):
        return 1.0
    return 2.0 ** -round(math.log2(float(np.median(norms)) / math.sqrt(sketch.shape[1])))


def sweep_stage(work: Workspace) -> bool:
    """Write the shards of the sweep that are missing, or those of them that `sweep_part` names; when all are there,
    count what the pool turned out to hold. Returns whether all are there."""
    config, run, n = work.config, work.run, len(work.candidates)
    store = _open_or_create(run.path / "sweep", work)
    missing = [shard for shard in store.missing(n) if in_part(shard, config.sweep_part)]
    if missing:
        run.record("sweep", rows=n)
        known = run.stage("sweep")
        arguments = {
            "missing": missing,
            "dtype": run.stage("fit")["dtype"],
            "scale": known.get("scale"),
            "token_batch_size": known.get("token_batch_size"),
        }
        work.ranks.task("sweep", **arguments)
        sweep_shards(work, **arguments)
    left = store.missing(n)
    if left:
        whole = -(-n // store.rows_per_shard)
        work.progress.say(
            f"sweep: {whole - len(left)} of {whole} shards are there; gdig merge adds those of other parts"
        )
        return False
    store = SketchStore.open(run.path / "sweep")
    counts = count_rows(store, work)
    losses = run.stage("fit")["seeds"]["losses"]
    health = look_at_seeds(store, losses)
    warnings = warn_of_seeds(health, losses, config.loss_reduction, lambda seed: work.seed_corpus.where(seed))
    run.record("sweep", **counts, seeds=health.facts(), warnings=warnings)
    work.progress.say("sweep: " + ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in counts.items()))
    for warning in warnings:
        work.progress.warn(warning)
    return True


def sweep_shards(
    work: Workspace, missing: list[int], dtype: str, scale: float | None, token_batch_size: int | None
) -> None:
    """Write the shards `missing`, whoever is free taking the next: every rank is here with the same arguments.

    Args:
        work: this rank's.
        missing: shards to write.
        dtype: name of the dtype that the fit ran in.
        scale: of the sketches; None to have rank 0 find and record it.
        token_batch_size: what "auto" was found to be; None to have rank 0 find and record it too.
    """
    ranks, n, config = work.ranks, len(work.candidates), work.config
    factors = read_curvature(work) if config.sketch_space == "fisher" else None
    sweeper = Sweeper(work.model, read_seed_factors(work, dtype), config, work.progress, factors=factors)
    if scale is None or token_batch_size is None:
        if ranks.main:
            probe = work.sample("probe", config.probe_rows)[0]
            token_batch_size = sweeper.find_batch_size(probe)
            scale = sketch_scale(sweeper, probe)
            work.run.record("sweep", scale=scale, token_batch_size=token_batch_size)
        scale, token_batch_size = ranks.gather([scale, token_batch_size])[0]
    sweeper.scale = scale
    if config.token_batch_size == "auto":  # the same in every start and rank, so that the bits are
        sweeper.fitting.token_batch_size = token_batch_size
    if ranks.main and not (file := seed_features_file(work.path)).exists():
        _, sketch, _ = sweeper.compute(work.seed_examples)
        write_tensors(file, {"sketch": sketch * scale})
    store = SketchStore.open(work.path / "sweep")
    step = store.rows_per_shard
    spans = [(shard * step, min(n, (shard + 1) * step)) for shard in missing]
    feed = Feed(work, spans, sweeper.fitting.token_batch_size, resolve_workers(config, work.model.device, len(spans)))
    done = n - sum(stop - start for start, stop in spans)
    with work.progress.stage("sweep", n, done=done) as shown:
        bar = ranks.shared(shown)
        # Written behind the next shard's pass; leaving the block waits for what is not written yet.
        with Background() as writer:
            for number, encoded in feed.over(ranks.claim(len(missing))):
                ranks.doing(f"sweep, rows {encoded.start} to {encoded.stop - 1}")
                writer.submit(store.write_shard, missing[number], sweeper.shard(encoded, bar))
        ranks.doing("sweep, all shards taken")
        ranks.gather(None, bar)


def seed_features_file(run_path: Path) -> Path:
    """The seeds' own sketches, of the same projections and scale as the pool's: tensor `sketch` float32 [S, dim]."""
    return run_path / "features" / "seeds.safetensors"


def in_part(shard: int, part: str | None) -> bool:
    """Whether a shard belongs to the part "K/N" of a sweep: shards K - 1, K - 1 + N, ...; None is all of it."""
    if part is None:
        return True
    k, n = map(int, part.split("/"))
    return shard % n == k - 1


def resolve_workers(config: Config, device: torch.device, shards: int) -> int:
    """How many processes tokenise ahead: as asked; by default none on the CPU, whose cores the model needs, nor for a
    pool of a few shards, whose pass may be over before they have started."""
    if config.workers is not None:
        return config.workers
    if device.type == "cpu" or shards < 4:
        return 0
    return max(1, min(4, (os.cpu_count() or 2) // max(1, torch.cuda.device_count()) - 1))


def count_rows(store: SketchStore, work: Workspace) -> dict[str, int]:
    """Count, over a finished sweep: rows, tokens, rows not usable, rows with a loss or gradient that is not finite,
    rows cut to the window, rows that repeat an earlier row, rows equal to a seed."""
    counts = dict.fromkeys(("rows", "tokens", "not_usable", "not_finite", "cut"), 0)
    for shard in range(store.n_shards):
        tokens, valid = store.tensor(shard, "tokens"), store.tensor(shard, "valid")
        counts["rows"] += len(tokens)
        counts["tokens"] += int(tokens.sum(dtype=np.int64))
        counts["not_usable"] += int(((valid == 0) & (tokens == 0)).sum())
        counts["not_finite"] += int(((valid == 0) & (tokens > 0)).sum())
        counts["cut"] += int((store.tensor(shard, "cut") > 0).sum())
    repeated, equal = count_duplicates(store, [seed.hash for seed in work.seed_examples])
    return {**counts, "repeat_another": repeated, "equal_to_a_seed": equal}


def _open_or_create(path: Path, work: Workspace) -> SketchStore:
    if (path / "store.json").is_file():
        return SketchStore.open(path)
    c = work.config
    return SketchStore.create(path, c.projection_dim, dtype=c.sketch_dtype, rows_per_shard=c.rows_per_shard)
