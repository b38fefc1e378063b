"""The sweep: one forward and backward pass over the pool, which gives influence and sketch together."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from gdig import ops
from gdig.config import Config
from gdig.data.corpus import Corpus
from gdig.data.tokens import Encoder, Example
from gdig.errors import CorpusError
from gdig.model.batches import Batch, make_batches
from gdig.model.capture import GradientPass
from gdig.model.load import Model
from gdig.model.memory import Fitting
from gdig.progress import Bar, Progress
from gdig.stages.duplicates import count_duplicates
from gdig.stages.fit import read_seed_factors
from gdig.stages.seeds import SeedFactors
from gdig.stages.sketch import make_projection
from gdig.store import SketchStore
from gdig.workspace import Workspace

# Headroom below float16's largest number, 65504, for a row that has to be scaled down to fit.
_FLOAT16_MAX = 60000.0


@dataclass
class Sweeper:
    """Computes shards of the sweep.

    `seeds` are the layers' seed factors; `scale` multiplies every sketch, a power of two that brings float16 to the
    middle of its range (see `sketch_scale`).
    """

    model: Model
    seeds: Sequence[SeedFactors]
    config: Config
    progress: Progress
    scale: float = 1.0

    def __post_init__(self) -> None:
        c = self.config
        self._fitting: Fitting = Fitting(c.token_batch_size, self.model.device, self.progress)
        self._gradients = GradientPass(self.model, c.loss_reduction)
        self._dtype = torch.promote_types(self.model.dtype, torch.float32)
        self._n_seeds = len(self.seeds[0].column_offsets) - 1
        self._projections = [
            make_projection(
                layer, c.projection_side, c.projection_dim, c.projection_seed, self._dtype, self.model.device
            )
            for layer in self.model.layers
        ]

    def shard(
        self, corpus: Corpus, encoder: Encoder, start: int, stop: int, bar: Bar | None = None
    ) -> dict[str, np.ndarray]:
        """Compute rows start .. stop - 1 of the pool.

        Returns:
            The shard's tensors: sketch [n, dim] float32, influence [n, S] float32, loss [n] float32, tokens and cut [n]
            int32, valid [n] uint8, hash [n] uint64. A row that is not valid has sketch and influence 0 and loss NaN; if
            it could not even be read, tokens 0.

        Raises:
            CorpusError: on the first row that cannot be used, when bad_rows is "error".
        """
        examples, places = [], []
        for place, example in enumerate(encoder.encode(corpus, range(start, stop))):
            if isinstance(example, CorpusError):
                if self.config.bad_rows == "error":
                    raise example
                self.progress.warn(f"not usable, skipped: {example}")
                continue
            examples.append(example)
            places.append(place)
        if bar is not None:
            bar.advance(stop - start - len(examples))
        index = np.array(places, dtype=np.int64)
        influence, sketch, loss = self.compute(examples, bar)
        usable = np.isfinite(loss) & np.isfinite(influence).all(1) & np.isfinite(sketch).all(1)
        sketch *= self.scale
        self._fit_range(sketch, usable)
        shard = self._empty(stop - start)
        good = index[usable]
        shard["sketch"][good], shard["influence"][good], shard["loss"][good] = (
            sketch[usable], influence[usable], loss[usable],
        )  # fmt: skip
        shard["valid"][good] = 1
        shard["tokens"][index] = [len(example.input_ids) for example in examples]
        shard["cut"][index] = [example.cut for example in examples]
        shard["hash"][index] = np.array([example.hash for example in examples], dtype=np.uint64)
        return shard

    def compute(self, examples: Sequence[Example], bar: Bar | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Influence [n, S], unscaled sketch [n, dim] and loss [n] of examples, in their order; float32."""
        n = len(examples)
        influence = np.zeros((n, self._n_seeds), np.float32)
        sketch = np.zeros((n, self.config.projection_dim), np.float32)
        loss = np.full(n, np.nan, np.float32)
        batches = make_batches(examples, self._fitting.token_batch_size, window=self.model.window)
        for batch, result in self._fitting.each(batches, lambda batch, _: self._batch(batch)):
            influence[batch.rows], sketch[batch.rows], loss[batch.rows] = result
            if bar is not None:
                bar.advance(len(batch.rows))
        return influence, sketch, loss

    def _batch(self, batch: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        offsets = batch.offsets
        lines = len(batch.rows)
        influence = torch.zeros(lines, self._n_seeds, dtype=self._dtype, device=self.model.device)
        sketch = torch.zeros(lines, self.config.projection_dim, dtype=self._dtype, device=self.model.device)

        def sink(index: int, a: torch.Tensor, d: torch.Tensor, keep: torch.Tensor) -> None:
            seeds, projection = self.seeds[index], self._projections[index]
            ops.score(a, d, offsets, seeds.u, seeds.v, seeds.column_offsets, influence)
            ops.project(a, d, offsets, projection.q, projection.p, projection.columns, projection.signs, sketch)

        loss = self._gradients.run(batch, sink)
        return influence.float().cpu().numpy(), sketch.float().cpu().numpy(), loss

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
        arguments = {"missing": missing, "dtype": run.stage("fit")["dtype"], "scale": run.stage("sweep").get("scale")}
        work.ranks.task("sweep", **arguments)
        sweep_shards(work, **arguments)
    left = store.missing(n)
    if left:
        whole = -(-n // store.rows_per_shard)
        work.progress.say(
            f"sweep: {whole - len(left)} of {whole} shards are there; gdig merge adds those of other parts"
        )
        return False
    counts = count_rows(SketchStore.open(run.path / "sweep"), work)
    run.record("sweep", **counts)
    work.progress.say("sweep: " + ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in counts.items()))
    return True


def sweep_shards(work: Workspace, missing: list[int], dtype: str, scale: float | None) -> None:
    """Write the shards `missing`, whoever is free taking the next: every rank is here with the same arguments.

    Args:
        work: this rank's.
        missing: shards to write.
        dtype: name of the dtype that the fit ran in.
        scale: of the sketches; None to have rank 0 find and record it.
    """
    ranks, n = work.ranks, len(work.candidates)
    sweeper = Sweeper(work.model, read_seed_factors(work, dtype), work.config, work.progress)
    if scale is None:
        if ranks.main:
            scale = sketch_scale(sweeper, work.sample("probe", work.config.probe_rows)[0])
            work.run.record("sweep", scale=scale)
        scale = ranks.gather(scale)[0]
    sweeper.scale = scale
    store = SketchStore.open(work.path / "sweep")
    step = store.rows_per_shard
    spans = {shard: (shard * step, min(n, (shard + 1) * step)) for shard in missing}
    done = n - sum(stop - start for start, stop in spans.values())
    with work.progress.stage("sweep", n, done=done) as shown:
        bar = ranks.shared(shown)
        for number in ranks.claim(len(missing)):
            start, stop = spans[missing[number]]
            ranks.doing(f"sweep, rows {start} to {stop - 1}")
            store.write_shard(missing[number], sweeper.shard(work.candidates, work.encoder, start, stop, bar))
        ranks.doing("sweep, all shards taken")
        ranks.gather(None, bar)


def in_part(shard: int, part: str | None) -> bool:
    """Whether a shard belongs to the part "K/N" of a sweep: shards K - 1, K - 1 + N, ...; None is all of it."""
    if part is None:
        return True
    k, n = map(int, part.split("/"))
    return shard % n == k - 1


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
