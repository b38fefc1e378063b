"""Votes and scores relative to the pool, votes by rank, and shortlists, against plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gdig.config.budget import Limit, parse_budget
from gdig.config.config import Config
from gdig.errors import ConfigError
from gdig.selection.judge import Judge
from gdig.selection.survey import make_judge, survey
from gdig.selection.tasks import Tasks
from tests.support.pools import Pool, cases, chosen_with, on_disk, plain_prefix, pools


def means(pool: Pool) -> list[float]:
    rows = pool.influence[pool.valid].astype(np.float64)
    return [math.fsum(column) / max(1, len(rows)) for column in rows.T]


def scores(pool: Pool, baselines: list[float]) -> list[np.float32]:
    """Each row's score by the definition, rounded once."""
    found = []
    for row in pool.influence.astype(np.float64) - baselines:
        squares = (row * row).sum()
        if pool.rule == "mean":
            found.append(np.float32(sum(row) / pool.n_seeds))
        else:
            found.append(np.float32(sum(row) / math.sqrt(pool.n_seeds * squares) if sum(row) else 0))
    return found


def tasks_of(pool: Pool) -> Tasks:
    """Two tasks where there are two seeds: every other seed."""
    return Tasks(("a", "b")[: min(2, pool.n_seeds)], np.arange(pool.n_seeds) % 2)


@given(cases())
def test_top_takes_what_helps_more_than_the_average_row(case):
    pool, limit = case
    choice = chosen_with(pool, limit, method="top", relative_to="pool")
    found = scores(pool, means(pool))
    order = sorted(np.flatnonzero(pool.valid).tolist(), key=lambda i: (-found[i], i))
    assert choice.rows.tolist() == plain_prefix(order, pool, limit)
    # float64 sums of at most 30 numbers of at most 3: the mean is off by less than 30 * 2^-52 * 3, so the score is too.
    assert choice.columns["score"].tolist() == pytest.approx([found[i] for i in choice.rows], abs=1e-6)


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
            told = choice.by_task[place]
            counts = np.bincount(tasks.of_seed, minlength=len(told))
            assert told.tolist() == pytest.approx([x / n for x, n in zip(apart, counts, strict=False)], abs=1e-12)
        # A difference below the rounding of the mean decides nothing here.
        assume(all(x == 0 or abs(x) > 1e-12 for x in apart))
        assert choice.columns["votes"][place] == sum(x > 0 for x in apart)


@given(pools(), st.sampled_from([None, 0.01, 0.3, 0.8, 1.0]), st.booleans())
def test_by_rank_each_voter_votes_for_its_share_of_the_rows(pool, share, by_task):
    tasks = tasks_of(pool) if by_task else Tasks()
    agreement = {"agreement": "tasks", "task_field": "task"} if by_task else {}
    config = Config.build({"votes": "rank", "vote_share": share, "budget": "40%", "score": pool.rule, **agreement})
    with on_disk(pool) as (store, _):
        judge = make_judge(store, config, tasks)
        seen = survey(store, judge)
    x = pool.influence[pool.valid].astype(np.float64)
    if by_task:
        x = np.stack([x[:, tasks.of_seed == task].sum(1) for task in range(len(tasks.names))], axis=1)
    limit = parse_budget("40%").limit(len(pool.valid), int(pool.tokens.sum()))
    wanted = limit.amount / max(1, len(x)) if share is None else share
    most = max(1, int(min(1.0, wanted) * len(x)))
    votes = np.zeros(len(x), int)
    for column in x.T:  # a row gets the vote when at most `most` rows are as large
        votes += (column[None, :] >= column[:, None]).sum(1) <= most
    assert seen.counts.tolist() == np.bincount(votes, minlength=seen.voters + 1).tolist()


@given(cases(), st.sampled_from([1.0, 1.5, 3.0]), st.sampled_from(["zero", "pool"]))
def test_a_shortlist_by_score_is_a_multiple_of_the_budget(case, times, relative_to):
    pool, limit = case
    options = {"method": "agreement", "shortlist": times, "relative_to": relative_to}
    choice = chosen_with(pool, limit, **options)
    with on_disk(pool) as (store, _):
        judge = make_judge(store, Config.build({"score": pool.rule, "relative_to": relative_to}), Tasks())
        found = chosen_with(pool, Limit("rows", len(pool.valid)), method="top", relative_to=relative_to)
        assert survey(store, judge).valid == len(found.rows)
    score = dict(zip(found.rows.tolist(), found.columns["score"].tolist(), strict=True))
    wide, held, least = math.ceil(times * limit.amount), 0, -math.inf
    for row in found.rows.tolist():
        held += int(pool.tokens[row]) if limit.unit == "tokens" else 1
        if held >= wide:
            least = score[row]
            break
    eligible = [row for row in score if score[row] >= least]
    assert set(choice.rows.tolist()) <= set(eligible)
    if limit.unit == "rows":
        assert len(choice.rows) == min(limit.amount, len(eligible))
    if least == -math.inf:
        assert choice.notes[0].endswith("are all valid rows")
    else:
        assert choice.notes[0].endswith(f"a score of at least {least:.3g}")


@given(cases(), st.sampled_from([1.0, 2.0]))
def test_a_shortlist_by_agreement_is_a_multiple_of_the_budget(case, times):
    pool, limit = case
    choice = chosen_with(pool, limit, method="agreement", shortlist=times, shortlist_by="agreement")
    wide = math.ceil(times * limit.amount)

    def held(votes: int) -> int:
        rows = [i for i in np.flatnonzero(pool.valid) if pool.votes[i] >= votes]
        return int(pool.tokens[rows].sum()) if limit.unit == "tokens" else len(rows)

    least = max((votes for votes in range(1, pool.n_seeds + 1) if held(votes) >= wide), default=0)
    assert all(pool.votes[row] >= least for row in choice.rows)
    assert choice.notes[0].endswith(f"those that help at least {least} of {pool.n_seeds} seeds")


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
        config = Config.build({"relative_to": "pool", "votes": "rank", "vote_share": 0.5})
        seen = survey(store, make_judge(store, config, Tasks()))
    assert seen.valid == 0 and seen.judge.baselines is not None and seen.judge.baselines.tolist() == [0, 0]


def test_a_sweep_without_influence_has_a_judge_without_voters():
    pool = Pool(np.ones((3, 0), np.float32), *(np.ones(3, t) for t in (np.float32, np.int32, bool, np.uint32)))
    with on_disk(pool) as (store, _):
        seen = survey(store, make_judge(store, Config.build({"relative_to": "pool", "votes": "rank"}), Tasks()))
    assert (seen.valid, seen.voters, seen.judge.baselines) == (3, 0, None)


def test_a_judge_measures_from_its_baselines():
    influence = np.array([[1, 2], [3, 4]], np.float32)
    assert Judge("mean").relative(influence).tolist() == [[1, 2], [3, 4]]
    assert Judge("mean", baselines=np.array([0.5, 1.0])).relative(influence).tolist() == [[0.5, 1], [2.5, 3]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shortlist": 0.5}, "shortlist=0.5: expected a number of at least 1"),
        ({"vote_share": 0.5}, "vote_share=0.5: expected no value with votes=sign"),
        ({"votes": "rank", "vote_share": 0.0}, "vote_share=0.0: expected a share above 0 and up to 1"),
        ({"relative_to": "mean"}, "relative_to='mean': expected one of zero, pool"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ConfigError, match=message):
        Config.build(options)
