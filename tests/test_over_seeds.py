"""Turns of the seeds, and cosines of hidden states, against plain Python."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.errors import StoreError
from gdig.selection.choose import choose
from gdig.selection.hidden_cosines import exact_cosines, hidden_cosines
from gdig.selection.judge import Judge
from gdig.selection.method import FinishedSweep
from gdig.selection.survey import survey
from gdig.selection.tasks import Tasks
from gdig.selection.turns import pick_by_relevance, take_turns
from gdig.store.tensor_file import CheckedFile, write_tensors
from tests.support.plain_methods import plain_round_robin
from tests.support.pools import SCORES, Pool, cases, on_disk, plain_prefix


@st.composite
def relevances(draw):
    """A pool, a limit, and the relevance of its rows to up to 5 seeds: few values, so that ties are common."""
    pool, limit = draw(cases())
    n, n_seeds = len(pool.valid), draw(st.integers(1, 5))
    values = draw(st.lists(SCORES, min_size=n * n_seeds, max_size=n * n_seeds))
    return pool, limit, np.array(values, np.float32).reshape(n, n_seeds)


def sweep_of(store, tasks=None):
    return FinishedSweep(store, survey(store, Judge("mean")), tasks=tasks or Tasks())


def by_shard(values: np.ndarray, rows_per_shard: int = 7):
    return lambda shard: values[shard * rows_per_shard : (shard + 1) * rows_per_shard]


@given(relevances())
def test_turns_are_those_of_the_plain_form(case):
    pool, limit, values = case
    n_seeds = values.shape[1]
    want, seeds, ranks, flat = plain_round_robin(values, pool.valid, Tasks())
    with on_disk(pool) as (store, _):
        picked = pick_by_relevance(sweep_of(store), by_shard(values), n_seeds, limit, Config.build({}))
        again = take_turns(sweep_of(store), by_shard(values), len(want), n_seeds=n_seeds)
    rows = plain_prefix(want, pool, limit)
    n = len(rows)
    assert picked.rows.tolist() == rows
    assert picked.reasons["for_seed"].tolist() == seeds[:n]
    assert picked.reasons["seed_rank"].tolist() == ranks[:n]
    assert picked.reasons["relevance"].tolist() == [values[i, j] for i, j in zip(rows, seeds, strict=False)]
    assert len(picked.notes) == (flat > 0)
    assert again.rows.tolist() == want, "a smaller budget is a beginning"


@given(relevances(), st.sampled_from(["max", "mean"]), st.data())
def test_the_greatest_and_the_mean_relevance(case, over, data):
    pool, limit, values = case
    n_seeds = values.shape[1]
    tasks = Tasks()
    if data.draw(st.booleans()) and n_seeds > 1:
        of_seed = np.arange(n_seeds) % 2
        tasks = Tasks(("a", "b"), of_seed)
    groups = [values[:, tasks.of_seed == task] for task in (0, 1)] if tasks else [values]
    # Sums of at most five small multiples of 2^-22 are exact in float64.
    by_group = [
        group.astype(np.float64).max(1) if over == "max" else group.astype(np.float64).mean(1) for group in groups
    ]
    key = np.max(by_group, axis=0).astype(np.float32)
    order = sorted(np.flatnonzero(pool.valid).tolist(), key=lambda i: (-key[i], i))
    with on_disk(pool) as (store, _):
        options = Config.build({"over_seeds": over})
        picked = pick_by_relevance(sweep_of(store, tasks), by_shard(values), n_seeds, limit, options)
    assert picked.rows.tolist() == plain_prefix(order, pool, limit)
    assert picked.reasons["relevance"].tolist() == key[picked.rows].tolist()


def test_means_that_are_told_alike_are_ordered_by_row():
    """float64 tells the two means apart, float32 does not."""
    pool = Pool(
        np.zeros((2, 1), np.float32),
        np.zeros(2, np.float32),
        np.ones(2, np.int32),
        np.ones(2, bool),
        np.zeros(2, np.uint32),
    )
    values = np.array([[0.5, 0.5, 0.5000001], [0.5, 0.5000001, 0.5000001]], np.float32)
    with on_disk(pool) as (store, _):
        options = Config.build({"over_seeds": "mean"})
        picked = pick_by_relevance(sweep_of(store), by_shard(values), 3, Limit("rows", 1), options)
    assert picked.rows.tolist() == [0]


@given(st.integers(0, 2**32 - 1), st.integers(1, 40))
def test_cosines_are_exact_sums_rounded_once(random_seed, dim):
    """Any order of the columns gives the same bits, and the products are those of exact arithmetic."""
    rng = np.random.default_rng(random_seed)
    x, y = (rng.standard_normal((3, dim)) * 10.0 ** rng.integers(-4, 1, dim) for _ in range(2))
    x, y = ((z / np.linalg.norm(z, axis=1, keepdims=True)).astype(np.float16) for z in (x, y))
    order = rng.permutation(dim)
    got = exact_cosines(x, y)
    assert got.tobytes() == exact_cosines(x[:, order], y[:, order]).tobytes()
    for i, a in enumerate(x.astype(float)):
        for j, b in enumerate(y.astype(float)):
            lengths = math.sqrt(math.fsum(a * a)) * math.sqrt(math.fsum(b * b))
            assert got[i, j] == math.fsum(a * b) / lengths
    assert not exact_cosines(np.zeros((1, dim), np.float16), y).any()


@given(cases(), st.integers(0, 99))
def test_rds_picks_by_the_cosines_of_the_hidden_states(case, random_seed):
    pool, limit = case
    rng = np.random.default_rng(random_seed)
    n, n_seeds, dim = *pool.influence.shape, 4
    # Few directions, so that cosines tie.
    states = np.eye(dim, dtype=np.float16)[rng.integers(0, dim, n + n_seeds)]
    hidden, seeds = states[:n], states[n:]
    with on_disk(pool, hidden=hidden) as (store, labels):
        file = labels.parent / "seeds.safetensors"
        write_tensors(file, {"hidden": seeds})
        sweep = FinishedSweep(store, survey(store, Judge("mean")), seed_sketches=CheckedFile(file))
        picked = choose(sweep, limit, Config.build({"method": "rds"}))
    want = plain_round_robin((hidden @ seeds.T).astype(float), pool.valid, Tasks())[0]
    assert picked.rows.tolist() == plain_prefix(want, pool, limit)


def test_a_sweep_without_hidden_states_is_refused(tmp_path):
    from gdig.store.sketches import SketchStore

    store = SketchStore.create(tmp_path / "s", 2)
    store.write_shard(0, {"sketch": np.zeros((1, 2), np.float32)})
    write_tensors(tmp_path / "seeds.safetensors", {"hidden": np.zeros((1, 2), np.float16)})
    one_seed = SimpleNamespace(n_seeds=1)
    seeds = CheckedFile(tmp_path / "seeds.safetensors")
    sweep = FinishedSweep(store, one_seed, seed_sketches=seeds)  # type: ignore[arg-type]
    with pytest.raises(StoreError, match="expected hidden-state sketches, but this sweep has none; sweep again"):
        hidden_cosines(sweep)[0](0)
