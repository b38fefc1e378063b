"""Votes and scores relative to the pool, against plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.errors import ConfigError
from gdig.selection.judge import Judge
from gdig.selection.survey import make_judge, survey
from gdig.selection.tasks import Tasks
from tests.support.pools import Pool, cases, chosen_with, on_disk, plain_prefix


def means(pool: Pool) -> list[float]:
    rows = pool.influence[pool.valid].astype(np.float64)
    return [math.fsum(column) / max(1, len(rows)) for column in rows.T]


def scores(pool: Pool, baselines: list[float]) -> list[np.float32]:
    """Each row's score by the definition, rounded once."""
    result = []
    for row in pool.influence.astype(np.float64) - baselines:
        squares = (row * row).sum()
        if pool.rule == "mean":
            result.append(np.float32(sum(row) / pool.n_seeds))
        else:
            result.append(np.float32(sum(row) / math.sqrt(pool.n_seeds * squares) if sum(row) else 0))
    return result


def tasks_of(pool: Pool) -> Tasks:
    """Two tasks where there are two seeds: every other seed."""
    return Tasks(("a", "b")[: min(2, pool.n_seeds)], np.arange(pool.n_seeds) % 2)


@given(cases())
def test_top_takes_what_helps_more_than_the_average_row(case):
    pool, limit = case
    choice = chosen_with(pool, limit, method="top", relative_to="pool")
    plain = scores(pool, means(pool))
    order = sorted(np.flatnonzero(pool.valid).tolist(), key=lambda i: (-plain[i], i))
    assert choice.rows.tolist() == plain_prefix(order, pool, limit)
    # float64 sums of at most 30 numbers of at most 3: the mean is off by less than 30 * 2^-52 * 3, so the score is too.
    assert choice.columns["score"].tolist() == pytest.approx([plain[i] for i in choice.rows], abs=1e-6)


@given(cases(), st.booleans())
def test_a_row_gets_the_votes_of_those_it_helps_more_than_the_average_row(case, by_task):
    pool, limit = case
    tasks = tasks_of(pool) if by_task else Tasks()
    options = {"agreement": "tasks", "task_field": "task"} if by_task else {}
    choice = chosen_with(pool, limit, tasks=tasks, method="random", relative_to="pool", **options)
    mean = means(pool)
    for place, row in enumerate(choice.rows.tolist()):
        apart = [float(x) - m for x, m in zip(pool.influence[row], mean, strict=True)]
        if by_task:
            apart = [sum(x for x, t in zip(apart, tasks.of_seed, strict=True) if t == task) for task in (0, 1)]
            of_tasks = choice.by_task[place]
            counts = np.bincount(tasks.of_seed, minlength=len(of_tasks))
            assert of_tasks.tolist() == pytest.approx([x / n for x, n in zip(apart, counts, strict=False)], abs=1e-12)
        # A difference below the rounding of the mean decides nothing here.
        assume(all(x == 0 or abs(x) > 1e-12 for x in apart))
        assert choice.columns["votes"][place] == sum(x > 0 for x in apart)


def test_an_influence_that_helps_every_seed_alike_tells_nothing_relative_to_the_pool():
    """All rows help seed 0 by 5 and more, and what tells them apart is on seed 1 alone."""
    influence = np.array([[5, 1], [5, -1], [5, 3], [5, -3]], np.float32)
    pool = Pool(influence, *(np.ones(4, t) for t in (np.float32, np.int32, bool, np.uint32)), rule="mean")
    absolute = chosen_with(pool, Limit("rows", 4), method="agreement", tau=0.5)
    relative = chosen_with(pool, Limit("rows", 2), method="agreement", tau=0.5, relative_to="pool")
    assert absolute.notes[0].startswith("4 rows reach agreement 0.5")
    assert sorted(relative.rows.tolist()) == [0, 2]
    assert relative.columns["votes"].tolist() == [1, 1] and relative.columns["score"].tolist() == [1.5, 0.5]


def test_a_pool_without_valid_rows_has_a_judge():
    pool = Pool(np.ones((3, 2), np.float32), *(np.zeros(3, t) for t in (np.float32, np.int32, bool, np.uint32)))
    with on_disk(pool) as (store, _):
        config = Config.build({"relative_to": "pool"})
        seen = survey(store, make_judge(store, config, Tasks()))
    assert seen.valid == 0 and seen.judge.baselines is not None and seen.judge.baselines.tolist() == [0, 0]


def test_a_sweep_without_influence_has_a_judge_without_voters():
    pool = Pool(np.ones((3, 0), np.float32), *(np.ones(3, t) for t in (np.float32, np.int32, bool, np.uint32)))
    with on_disk(pool) as (store, _):
        seen = survey(store, make_judge(store, Config.build({"relative_to": "pool"}), Tasks()))
    assert (seen.valid, seen.voters, seen.judge.baselines) == (3, 0, None)


def test_a_judge_measures_from_its_baselines():
    influence = np.array([[1, 2], [3, 4]], np.float32)
    assert Judge("mean").relative(influence).tolist() == [[1, 2], [3, 4]]
    assert Judge("mean", baselines=np.array([0.5, 1.0])).relative(influence).tolist() == [[0.5, 1], [2.5, 3]]


def test_a_baseline_that_cannot_be():
    with pytest.raises(ConfigError, match="relative_to='mean': expected one of zero, pool"):
        Config.build({"relative_to": "mean"})
