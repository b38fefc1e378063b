"""Round robin over influence, cosines and training checkpoints, against plain Python."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.errors import ConfigError, GdigError
from gdig.selection.choose import choose
from gdig.selection.judge import Judge
from gdig.selection.method import Checkpoint, FinishedSweep
from gdig.selection.relevance import RELEVANCE
from gdig.selection.survey import survey
from gdig.selection.tasks import Tasks
from gdig.selection.turns import take_turns
from gdig.store.sketches import SketchStore
from gdig.store.tensor_file import CheckedFile, write_tensors
from tests.support.plain_methods import plain_round_robin
from tests.support.pools import Pool, cases, chosen_with, on_disk, plain_prefix, pools


def tasks_of(pool: Pool, labels: list[int]) -> Tasks:
    """Tasks numbered in the order in which the seeds first name them."""
    seen: dict[int, int] = {}
    of_seed = [seen.setdefault(label, len(seen)) for label in labels[: pool.n_seeds]]
    return Tasks(tuple("abc"[: len(seen)]), np.array(of_seed)) if len(seen) > 1 else Tasks()


@given(cases(), st.lists(st.integers(0, 2), min_size=6, max_size=6))
def test_rows_seeds_ranks_and_values_are_those_of_the_plain_form(case, labels):
    pool, limit = case
    tasks = tasks_of(pool, labels)
    choice = chosen_with(pool, limit, clusters=False, method="round-robin", tasks=tasks)
    rows, seeds, ranks, flat = plain_round_robin(pool.influence, pool.valid, tasks)
    expected = plain_prefix(rows, pool, limit)
    n = len(expected)
    assert choice.rows.tolist() == expected
    assert choice.reasons["for_seed"].tolist() == seeds[:n]
    assert choice.reasons["seed_rank"].tolist() == ranks[:n]
    assert choice.reasons["relevance"].tolist() == [pool.influence[i, j] for i, j in zip(expected, seeds, strict=False)]
    note = f"{flat} of {pool.n_seeds} seeds have no turn: all rows are equally relevant to each of them"
    assert (note in choice.notes) == (flat > 0)
    if tasks:
        assert choice.reasons["for_task"].tolist() == [tasks.names[tasks.of_seed[seed]] for seed in seeds[:n]]


@given(pools(), st.sampled_from([3, 7, 100]), st.integers(0, 40), st.integers(1, 3))
def test_any_matrix_made_shard_by_shard_has_its_turns(pool, rows_per_shard, budget, threads):
    """A made matrix takes the place of the influence; the sweep says which rows are valid."""
    other = np.ascontiguousarray(pool.influence[::-1] * np.float32(-2))
    with on_disk(pool, rows_per_shard) as (store, _):
        sweep = FinishedSweep(store, survey(store, Judge()))

        def make(shard: int) -> np.ndarray:
            return other[slice(*store.shard_range(shard))]

        picked = take_turns(sweep, make, budget, threads)
    rows, seeds, ranks, flat = plain_round_robin(other, pool.valid, Tasks())
    assert picked.rows.tolist() == rows[:budget]
    assert picked.seeds.tolist() == seeds[:budget] and picked.ranks.tolist() == ranks[:budget]
    assert picked.flat == flat


def test_what_is_wrong_with_a_matrix_is_named():
    pool = Pool(np.ones((9, 2), np.float32), *(np.ones(9, t) for t in (np.float32, np.int32, bool, np.uint32)))
    with on_disk(pool) as (store, _):
        sweep = FinishedSweep(store, survey(store, Judge()))

        def broken(shard: int) -> np.ndarray:
            raise KeyError(f"shard {shard}")

        with pytest.raises(KeyError, match="shard 0"):
            take_turns(sweep, broken, 3)
        with pytest.raises(GdigError, match=r"shard 0: expected \[7, 2\], got 12 numbers"):
            take_turns(sweep, lambda shard: np.ones((6, 2), np.float32), 3)
        with pytest.raises(ValueError, match=r"expected float32 \[rows, seeds\], got float64 of shape"):
            take_turns(sweep, lambda shard: np.ones((7, 2)), 3)

        def spoiled(shard: int) -> np.ndarray:
            return np.array([[0, np.nan if shard else 0]] * (2 if shard else 7), np.float32)

        with pytest.raises(GdigError, match="row 7: relevance to seed 1: expected a finite number, got NaN"):
            take_turns(sweep, spoiled, 3)


def test_cosines_are_the_influence_over_both_lengths():
    """Sketches of whole numbers at scale 4, and seeds of known lengths."""
    rng = np.random.default_rng(0)
    influence = rng.standard_normal((12, 3)).astype(np.float32)
    sketch = rng.integers(-3, 4, (12, 5)).astype(np.float32)
    sketch[4] = 0
    with tempfile.TemporaryDirectory() as folder:
        store = SketchStore.create(f"{folder}/sweep", 5, rows_per_shard=5, dtype="float32")
        for shard, start in enumerate(range(0, 12, 5)):
            span = slice(start, min(12, start + 5))
            n = span.stop - start
            columns = {"loss": np.ones(n, np.float32), "tokens": np.ones(n, np.int32), "valid": np.ones(n, np.uint8)}
            store.write_shard(shard, {"sketch": sketch[span], "influence": influence[span], **columns})
        products = np.diag([4.0, 9.0, 0.0]).astype(np.float32)
        write_tensors(Path(folder) / "seeds.safetensors", {"influence": products})
        sketches = Path(folder) / "seeds.safetensors"
        sweep = FinishedSweep(store, survey(store, Judge()), seed_sketches=CheckedFile(sketches), metric_scale=4.0)
        config = Config(relevance="cosine")
        make = RELEVANCE["cosine"](sweep, config)
        assert make is not None
        got = np.concatenate([make(shard) for shard in store.shards])
        lengths = np.linalg.norm(sketch.astype(np.float64) / 4, axis=1)
        expected = np.zeros((12, 3))
        for i in range(12):
            for j, own in enumerate((2.0, 3.0)):
                expected[i, j] = influence[i, j] / (lengths[i] * own) if lengths[i] else 0.0
        # Rounded once to float32, after three operations in float64.
        np.testing.assert_allclose(got, expected, rtol=2.0**-23, atol=0)
        choice = choose(sweep, Limit("rows", 5), config.with_options(method="round-robin"))
        rows, seeds, *_ = plain_round_robin(got, np.ones(12, bool), Tasks())
        assert choice.rows.tolist() == rows[:5] and choice.reasons["for_seed"].tolist() == seeds[:5]
        with pytest.raises(ConfigError, match="relevance='cosine': expected sketches in the metric of the influence"):
            choose(replace(sweep, metric_scale=None), Limit("rows", 5), config.with_options(method="round-robin"))


def test_less_takes_turns_over_the_mean_cosine_of_the_checkpoints():
    rng = np.random.default_rng(1)
    pool = Pool(
        rng.standard_normal((9, 2)).astype(np.float32),
        *(np.ones(9, t) for t in (np.float32, np.int32, bool, np.uint32)),
    )
    cosines = rng.uniform(-1, 1, (2, 9, 2)).astype(np.float32)
    valid = np.ones((2, 9), np.uint8)
    valid[1, 3] = 0
    with on_disk(pool, 4) as (store, _), tempfile.TemporaryDirectory() as folder:
        checkpoints = []
        for number in range(2):
            other = SketchStore.create(f"{folder}/{number}", 1, rows_per_shard=4)
            for shard in store.shards:
                span = slice(*store.shard_range(shard))
                n = span.stop - span.start
                columns = {"cosine": cosines[number, span], "valid": valid[number, span]}
                other.write_shard(shard, {"sketch": np.zeros((n, 1), np.float32), **columns})
            checkpoints.append(Checkpoint(str(number), other, 1.0 + 2 * number, Path()))
        sweep = FinishedSweep(store, survey(store, Judge()), checkpoints=tuple(checkpoints))
        config = Config(method="round-robin", relevance="less")
        choice = choose(sweep, Limit("rows", 9), config)
        with pytest.raises(ConfigError, match="relevance='less': expected checkpoints of a training run"):
            choose(replace(sweep, checkpoints=()), Limit("rows", 9), config)
    mean = (0.25 * cosines[0].astype(np.float64) + 0.75 * cosines[1]).astype(np.float32)
    mean[3] = -2
    rows, seeds, *_ = plain_round_robin(mean, np.ones(9, bool), Tasks())
    assert choice.rows.tolist() == rows and choice.rows[-1] == 3, "a row that is invalid at a checkpoint comes last"
    assert choice.reasons["for_seed"].tolist() == seeds
