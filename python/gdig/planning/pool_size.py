"""The size of a pool: its rows, and the tokens that a sample of them tells."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gdig.config.config import Config
from gdig.data.tokens import Example
from gdig.errors import BadRowError, CorpusError
from gdig.model.batches import make_batches
from gdig.model.causal_model import Model
from gdig.philox import stream_key
from gdig.resampling import sample_rows
from gdig.run.session import Workspace

SAMPLE_ROWS = 2000
"""Rows that are encoded. They take a second, and tell the mean length of common pools to 2 or 3 %."""


@dataclass(frozen=True)
class PoolSize:
    """A pool in numbers.

    Attributes:
        rows: rows of the pool.
        sampled: rows of the sample; all rows of a pool that is no larger.
        tokens: tokens of the pool, cut to the window. An estimate, unless the sample is the pool.
        error: standard error of `tokens`; 0 if the sample is the pool.
        cut: share of the sampled rows that are cut to the window.
        not_usable: share of the sampled rows that cannot be used.
        first_error: what is wrong with the first of these; None without one.
        encode_s: seconds to encode a row.
        examples: the usable rows of the sample.
    """

    rows: int
    sampled: int
    tokens: float
    error: float
    cut: float
    not_usable: float
    first_error: str | None
    encode_s: float
    examples: list[Example]

    @property
    def mean_tokens(self) -> float:
        """Tokens a row, over all rows of the pool."""
        return self.tokens / self.rows

    def fit_tokens(self, config: Config) -> float:
        """Tokens of the sample that the curvature is fitted on."""
        return min(self.tokens, config.fit_tokens)

    @property
    def longest(self) -> int:
        """Tokens of the longest row of the sample."""
        return max(map(len, self.examples))

    @property
    def labels(self) -> float:
        """Share of the tokens that have a loss."""
        return sum(example.n_target for example in self.examples) / sum(map(len, self.examples))

    def padded(self, token_batch_size: int, model: Model) -> float:
        """Tokens of the batches with their pads, for each token of the sample."""
        switch = model.rotary_switch
        batches = make_batches(self.examples, token_batch_size, window=model.window, rotary_switch=switch)
        return sum(batch.input_ids.size for batch in batches) / sum(map(len, self.examples))


def measure_pool(work: Workspace, clock: Callable[[], float], sample: int = SAMPLE_ROWS) -> PoolSize:
    """Encode a sample of the pool, drawn by a hash of random_seed.

    Raises:
        CorpusError: if no row of the sample can be used, or if one cannot and bad_rows is "error".
    """
    n = len(work.candidates)
    size = min(n, sample)
    rows = sample_rows(n, size, stream_key("plan", work.config.random_seed)).tolist()
    encoder = work.encoder  # loads the tokenizer, which does not count
    begun = clock()
    encoded = encoder.encode(work.candidates, rows)
    seconds = clock() - begun
    errors = [row for row in encoded if isinstance(row, CorpusError)]
    if errors and work.config.bad_rows == "error":
        raise BadRowError(
            f"{errors[0]}; of {size:,} rows sampled, {len(errors):,} cannot be used, and the run would stop at the "
            "first; mend them, or leave them out with bad_rows=skip"
        )
    examples = [row for row in encoded if isinstance(row, Example)]
    if not examples:
        raise BadRowError(f"candidates: none of the {size} rows sampled can be used; the first: {errors[0]}")
    lengths = np.array([len(row) if isinstance(row, Example) else 0 for row in encoded], dtype=np.float64)
    deviation = float(lengths.std(ddof=1)) if size > 1 else 0.0
    return PoolSize(
        rows=n,
        sampled=size,
        tokens=float(lengths.mean()) * n,
        # Without replacement: the error vanishes as the sample becomes the pool.
        error=n * deviation / math.sqrt(size) * math.sqrt(1 - size / n),
        cut=sum(example.cut > 0 for example in examples) / size,
        not_usable=len(errors) / size,
        first_error=str(errors[0]) if errors else None,
        encode_s=seconds / size,
        examples=examples,
    )
