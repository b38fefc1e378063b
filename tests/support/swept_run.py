"""Runs for what reads them: one of generated numbers, without a model pass, and how a finished one is opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gdig.config.config import Config
from gdig.data.tokens import Example
from gdig.passes.shards import open_store
from gdig.passes.sweep_stage import sweep_stage
from gdig.progress import Progress
from gdig.run.origin import sweep_origin
from gdig.run.record import SeedReport
from gdig.run.session import Workspace
from gdig.run.stored_options import config_of_start
from gdig.selection.finished_run import FinishedRun, open_finished_run


def open_finished(run_path: Path) -> FinishedRun:
    """Open a run as `gdig.explain` and `gdig.report` do: with its own options."""
    return open_finished_run(config_of_start(None, {"run_path": str(run_path)}), Progress(quiet=True))


def make_swept(options: dict[str, Any], *, encode: bool = True) -> Path:
    """Leave a run over the inputs that `options` names, as `gdig.sweep` would, with generated numbers.

    Tokens and hashes are those of the rows; a row that cannot be used is not valid. Some rows help all seeds and some
    few. Sketches lie about a few directions, so that there are clusters, and rows that contradict one another.
    With encode=False rows are not read, and all valid and different: for pools of a million rows.
    """
    rng = np.random.default_rng(0)
    with Workspace(Config.build(options), Progress(quiet=True)) as work:
        n, n_seeds, dim = len(work.candidates), len(work.seed_corpus), work.config.projection_dim
        directions = rng.standard_normal((4, dim))

        def sketches(count: int) -> np.ndarray:
            own = 0.6 * rng.standard_normal((count, dim))
            return (directions[rng.integers(0, 4, count)] + own).astype(np.float32)

        if encode:
            encoded = work.encoder.encode(work.candidates, range(n))
            examples = [example if isinstance(example, Example) else None for example in encoded]
            valid = np.array([example is not None for example in examples])
            tokens = np.array([len(example) if example else 0 for example in examples], np.int32)
            hashes = np.array([example.hash if example else 0 for example in examples], np.uint64)
        else:
            valid, hashes = np.ones(n, bool), np.arange(n, dtype=np.uint64)
            tokens = rng.integers(5, 500, n, np.int32)
        influence = rng.normal(0.8, 1, (n, 1)) + 0.5 * rng.standard_normal((n, n_seeds))

        def hidden(count: int) -> np.ndarray:
            x = sketches(count)
            return (x / np.linalg.norm(x, axis=1, keepdims=True)).astype(np.float16)

        columns = {
            "hidden": hidden(n) * valid[:, None],
            "sketch": sketches(n) * valid[:, None] * rng.uniform(0.5, 2, (n, 1)).astype(np.float32),
            "influence": (influence * valid[:, None]).astype(np.float32),
            "loss": np.where(valid, rng.uniform(1, 5, n), np.nan).astype(np.float32),
            "tokens": tokens,
            "cut": np.zeros(n, np.int32),
            "valid": valid.astype(np.uint8),
            "hash": hashes,
        }
        losses = tuple(rng.uniform(1, 5, n_seeds))
        with work.run.running("fit"):
            report = SeedReport(losses, 1, 1.0, 0, 0.0, 1.0)
            work.run.update("fit", seeds=report, layers=(), dtype="torch.float32", coverage=1.0)
        with work.run.running("sweep"):
            work.run.update("sweep", rows=n, scale=1.0, token_batch_size=512)
            origin = sweep_origin(work.run.record)
            store = open_store(work.layout.sweep, work, origin)
            for shard in store.missing(n):
                rows = slice(shard * store.rows_per_shard, (shard + 1) * store.rows_per_shard)
                store.write_shard(shard, {name: column[rows] for name, column in columns.items()})
            of_seeds = sketches(n_seeds)
            own = {"sketch": of_seeds, "hidden": hidden(n_seeds), "influence": of_seeds @ of_seeds.T}
            work.layout.checked(work.layout.seed_sketches, origin).write(own)
            assert sweep_stage(work), "all shards are there"
        return work.path
