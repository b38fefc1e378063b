"""A pass over rows of the pool: batches through a model, and what each row gives."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
import torch

from gdig.config.config import Config
from gdig.data.tokens import Example
from gdig.model.batches import Batch, make_batches
from gdig.model.capture import GradientPass
from gdig.model.causal_model import Model
from gdig.model.host_copy import HostCopy
from gdig.model.memory import CPU_TOKENS, BatchRunner, resolve_token_batch_size, typical_length
from gdig.model.precision import float32_products
from gdig.ops import Segments
from gdig.passes.encode_ahead import EncodedShard
from gdig.progress import Bar, Progress

# Headroom below float16's largest number, 65504, for a row that has to be scaled down to fit.
_FLOAT16_MAX = 60000.0

# Batches whose results are still on their way from a device while the next one is launched.
_IN_FLIGHT = 2


Add = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], None]
"""f(index, a [T, I], d [T, O], sums [B, width], sketch [B, dim]): adds a layer to the sums of one batch."""


class RowFeatures(Protocol):
    """What a pass computes for each row: a number for each seed, and a sketch.

    name: of the tensor [n, S] in the shards. columns: S. width: columns of the sums, which `end` turns into S numbers.
    """

    name: str
    columns: int
    width: int

    def begin(self, examples: Segments) -> Add:
        """Begin a batch with these examples: return the function that adds a layer to the batch's sums."""

    def end(self, sums: torch.Tensor, sketch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Turn the sums [B, width], [B, dim] of a batch into what its shard stores: [B, S], [B, dim]."""


class RowPass:
    """A pass of the model over rows of the pool, which computes shards.

    Args:
        model: frozen, with its layers.
        features: what is computed for each row.
        config: options of the pass.
        progress: for warnings.
        scale: multiplies every sketch.
    """

    def __init__(
        self, model: Model, features: RowFeatures, config: Config, progress: Progress, scale: float = 1.0
    ) -> None:
        self.model, self.features, self.config, self.progress = model, features, config, progress
        self.scale = scale
        tokens = first_batch_size(config)
        self.batch_runner: BatchRunner = BatchRunner(tokens, model.device, progress, model.save_memory)
        self._gradients = GradientPass(model, config.loss_reduction, mask_not_finite=False)
        self._dtype = sum_dtype(model)
        self._devices = list(dict.fromkeys(layer.device for layer in model.layers))

    def _batch(self, batch: Batch) -> HostCopy:
        lines = len(batch.rows)
        # One pair of sums a device: the layers of a large model lie on several.
        by_device = {
            device: (
                torch.zeros(lines, self.features.width, dtype=self._dtype, device=device),
                torch.zeros(lines, self.config.projection_dim, dtype=self._dtype, device=device),
            )
            for device in self._devices
        }
        add = self.features.begin(batch.segments)

        def sink(index: int, a: torch.Tensor, d: torch.Tensor, mask: torch.Tensor) -> None:
            add(index, a, d, *by_device[self.model.layers[index].device])

        with float32_products(self.config.matmul_precision):
            loss = self._gradients.run(batch, sink)
        (sums, sketch), *others = by_device.values()
        for more_sums, more_sketch in others:
            sums += more_sums.to(sums.device)
            sketch += more_sketch.to(sketch.device)
        numbers, sketch = self.features.end(sums, sketch)
        return HostCopy((numbers.float(), sketch.float(), loss.to(numbers.device)))

    def shard(self, encoded: EncodedShard, bar: Bar | None = None, *, quiet: bool = False) -> dict[str, np.ndarray]:
        """Compute rows of the pool. quiet: say nothing of those that cannot be used.

        Returns:
            The shard's tensors: sketch [n, dim] float32, the features' numbers [n, S] float32 under their name, loss
            [n] float32, tokens and cut [n] int32, valid [n] uint8, hash [n] uint64. A row that is not valid has sketch
            and numbers 0 and loss NaN; a row that could not be read has tokens 0 too.

        Raises:
            CorpusError: on the first row that cannot be used, when bad_rows is "error".
        """
        for error in encoded.errors:
            if self.config.bad_rows == "error":
                raise error
            if not quiet:
                self.progress.warn(f"not usable, skipped: {error}")
        if bar is not None:
            bar.advance(len(encoded.errors))
        index = encoded.places
        numbers, sketch, loss = self._run(len(index), encoded.batches, bar)
        usable = np.isfinite(loss) & np.isfinite(numbers).all(1) & np.isfinite(sketch).all(1)
        sketch *= self.scale
        self._fit_range(sketch, usable)
        shard = self._empty(encoded.stop - encoded.start)
        good = index[usable]
        shard["sketch"][good], shard["loss"][good] = sketch[usable], loss[usable]
        shard[self.features.name][good] = numbers[usable]
        shard["valid"][good] = 1
        shard["tokens"][index], shard["cut"][index], shard["hash"][index] = encoded.tokens, encoded.cut, encoded.hash
        return shard

    def compute(self, examples: Sequence[Example], bar: Bar | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Numbers [n, S], unscaled sketch [n, dim] and loss [n] of examples, in their order; float32."""
        batches = make_batches(examples, self.batch_runner.token_batch_size, window=self.model.window)
        return self._run(len(examples), batches, bar)

    def _run(self, n: int, batches: Sequence[Batch], bar: Bar | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        numbers = np.zeros((n, self.features.columns), np.float32)
        sketch = np.zeros((n, self.config.projection_dim), np.float32)
        loss = np.full(n, np.nan, np.float32)
        pending: deque[tuple[Batch, HostCopy]] = deque()

        def collect() -> None:
            batch, result = pending.popleft()
            numbers[batch.rows], sketch[batch.rows], loss[batch.rows] = result.numpy()
            if bar is not None:
                bar.advance(len(batch.rows))

        for one in self.batch_runner.run(batches, lambda batch, _: self._batch(batch)):
            pending.append(one)
            if len(pending) > _IN_FLIGHT:
                collect()
        while pending:
            collect()
        return numbers, sketch, loss

    def find_batch_size(self, examples: Sequence[Example]) -> int:
        """What token_batch_size="auto" means here, found on the device with lines as long as these examples."""
        size = resolve_token_batch_size(
            self.config.token_batch_size, self.model.device, self._batch, typical_length(examples)
        )
        self.batch_runner.token_batch_size = size
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
            self.features.name: np.zeros((n, self.features.columns), np.float32),
            "loss": np.full(n, np.nan, np.float32),
            "tokens": np.zeros(n, np.int32),
            "cut": np.zeros(n, np.int32),
            "valid": np.zeros(n, np.uint8),
            "hash": np.zeros(n, np.uint64),
        }


def first_batch_size(config: Config) -> int:
    """Tokens in a batch until a trial has found another number."""
    return config.token_batch_size if isinstance(config.token_batch_size, int) else CPU_TOKENS


def sum_dtype(model: Model) -> torch.dtype:
    """The dtype of sums over a model's numbers: float32, or float64 where the model has it."""
    return torch.promote_types(model.dtype, torch.float32)
