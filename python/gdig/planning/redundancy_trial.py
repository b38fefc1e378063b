"""A trial of what sources, evaluation sets and near-copies cost a selection."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gdig.data.corpus import open_corpus
from gdig.data.texts import row_texts
from gdig.planning.left import Left
from gdig.planning.pool_size import PoolSize
from gdig.planning.selection_trial import expected_limit
from gdig.planning.stopwatch import Stopwatch
from gdig.resampling import sample_rows
from gdig.run.session import Workspace
from gdig.selection.exclude import words_of
from gdig.selection.similar import hold

_ROWS = 512
"""Rows of the pool whose words are compared, and vectors whose cosines are."""


@dataclass(frozen=True)
class RedundancyCosts:
    """What the options of sources and redundancy add to a selection; 0 for each that is off.

    Attributes:
        sources_s: seconds to read the field of the sources.
        entry_tokens: tokens of the evaluation set, which pass forward through the model.
        exclude_s: seconds to compare the pool with the evaluation set.
        similar_s: seconds to compare the chosen rows with one another, where none is passed over.
        held_bytes: memory of the chosen rows for that.
        excluded_bytes, sources_bytes: on the disk.
    """

    sources_s: float = 0.0
    entry_tokens: float = 0.0
    exclude_s: float = 0.0
    similar_s: float = 0.0
    held_bytes: int = 0
    excluded_bytes: int = 0
    sources_bytes: int = 0


def try_redundancy(work: Workspace, pool: PoolSize, watch: Stopwatch, left: Left) -> RedundancyCosts:
    """Compare a few rows as a selection does, and take what all of them cost in proportion.

    What the run has already, as `left` says, costs nothing.

    Raises:
        CorpusError: when the evaluation set cannot be opened.
    """
    config = work.config
    exclude = config.exclude if left.exclude else ()
    limit = expected_limit(work.config, pool)
    chosen = limit.amount if limit.unit == "rows" else limit.amount / pool.mean_tokens
    rows = sample_rows(pool.rows, min(_ROWS, pool.rows), config.random_seed).tolist()
    read_s = words_s = entries = entry_tokens = 0.0
    if exclude or left.sources:
        begun = watch.now()
        contents = work.candidates.take(rows)
        read_s = (watch.now() - begun) / len(rows)
    if exclude:
        corpus = open_corpus(exclude, name="exclude")
        entries = len(corpus)
        shared = words_of(corpus)
        begun = watch.now()
        shared.find([row_texts(content) for content in contents], n_threads=config.threads or 0)
        words_s = (watch.now() - begun) / len(rows)
        if config.exclude_similarity < 1:
            entry_tokens = entries * pool.mean_tokens  # as long as a row of the pool
    walks = config.max_similarity < 1
    a_pair = _pair_s(config.projection_dim, config.threads or 0, watch) if walks or entry_tokens else 0.0
    near = pool.rows * entries * a_pair if entry_tokens else 0.0
    return RedundancyCosts(
        sources_s=pool.rows * read_s if left.sources else 0.0,
        entry_tokens=entry_tokens,
        exclude_s=pool.rows * (read_s + words_s) + near if exclude else 0.0,
        similar_s=chosen**2 / 2 * a_pair if walks else 0.0,
        held_bytes=int(2 * config.projection_dim * chosen) if walks else 0,
        excluded_bytes=8 * pool.rows if entry_tokens else 0,
        sources_bytes=4 * pool.rows if left.sources else 0,
    )


def _pair_s(dim: int, threads: int, watch: Stopwatch) -> float:
    """Seconds of a cosine of two rows, of many."""
    x = np.random.default_rng(0).standard_normal((4 * _ROWS, dim)).astype(np.float16)
    held = hold(x)
    begun = watch.now()
    held.nearest(x, 0.9, n_threads=threads)
    return (watch.now() - begun) / len(x) ** 2
