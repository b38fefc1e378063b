"""A pass over rows of the pool: a model passes batches, and each row gets its features."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np
import torch

from gdig.config.config import Config
from gdig.data.tokens import Example
from gdig.model.batch_runner import BatchRunner
from gdig.model.batch_size import CPU_TOKENS, resolve_token_batch_size, typical_length
from gdig.model.batches import Batch, make_batches
from gdig.model.capture import GradientPass, StatesSink
from gdig.model.causal_model import Model
from gdig.model.forward import forward_losses
from gdig.model.host_copy import HostCopy
from gdig.model.places import ExpertPlaces, Places
from gdig.model.precision import float32_products
from gdig.passes.encode_ahead import EncodedShard
from gdig.passes.hidden_states import HiddenSketch
from gdig.passes.in_flight import Flight, RowNumbers, SpanRows
from gdig.passes.shard_resume import ShardResume
from gdig.progress import Bar, Progress

_FLOAT16_MAX = 60000.0
"""The largest entry of a sketch that is scaled down for float16. float16's largest number is 65504."""
_IN_FLIGHT = 2
"""Batches whose results are on the way from the device while the next batch starts."""

Add = Callable[[int, torch.Tensor, torch.Tensor, Places, torch.Tensor, torch.Tensor], None]
"""f(index, a [T, I], d [T, O], places, sums [B, width], sketch [B, dim]) adds a layer to the sums of one batch."""

AddExperts = Callable[[Sequence[int], torch.Tensor, torch.Tensor, ExpertPlaces, torch.Tensor, torch.Tensor], None]
"""f(indices, a [R, I], d [R, O], places, sums, sketch) adds the layers of a matrix of experts at once."""


