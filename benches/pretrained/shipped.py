"""The package's own choice, made by the package: a pool's signals as a finished sweep."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from benches.pretrained.view import View
from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.data.tokens import Example
from gdig.run.layout import RunLayout
from gdig.selection.choose import choose
from gdig.selection.judge import Judge
from gdig.selection.method import FinishedSweep
from gdig.selection.survey import survey
from gdig.selection.tasks import Tasks
from gdig.selection.token_files import TokenFiles, write_rows
from gdig.store.sketches import SketchStore
from gdig.store.tensor_file import write_tensors

Space = Literal["fisher", "raw"]


@dataclass(frozen=True)
class More:
    """What a sweep has besides the signals of a `View`, for the methods that read it: N rows, S seeds.

    hidden: float16 [N, dim] and seed_hidden: [S, dim], hidden-state sketches. seed_fisher: float32 [S, dim], the seeds'
    sketches in Fisher space. tokens, seed_tokens: examples over the words.
    """

    hidden: np.ndarray
    seed_hidden: np.ndarray
    seed_fisher: np.ndarray
    tokens: Sequence[Example]
    seed_tokens: Sequence[Example]


def shipped(view: View, k: int, random_seed: int, space: Space) -> np.ndarray:
    """What `gdig` chooses, with lengths and clusters from raw or from Fisher sketches."""
    return chosen(view, k, Config(method="gdig", random_seed=random_seed), space)


def chosen(view: View, k: int, config: Config, space: Space = "fisher", more: More | None = None) -> np.ndarray:
    """What the method of `config` chooses by its other options; a row that repeats another may be chosen too."""
    with tempfile.TemporaryDirectory() as folder:
        sweep = _sweep(Path(folder), view, k, config.random_seed, space, more)
        return choose(sweep, Limit("rows", k), config).rows


def _sweep(path: Path, view: View, k: int, random_seed: int, space: Space, more: More | None) -> FinishedSweep:
    """Write the signals as the files of a run, and open them."""
    unit, length = (view.fisher, view.fisher_length) if space == "fisher" else (view.sketch, view.sketch_length)
    n, layout = len(view.loss), RunLayout(path)
    store = SketchStore.create(layout.sweep, unit.shape[1], dtype="float32", rows_per_shard=n)
    columns = {
        "influence": view.influence.astype(np.float32),
        "sketch": (unit * length[:, None]).astype(np.float32),
        "hash": view.content.astype(np.uint64),
        "valid": np.ones(n, np.uint8),
        "loss": view.loss.astype(np.float32),
        "tokens": np.ones(n, np.int32),
        **({} if more is None else {"hidden": more.hidden}),
    }
    store.write_shard(0, columns)
    labels = {"labels": view.labels(k, random_seed, space).astype(np.uint32), "distances": np.zeros(n, np.float32)}
    write_tensors(path / "labels" / "00000000.safetensors", labels, {"first_row": "0"})
    seeds, tokens = layout.checked(layout.seed_sketches, "bench"), TokenFiles(layout, store)
    if more is not None:
        own = {"sketch": more.seed_fisher, "hidden": more.seed_hidden, "influence": view.gram.astype(np.float32)}
        seeds.write(own)
        write_rows(tokens.shard(0), more.tokens)
        write_rows(tokens.seeds, more.seed_tokens)
    return FinishedSweep(
        store,
        survey(store, Judge()),
        path / "labels",
        tasks=Tasks(tuple(str(task) for task in np.unique(view.task_of_seed)), view.task_of_seed),
        seed_sketches=seeds,
        tokens=tokens,
        metric_scale=1.0 if space == "fisher" else None,
    )
