"""The validation features of LESS: what is kept of each seed's gradient by the weights of a training checkpoint.

A start that stops keeps the seeds that are done, and one that goes on with the rows takes all of them from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from gdig.config.config import Config
from gdig.data.tokens import Example
from gdig.errors import NotFiniteError, StoreError
from gdig.influence.seeds_resume import PartitionSeeds
from gdig.model.batches import Batch, make_batches
from gdig.model.capture import GradientPass
from gdig.model.causal_model import Model
from gdig.model.places import Places
from gdig.model.precision import float32_products
from gdig.passes.gradient_projections import GradientProjections
from gdig.passes.row_pass import first_batch_size
from gdig.progress import Bar
from gdig.store.resume_file import Tensors
from gdig.store.tensor_file import Named


@dataclass(frozen=True)
class SeedGradients:
    """What AdamFeatures needs of the seeds' gradients, all of it over the lengths of the gradients.

    sketches: float32 [S, dim]. projected: of each layer [K, S].
    """

    sketches: NDArray[np.float32]
    projected: list[torch.Tensor]


@dataclass
class _Seed:
    """A seed's gradient while its batch passes: squared length, sketch [dim], and the projection [K] in each layer."""

    square: torch.Tensor
    sketch: torch.Tensor
    projected: list[torch.Tensor]

    def content(self) -> tuple[Tensors, dict[str, str]]:
        """Return the tensors and the metadata of a file."""
        layers = {f"projected{i}": x.cpu().numpy() for i, x in enumerate(self.projected)}
        return {"square": self.square.numpy()[None], "sketch": self.sketch.numpy(), **layers}, {}


def seed_batches(model: Model, seeds: Sequence[Example], config: Config) -> list[Batch]:
    """Return the batches of the seeds, which are the same at every start."""
    size = first_batch_size(config)
    return make_batches(seeds, size, window=model.window, rotary_switch=model.rotary_switch)


def pass_seeds(
    model: Model,
    projections: GradientProjections,
    seeds: Sequence[Example],
    config: Config,
    bar: Bar | None = None,
    resume: PartitionSeeds | None = None,
) -> SeedGradients:
    """Pass the seeds through a checkpoint.

    Args:
        model: the checkpoint's model with the trained layers.
        projections: of these layers.
        seeds: the validation examples.
        config: loss_reduction, matmul_precision, token_batch_size.
        bar: a bar with one unit a seed.
        resume: has the seeds of an earlier start, and keeps those of this start. It holds all of them at the end.

    Raises:
        NotFiniteError: if the loss of a seed is not finite; the message names the seed.
    """
    # A seed has a gradient of zeros at the experts that it does not go to.
    empty = [sides.apply(projections.zeros(index))[0] for index, sides in enumerate(projections.sides)]
    done = {} if resume is None else _load(resume, len(seeds), empty, config.projection_dim)
    batches = seed_batches(model, seeds, config)
    # A seed's bits depend on its batch. So all seeds of a batch pass, where one of them is missing.
    missing = [batch for batch in batches if not done.keys() >= set(batch.rows.tolist())]
    if bar is not None:
        again = {number for batch in missing for number in batch.rows.tolist()}
        finished = [number for number in range(len(seeds)) if number not in again]
        bar.skip(len(finished), tokens=sum(len(seeds[number]) for number in finished))
    try:
        for batch in missing:
            for number, seed in _pass(model, projections, batch, empty, config).items():
                if resume is not None and number not in done:
                    resume.keep(number, seed)
                done[number] = seed
            if bar is not None:
                bar.advance(len(batch.rows), tokens=int(batch.lengths.sum()))
    finally:
        if resume is not None:
            resume.save()
    return _join([done.pop(number) for number in range(len(seeds))], projections.dtype)


def _pass(
    model: Model, projections: GradientProjections, batch: Batch, empty: Sequence[torch.Tensor], config: Config
) -> dict[int, _Seed]:
    """Pass a batch, and return its seeds by number."""
    rows = batch.rows.tolist()
    squares = torch.zeros(len(rows), dtype=torch.float64)
    sketch = torch.zeros(len(rows), config.projection_dim, dtype=projections.dtype)
    projected = [list(empty) for _ in rows]

    def sink(index: int, a: torch.Tensor, d: torch.Tensor, places: Places) -> None:
        for lines, g in projections.gradients_of(index, a, d, places.examples):
            squares[lines] += g.flatten(1).square().sum(1, dtype=torch.float64).cpu()
            sketch[lines] += projections.sketch(index, g).cpu()
            numbers = range(len(rows))[lines] if isinstance(lines, slice) else lines
            for line, feature in zip(numbers, projections.sides[index].apply(g), strict=True):
                projected[line][index] = feature

    with float32_products(config.matmul_precision):
        losses = GradientPass(model, config.loss_reduction).run(batch, sink).cpu().numpy()
    for number, loss in zip(rows, losses, strict=True):
        if not np.isfinite(loss):
            raise NotFiniteError(
                f"seeds: seed {number}: its loss at this checkpoint is {loss}, expected a finite loss; check the "
                "seed and the weights of the checkpoint"
            )
    return {number: _Seed(squares[i], sketch[i], projected[i]) for i, number in enumerate(rows)}


def _join(seeds: list[_Seed], dtype: torch.dtype) -> SeedGradients:
    """Put the seeds side by side, over the lengths of their gradients. Each layer takes the place of its parts."""
    squares = torch.stack([seed.square for seed in seeds])
    lengths = torch.where(squares == 0, 1.0, squares.sqrt()).to(dtype)
    sketches = torch.stack([seed.sketch for seed in seeds]) / lengths[:, None]
    joined = []
    while seeds[0].projected:
        columns = [seed.projected.pop(0) for seed in seeds]
        joined.append(torch.stack(columns, dim=1) / lengths.to(columns[0].device))
    return SeedGradients(sketches.float().numpy(), joined)


def _load(resume: PartitionSeeds, n: int, empty: Sequence[torch.Tensor], dim: int) -> dict[int, _Seed]:
    """Return the seeds that an earlier start has done."""

    def decode(arrays: Named[NDArray[Any]], metadata: Named[str]) -> _Seed:
        name = str(empty[0].dtype).removeprefix("torch.")
        arrays.shaped({"dim": dim}, square="float64 1", sketch=f"{name} dim")
        arrays.shaped(
            {f"K{i}": len(x) for i, x in enumerate(empty)},
            **{f"projected{i}": f"{name} K{i}" for i in range(len(empty))},
        )
        if not all(np.isfinite(arrays[key]).all() for key in ("square", "sketch")):
            raise StoreError("a number is not finite")
        projected = [torch.from_numpy(np.array(arrays[f"projected{i}"])).to(x.device) for i, x in enumerate(empty)]
        return _Seed(torch.tensor(arrays["square"][0]), torch.from_numpy(np.array(arrays["sketch"])), projected)

    loaded = {number: resume.load(number, decode) for number in range(n)}
    return {number: seed for number, seed in loaded.items() if seed is not None}