class RowFeatures(Protocol):
    """The numbers that a pass computes for each row: a number for each of S seeds, and a sketch.

    Attributes:
        name: the name of the tensor [n, S] in the shards.
        columns: S.
        width: the number of columns of the sums. `end` turns them into S numbers.
        cpu_tokens: the largest batch that gains time on a CPU.
    """

    name: str
    columns: int
    width: int
    cpu_tokens: int

    def begin(self) -> tuple[Add, AddExperts | None]:
        """Begin a batch: return the function that adds a layer to the batch's sums, and the one that adds the layers of
        a matrix of experts at once. None: these are added one by one."""

    def end(self, sums: torch.Tensor, sketch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Turn the sums [B, width] and [B, dim] of a batch into the numbers of the shard: [B, S] and [B, dim]."""


class NoGradients:
    """Stands for the features of a pass without gradients: no seed has a number, and the sketch is that of the hidden
    states."""

    name = "influence"
    columns = width = 0
    cpu_tokens = CPU_TOKENS


class RowPass:
    """A pass of the model over rows of the pool. The pass computes shards.

    Args:
        model: the frozen model.
        features: the numbers of each row. `NoGradients` needs `hidden`.
        config: options of the pass.
        progress: prints warnings.
        scale: a factor for every sketch.
        hidden: the hidden-state sketch, for shards that have one.
    """

    def __init__(
        self,
        model: Model,
        features: RowFeatures | NoGradients,
        config: Config,
        progress: Progress,
        scale: float = 1.0,
        hidden: HiddenSketch | None = None,
    ) -> None:
        self.model, self.features, self.config, self.progress = model, features, config, progress
        self.scale, self._hidden = scale, hidden
        tokens = first_batch_size(config)
        self.batch_runner: BatchRunner = BatchRunner(tokens, model.device, progress, model.save_memory)
        self._gradients = GradientPass(model, config.loss_reduction, mask_not_finite=False)
        self._dtype = sum_dtype(model)
        self._devices = list(dict.fromkeys(layer.device for layer in model.layers))
        self._flight = Flight(_IN_FLIGHT)

    @property
    def overlaps(self) -> bool:
        """Whether the last batches of a shard are still on the device when the next shard starts. On a CPU a batch is
        complete when it returns."""
        return self.model.device.type != "cpu"

    def _batch(self, batch: Batch) -> HostCopy:
        vectors: list[torch.Tensor] = []

        def sketch_states(states: tuple[torch.Tensor, ...]) -> None:
            assert self._hidden is not None
            vectors.append(self._hidden.of(states, batch).float())

        if isinstance(self.features, NoGradients):
            with float32_products(self.config.matmul_precision):
                loss = forward_losses(self.model, batch, self.config.loss_reduction, sketch_states)
            return HostCopy((loss.new_zeros(len(loss), 0), vectors[0], loss, vectors[0]))
        numbers, sketch, loss = self._gradient_batch(batch, sketch_states if self._hidden is not None else None)
        hidden = vectors[0].to(numbers.device) if vectors else numbers.new_zeros(len(numbers), 0)
        return HostCopy((numbers.float(), sketch.float(), loss.to(numbers.device), hidden))

    def _gradient_batch(
        self, batch: Batch, states_sink: StatesSink | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return features [B, S], sketch [B, dim] and loss [B] of a batch."""
        assert not isinstance(self.features, NoGradients)
        lines = len(batch.rows)
        # The layers of a large model are on several devices; each device has its own sums.
        by_device = {
            device: (
                torch.zeros(lines, self.features.width, dtype=self._dtype, device=device),
                torch.zeros(lines, self.config.projection_dim, dtype=self._dtype, device=device),
            )
            for device in self._devices
        }
        add, add_experts = self.features.begin()

        def experts_sink(indices: Sequence[int], a: torch.Tensor, d: torch.Tensor, places: ExpertPlaces) -> None:
            assert add_experts is not None
            add_experts(indices, a, d, places, *by_device[self.model.layers[indices[0]].device])

        def sink(index: int, a: torch.Tensor, d: torch.Tensor, places: Places) -> None:
            add(index, a, d, places, *by_device[self.model.layers[index].device])

        with float32_products(self.config.matmul_precision):
            of_experts = None if add_experts is None else experts_sink
            loss = self._gradients.run(batch, sink, states_sink, experts_sink=of_experts)
        (sums, sketch), *further_devices = by_device.values()
        for device_sums, device_sketch in further_devices:
            sums += device_sums.to(sums.device)
            sketch += device_sketch.to(sketch.device)
        return *self.features.end(sums, sketch), loss

    def shard(
        self,
        encoded: EncodedShard,
        then: Callable[[dict[str, np.ndarray]], object],
        bar: Bar | None = None,
        *,
        resume: ShardResume | None = None,
        quiet: bool = False,
    ) -> None:
        """Compute one shard of the pool.

        It is called in a block of :meth:`landing`. Where passes overlap, its last batches may end after the return,
        during the next shard.

        Args:
            encoded: the rows of the shard.
            then: called with the tensors of the shard, once, as soon as they are complete.
            bar: a bar with one unit a row.
            resume: has the rows that an earlier start has done, and keeps those of this start.
            quiet: print no warning for a row that cannot be used.

        The tensors of the shard's n rows by name:

        - sketch [n, dim] float32
        - the features [n, S] float32, under the name of the features
        - hidden [n, dim] float16, if the pass has a hidden-state sketch
        - loss [n] float32
        - tokens and cut [n] int32
        - valid [n] uint8
        - hash [n] uint64

        An invalid row has sketch, features and hidden 0 and loss NaN. A row that cannot be encoded also has tokens 0.

        Raises:
            CorpusError: if a row cannot be used and bad_rows is "error"; it is the error of the first such row.
        """
        for error in encoded.errors:
            if self.config.bad_rows == "error":
                raise error
            if not quiet:
                self.progress.warn(f"row skipped, because it cannot be used: {error}")
        if bar is not None:
            bar.advance(len(encoded.errors))
        self._start(
            len(encoded.positions), encoded.batches, bar, resume, lambda rows: then(self._tensors(encoded, rows))
        )
        if not self.overlaps:
            self._flight.land()

    @contextlib.contextmanager
    def landing(self) -> Iterator[None]:
        """A block that computes shards, and that ends when all of them are complete. After an error in the block, a
        shard whose batches have all started is still completed, and the rows of the other are kept."""
        try:
            yield
        except BaseException:
            self._flight.save()
            raise
        self._flight.land()

    def _tensors(self, encoded: EncodedShard, rows: RowNumbers) -> dict[str, np.ndarray]:
        numbers, sketch, loss, hidden = rows
        positions = encoded.positions
        usable = np.isfinite(loss)
        for columns in (numbers, sketch, hidden):
            usable &= np.isfinite(columns).all(1)
        sketch *= self.scale
        self._fit_range(sketch, usable)
        shard = self._empty(encoded.stop - encoded.start)
        valid = positions[usable]
        shard["sketch"][valid], shard["loss"][valid] = sketch[usable], loss[usable]
        shard[self.features.name][valid] = numbers[usable]
        if self._hidden is not None:
            shard["hidden"][valid] = hidden[usable]
        shard["valid"][valid] = 1
        for name, column in (("tokens", encoded.tokens), ("cut", encoded.cut), ("hash", encoded.hash)):
            shard[name][positions] = column
        return shard

    def batches_of(self, examples: Sequence[Example]) -> list[Batch]:
        """Return the batches of examples."""
        model, size = self.model, self.batch_runner.token_batch_size
        return make_batches(examples, size, window=model.window, rotary_switch=model.rotary_switch)

    def compute(
        self, examples: Sequence[Example], bar: Bar | None = None, resume: ShardResume | None = None
    ) -> RowNumbers:
        """Compute the numbers of examples. `resume`: has those that an earlier start has done, and keeps those of this
        start."""
        made: list[RowNumbers] = []
        with self.landing():
            self._start(len(examples), self.batches_of(examples), bar, resume, made.append)
        return made[0]

    def _start(
        self,
        n: int,
        batches: Sequence[Batch],
        bar: Bar | None,
        resume: ShardResume | None,
        then: Callable[[RowNumbers], object],
    ) -> None:
        dim = self.config.projection_dim
        rows = RowNumbers(
            np.zeros((n, self.features.columns), np.float32),
            np.zeros((n, dim), np.float32),
            np.full(n, np.nan, np.float32),
            np.zeros((n, dim if self._hidden is not None else 0), np.float32),
        )
        span = SpanRows(rows, bar, resume, then)
        for batch, result in self.batch_runner.run(span.missing(batches), lambda batch, _: self._batch(batch)):
            self._flight.add(span, batch, result)
        span.end_starts()

    def find_batch_size(self, examples: Sequence[Example], limit: int | None = None) -> int:
        """Resolve token_batch_size="auto" by a trial on the device, with lines of the length of these examples.

        `limit`: bytes for a batch. None: what a plan may take beside all that the device holds now.
        """
        size = resolve_token_batch_size(
            self.config.token_batch_size,
            self.model,
            self._batch,
            typical_length(examples),
            limit=limit,
            cpu_tokens=self.features.cpu_tokens,
        )
        self.batch_runner.token_batch_size = size
        return size

    def _fit_range(self, sketch: np.ndarray, usable: np.ndarray) -> None:
        """Scale down, in place, the rows that float16 cannot hold. A scaled row has the same direction."""
        if self.config.sketch_dtype != "float16":
            return
        largest = np.abs(sketch).max(axis=1, initial=0.0)
        too_large = usable & (largest > _FLOAT16_MAX)
        sketch[too_large] *= (_FLOAT16_MAX / largest[too_large])[:, None]
        if too_large.any():
            self.progress.warn(
                "sweep: some gradients are more than 10,000 times the usual length; their sketches were scaled down to "
                "fit float16"
            )

    def _empty(self, n: int) -> dict[str, np.ndarray]:
        dim = self.config.projection_dim
        hidden = {} if self._hidden is None else {"hidden": np.zeros((n, dim), np.float16)}
        return {
            **hidden,
            "sketch": np.zeros((n, dim), np.float32),
            self.features.name: np.zeros((n, self.features.columns), np.float32),
            "loss": np.full(n, np.nan, np.float32),
            "tokens": np.zeros(n, np.int32),
            "cut": np.zeros(n, np.int32),
            "valid": np.zeros(n, np.uint8),
            "hash": np.zeros(n, np.uint64),
        }


def first_batch_size(config: Config) -> int:
    """Return the number of tokens in a batch before the trial of token_batch_size="auto"."""
    return config.token_batch_size if isinstance(config.token_batch_size, int) else CPU_TOKENS


def sum_dtype(model: Model) -> torch.dtype:
    """Return the dtype of sums over a model's numbers: float64 for a float64 model, or else float32."""
    return torch.promote_types(model.dtype, torch.float32)
