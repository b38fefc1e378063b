"""A pass over rows of the pool: batches through a model, what each row gives, and the shards that are missing."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence

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
"""f(index, a [T, I], d [T, O], influence [B, width], sketch [B, dim]): adds a layer to the sums of one batch."""


class RowPass(ABC):
    """Computes shards: for each row a number for each seed (`influence`) and a sketch. What they are, `_begin` and
    `_end` say.

    Args:
        model: frozen, with its layers.
        config: options of the pass.
        progress: for warnings.
        n_seeds: S.
        width: columns of the sums that become the numbers for each seed, where they are not S (see `_end`).
    """

    def __init__(
        self, model: Model, config: Config, progress: Progress, n_seeds: int, width: int | None = None
    ) -> None:
        self.model, self.config, self.progress = model, config, progress
        self.scale = 1.0
        tokens = config.token_batch_size if isinstance(config.token_batch_size, int) else CPU_TOKENS
        self.batch_runner: BatchRunner = BatchRunner(tokens, model.device, progress, model.save_memory)
        self._gradients = GradientPass(model, config.loss_reduction, mask_not_finite=False)
        self._dtype = torch.promote_types(model.dtype, torch.float32)
        self._devices = list(dict.fromkeys(layer.device for layer in model.layers))
        self._n_seeds, self._width = n_seeds, width or n_seeds

    @abstractmethod
    def _begin(self, examples: Segments) -> Add:
        """Begin a batch, whose examples are these: a function that adds what a layer gives to the batch's sums."""

    def _end(self, influence: torch.Tensor, sketch: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Make of a batch's sums [B, width], [B, dim] what is kept of them: [B, S], [B, dim]."""
        return influence, sketch

    def _batch(self, batch: Batch) -> HostCopy:
        lines = len(batch.rows)
        # One pair of sums a device: the layers of a large model lie on several.
        sums = {
            device: (
                torch.zeros(lines, self._width, dtype=self._dtype, device=device),
                torch.zeros(lines, self.config.projection_dim, dtype=self._dtype, device=device),
            )
            for device in self._devices
        }
        add = self._begin(batch.segments)

        def sink(index: int, a: torch.Tensor, d: torch.Tensor, mask: torch.Tensor) -> None:
            add(index, a, d, *sums[self.model.layers[index].device])

        with float32_products(self.config.matmul_precision):
            loss = self._gradients.run(batch, sink)
        (influence, sketch), *others = sums.values()
        for more_influence, more_sketch in others:
            influence += more_influence.to(influence.device)
            sketch += more_sketch.to(sketch.device)
        influence, sketch = self._end(influence, sketch)
        return HostCopy((influence.float(), sketch.float(), loss.to(influence.device)))

    def shard(self, encoded: EncodedShard, bar: Bar | None = None, *, quiet: bool = False) -> dict[str, np.ndarray]:
        """Compute rows of the pool. quiet: say nothing of those that cannot be used.

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
            if not quiet:
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
        batches = make_batches(examples, self.batch_runner.token_batch_size, window=self.model.window)
        return self._run(len(examples), batches, bar)

    def _run(self, n: int, batches: Sequence[Batch], bar: Bar | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        influence = np.zeros((n, self._n_seeds), np.float32)
        sketch = np.zeros((n, self.config.projection_dim), np.float32)
        loss = np.full(n, np.nan, np.float32)
        pending: deque[tuple[Batch, HostCopy]] = deque()

        def collect() -> None:
            batch, result = pending.popleft()
            influence[batch.rows], sketch[batch.rows], loss[batch.rows] = result.numpy()
            if bar is not None:
                bar.advance(len(batch.rows))

        for one in self.batch_runner.run(batches, lambda batch, _: self._batch(batch)):
            pending.append(one)
            if len(pending) > _IN_FLIGHT:
                collect()
        while pending:
            collect()
        return influence, sketch, loss

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
            "influence": np.zeros((n, self._n_seeds), np.float32),
            "loss": np.full(n, np.nan, np.float32),
            "tokens": np.zeros(n, np.int32),
            "cut": np.zeros(n, np.int32),
            "valid": np.zeros(n, np.uint8),
            "hash": np.zeros(n, np.uint64),
        }
