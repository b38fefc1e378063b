"""Agreement, thresholds and choice against plain Python, over any sweep that hypothesis can think of."""

from __future__ import annotations

import itertools
import math
from typing import get_args

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

import gdig
from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.config.options import Method
from gdig.errors import ConfigError
from gdig.nouns import counted
from gdig.resampling import row_hash
from gdig.selection.choose import choose
from gdig.selection.cluster_stage import resolve_clusters
from gdig.selection.judge import Judge
from gdig.selection.method import FinishedSweep
from gdig.selection.methods import METHODS
from gdig.selection.pick import pick_rows
from gdig.selection.sources import Sources
from gdig.selection.survey import Survey, survey, threshold
from gdig.selection.tasks import Tasks
from gdig.store.sketches import INVALID_LABEL
from tests.support.pools import Pool, cases, chosen_with, on_disk, plain_prefix, pools
from tests.support.project_fixtures import translation_rows, write_jsonl
from tests.support.swept_run import make_swept

TAUS = st.sampled_from([1.0, 0.99, 0.9, 2 / 3, 0.5, 1 / 3, 0.1, 1e-3])


def chosen(pool: Pool, limit: Limit, **options) -> list[int]:
    return chosen_with(pool, limit, **options).rows.tolist()


def surveyed(pool: Pool) -> Survey:
    with on_disk(pool) as (store, _):
        return survey(store, Judge(pool.rule))


def plain_threshold(pool: Pool, tau: float, limit: Limit) -> int:
    """The definition, one number of votes at a time."""
    wanted = min(v for v in range(pool.n_seeds + 1) if v / pool.n_seeds >= tau - 1e-9)
    for votes in range(wanted, 0, -1):
        rows = [i for i in range(len(pool.valid)) if pool.valid[i] and pool.votes[i] >= votes]
        held = sum(int(pool.tokens[i]) if limit.unit == "tokens" else 1 for i in rows)
        if held >= limit.amount:
            return votes
    return 0


@given(cases(), TAUS)
def test_threshold(case, tau):
    pool, limit = case
    assert threshold(surveyed(pool), tau, limit) == plain_threshold(pool, tau, limit)


def test_threshold_at_shares_that_are_no_binary_fractions():
    """tau = 0.7 of 10 seeds is 7 votes, though 0.7 * 10 in floating point is not always 7."""
    for n_seeds in range(1, 60):
        counts = np.zeros(n_seeds + 1, np.int64)
        counts[-1] = 1
        pool_survey = Survey(1, n_seeds, counts, counts, 1, 1.0)
        for k in range(1, n_seeds + 1):
            assert threshold(pool_survey, k / n_seeds, Limit("rows", 1)) == k
            assert threshold(pool_survey, (k - 0.5) / n_seeds, Limit("rows", 1)) == k


@given(cases(), st.sampled_from(["top", "loss"]))
def test_the_best_first_ties_by_row(case, method):
    pool, limit = case
    key = pool.loss if method == "loss" else [-score for score in pool.score]
    order = sorted(np.flatnonzero(pool.valid).tolist(), key=lambda i: (key[i], i))
    assert chosen(pool, limit, clusters=False, method=method) == plain_prefix(order, pool, limit)


def hash_order(pool: Pool, random_seed: int) -> list[int]:
    """The valid rows by the hash of (random seed, row), ties by row."""
    rows = np.flatnonzero(pool.valid)
    return rows[np.lexsort((rows, row_hash(xxhash.xxh3_64_intdigest(b"rows", random_seed), rows)))].tolist()


@given(cases(), st.integers(0, 3))
def test_random_takes_the_smallest_hashes(case, random_seed):
    """Without replacement, whatever the clusters: what a larger budget adds does not change what a smaller one took."""
    pool, limit = case
    got = chosen(pool, limit, method="random", random_seed=random_seed)
    assert got == chosen(pool, limit, clusters=False, method="random", random_seed=random_seed)
    assert sorted(got) == sorted(plain_prefix(hash_order(pool, random_seed), pool, limit))


def dealt(amount: int, held: list[int]) -> list[int]:
    """What each source gets of an amount that is dealt out one by one, in turns, to those that have some left."""
    shares = [0] * len(held)
    while sum(shares) < min(amount, sum(held)):
        for source, most in enumerate(held):
            if shares[source] < most and sum(shares) < amount:
                shares[source] += 1
    return shares


@given(cases(), st.integers(0, 3), st.data())
def test_random_balanced_by_source_takes_as_much_of_each_as_it_holds(case, random_seed, data):
    """A source's share of rows or tokens is exact; its draw ends before the row that exceeds the share."""
    pool, limit = case
    n = len(pool.valid)
    ends = (*sorted(data.draw(st.lists(st.integers(0, n), min_size=1, max_size=4))), n)
    options = Config.build({"method": "random", "source_quotas": "equal", "random_seed": random_seed})

    def picked(limit: Limit) -> list[int]:
        with on_disk(pool) as (store, _):
            names = tuple(map(str, range(len(ends))))
            sweep = FinishedSweep(store, survey(store, Judge("steady")), sources=Sources(names, ends))
            return pick_rows(sweep, limit, options, METHODS)[0].rows.tolist()

    got = picked(limit)
    assert len(set(got)) == len(got)
    sources = [range(start, stop) for start, stop in itertools.pairwise((0, *ends))]
    sizes = pool.valid * (pool.tokens if limit.unit == "tokens" else np.ones(n, int))  # what a row takes of the budget
    shares = dealt(limit.amount, [int(sizes[source.start : source.stop].sum()) for source in sources])
    order = hash_order(pool, random_seed)
    for source, share in zip(sources, shares, strict=True):
        expected = plain_prefix([row for row in order if row in source], pool, Limit(limit.unit, share))
        assert sorted(row for row in got if row in source) == sorted(expected)
    if limit.unit == "rows" and limit.amount > 1:
        assert picked(Limit("rows", limit.amount - 1)) == got[: limit.amount - 1], "a smaller budget is a beginning"


def test_random_is_balanced_over_the_files_of_a_pool(project, tmp_path):
    rows = translation_rows(40)
    files = [write_jsonl(tmp_path / f"{i}.jsonl", lines) for i, lines in enumerate((rows[:3], rows[3:10], rows[10:]))]
    pool = {"candidates": tuple(map(str, files)), "method": "random", "source_quotas": "equal", "budget": "15"}
    run = make_swept(project.options(tmp_path / "run", **pool))
    picked = gdig.select(**project.options(run, **pool))
    drawn = [int(((picked.rows >= start) & (picked.rows < stop)).sum()) for start, stop in ((0, 3), (3, 10), (10, 40))]
    assert drawn == [3, 6, 6] and "rows by source: 1.jsonl 6, 2.jsonl 6, 0.jsonl 3" in picked.summary


@given(cases(), st.sampled_from(["agreement", "diverse"]), st.sampled_from(["random", "score"]), TAUS)
def test_draws_from_clusters_are_even_and_only_from_those_that_agree(case, method, draw, tau):
    pool, limit = case
    got, labels = chosen(pool, limit, method=method, draw=draw, tau=tau), pool.labels
    least = plain_threshold(pool, tau, limit) if method == "agreement" else 0
    eligible = [i for i in range(len(labels)) if pool.valid[i] and pool.votes[i] >= least]
    assert len(set(got)) == len(got) and set(got) <= set(eligible)
    members = {c: [i for i in eligible if labels[i] == c] for c in range(5)}
    drawn = {c: [i for i in got if labels[i] == c] for c in range(5)}
    most = max(map(len, drawn.values()))
    for c in range(5):  # equal quotas: only a cluster that has run out gives two fewer than another
        assert len(drawn[c]) >= most - 1 or len(drawn[c]) == len(members[c])
    if limit.unit == "rows":
        assert len(got) == min(limit.amount, len(eligible))
    else:
        spent = int(pool.tokens[got].sum())
        assert spent <= limit.amount
        assert len(got) == len(eligible) or spent + int(pool.tokens[eligible].max()) > limit.amount
    if draw == "score":
        for c in range(5):
            best = sorted(members[c], key=lambda i: (-pool.score[i], i))
            assert sorted(drawn[c]) == sorted(best[: len(drawn[c])])
    assert got == sorted(got, key=lambda i: (-pool.score[i], i)), "reported by falling score, ties by row"


@given(cases(), TAUS)
def test_a_larger_budget_keeps_the_rows_of_a_smaller_one_under_the_same_threshold(case, tau):
    pool, limit = case
    if limit.amount < 2:
        return
    smaller, pool_survey = Limit(limit.unit, limit.amount - 1), surveyed(pool)
    if threshold(pool_survey, tau, smaller) == threshold(pool_survey, tau, limit):
        assert set(chosen(pool, smaller, method="agreement", tau=tau)) <= set(
            chosen(pool, limit, method="agreement", tau=tau)
        )


@given(cases(), TAUS)
def test_tau_is_lowered_only_when_it_must_be_and_that_is_said(case, tau):
    pool, limit = case
    choice = chosen_with(pool, limit, method="agreement", tau=tau)
    least = plain_threshold(pool, tau, limit)
    wanted = math.ceil(tau * pool.n_seeds - 1e-9)
    reach = [int((pool.valid & (np.array(pool.votes) >= v)).sum()) for v in range(pool.n_seeds + 1)]
    reaching = [counted(n, "row reaches", "rows reach") for n in reach]
    note = choice.notes[0]
    if least == wanted:
        assert note == f"{reaching[least]} agreement {tau:g} (help at least {least} of {pool.n_seeds} seeds)"
    else:
        assert note.startswith(f"only {reaching[wanted]} agreement {tau:g}, too few for the budget: lowered to ")
        assert note.endswith(f"(at least {least} of {pool.n_seeds} seeds), which {reaching[least]}")
    short = limit.unit == "rows" and reach[0] < limit.amount
    assert (len(choice.notes) == 2) == short
    if short:
        assert choice.notes[1] == (
            f"only {reach[0]} of the {counted(limit.amount, 'row')} asked for: no more rows are valid"
        )


def test_rows_without_a_cluster_are_not_drawn():
    labels = np.array([0, INVALID_LABEL, 1, INVALID_LABEL], np.uint32)
    pool = Pool(np.ones((4, 1), np.float32), *(np.ones(4, t) for t in (np.float32, np.int32, bool)), labels)
    assert sorted(chosen(pool, Limit("rows", 4), method="diverse")) == [0, 2]


def test_every_method_has_a_strategy_and_some_draw_from_clusters():
    assert list(METHODS) == list(get_args(Method))
    assert {name for name, strategy in METHODS.items() if strategy.clusters} == {
        "gdig",
        "turns",
        "agreement",
        "tagcos",
        "diverse",
    }


@given(cases(), st.data(), TAUS)
def test_tasks_vote_by_their_mean_and_the_threshold_counts_tasks(case, data, tau):
    pool, limit = case
    labels = data.draw(st.lists(st.integers(0, 2), min_size=pool.n_seeds, max_size=pool.n_seeds))
    seen: dict[int, int] = {}
    of_seed = np.array([seen.setdefault(label, len(seen)) for label in labels])
    tasks = Tasks(tuple("abc"[: len(seen)]), of_seed)
    helped = [
        sum(sum(float(x) for x, t in zip(row, of_seed, strict=True) if t == task) > 0 for task in range(len(seen)))
        for row in pool.influence
    ]
    held = [int(pool.tokens[i]) if limit.unit == "tokens" else 1 for i in range(len(pool.valid))]
    wanted = min(v for v in range(len(seen) + 1) if v / len(seen) >= tau - 1e-9)
    reach = {
        v: sum(h for h, votes, valid in zip(held, helped, pool.valid, strict=True) if valid and votes >= v)
        for v in range(wanted + 1)
    }
    least = max((v for v in reach if reach[v] >= limit.amount), default=0)
    with on_disk(pool) as (store, _):
        counts = survey(store, Judge("mean", of_seed))
        assert (counts.voters, counts.n_seeds, counts.kind) == (len(seen), pool.n_seeds, "tasks")
        config = Config.build({"method": "agreement", "tau": tau, "agreement": "tasks", "task_field": "task"})
        choice = choose(FinishedSweep(store, counts, tasks=tasks), limit, config)
    assert all(helped[row] >= least and pool.valid[row] for row in choice.rows)
    assert [helped[row] for row in choice.rows] == choice.columns["votes"].tolist()
    for row, means in zip(choice.rows, choice.by_task, strict=True):
        for task, mean in enumerate(means):
            of_task = [float(x) for x, t in zip(pool.influence[row], of_seed, strict=True) if t == task]
            assert mean == pytest.approx(sum(of_task) / len(of_task), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(
    ("of_seed", "message"),
    [
        ([0, 2, 2], "expected at least one seed of each task, got none of task 1"),
        ([0, -1, 1], "expected a task of 0 to 2, got -1"),
        ([0, 1], "expected 2 seeds"),
    ],
)
def test_tasks_that_cannot_be(of_seed, message):
    pool = Pool(np.ones((4, 3), np.float32), *(np.ones(4, t) for t in (np.float32, np.int32, bool, np.uint32)))
    with on_disk(pool) as (store, _), pytest.raises(gdig.GdigError, match=message):
        survey(store, Judge("mean", np.array(of_seed)))


# What is told of them.


@given(cases(), st.sampled_from(["agreement", "top", "loss", "random", "diverse"]))
def test_what_is_told_of_a_row_is_what_its_files_say(case, method):
    pool, limit = case
    choice = chosen_with(pool, limit, method=method)
    for place, row in enumerate(choice.rows.tolist()):
        assert choice.columns["votes"][place] == pool.votes[row]
        assert choice.columns["score"][place] == pool.score[row]
        assert choice.columns["loss"][place] == pool.loss[row]
        assert choice.columns["tokens"][place] == pool.tokens[row]
        assert choice.columns["label"][place] == pool.labels[row]
        assert choice.columns["distance"][place] == row / 2


@given(pools(), st.sampled_from([4, 7, 100]))
def test_a_survey_counts_whatever_the_shards(pool, rows_per_shard):
    with on_disk(pool, rows_per_shard) as (store, _):
        counts = survey(store, Judge(pool.rule))
    valid = np.flatnonzero(pool.valid).tolist()
    assert (counts.rows, counts.n_seeds, counts.valid) == (len(pool.valid), pool.n_seeds, len(valid))
    assert counts.all_tokens == pool.tokens.sum()
    for votes in range(pool.n_seeds + 1):
        assert counts.reach(votes) == sum(pool.votes[i] >= votes for i in valid)
        assert counts.reach(votes, "tokens") == sum(int(pool.tokens[i]) for i in valid if pool.votes[i] >= votes)
    if valid:
        # Sums of at most 30 numbers of at most 3 in float64: each addition rounds by at most 2^-53 of 90.
        assert abs(counts.mean_score - np.mean([float(pool.score[i]) for i in valid])) <= 30 * 90 * 2.0**-53
        assert counts.mean_agreement == pytest.approx(np.mean([pool.votes[i] / pool.n_seeds for i in valid]), rel=1e-14)


@given(cases(), st.sampled_from(["proportional", "sqrt"]))
def test_other_quotas_give_the_same_rows_as_from_arrays(case, quotas):
    pool, limit = case
    costs = pool.tokens if limit.unit == "tokens" else None
    labels = np.where(pool.valid, pool.labels, INVALID_LABEL).astype(np.uint32)
    expected = gdig.resample(labels, limit.amount, 3, costs=costs, quotas=quotas).tolist()
    assert sorted(chosen(pool, limit, method="diverse", quotas=quotas, random_seed=3)) == sorted(expected)


# How many clusters.


def uniform(n: int, valid: int, tokens: int = 10) -> Survey:
    counts = np.array([0, valid], np.int64)
    return Survey(n, 1, counts, counts * tokens, n * tokens, float(valid))


@pytest.mark.parametrize(
    ("options", "pool_survey", "limit", "clusters"),
    [
        ({}, uniform(5000, 5000), Limit("rows", 4000), 512),
        ({}, uniform(5000, 5000), Limit("rows", 100), 100),
        ({}, uniform(5000, 40), Limit("rows", 100), 40),
        ({}, uniform(5000, 5000), Limit("tokens", 999), 99),
        ({}, uniform(5000, 5000), Limit("tokens", 3), 1),
        ({"n_clusters": 7}, uniform(50, 50), Limit("rows", 3), 7),
        ({"n_clusters": 50}, uniform(50, 50), Limit("rows", 3), 50),
    ],
)
def test_number_of_clusters(options, pool_survey, limit, clusters):
    assert resolve_clusters(Config.build(options), pool_survey, limit) == clusters


@pytest.mark.parametrize(
    ("options", "pool_survey", "message"),
    [
        ({"n_clusters": 41}, uniform(50, 40), "n_clusters=41: expected at most 40, because the pool has 40 valid rows"),
        ({"train_rows": 7}, uniform(50, 40), "train_rows=7: expected at least 8, one a cluster"),
        ({}, uniform(50, 0), "candidates: no row is valid"),
    ],
)
def test_numbers_of_clusters_that_cannot_be(options, pool_survey, message):
    with pytest.raises(ConfigError, match=message):
        resolve_clusters(Config.build(options), pool_survey, Limit("rows", 8))


@given(cases(), st.sampled_from(["top", "diverse"]), st.integers(0, 3))
def test_gumbel_draws_take_the_highest_scores_with_noise(case, method, random_seed):
    """Inside a cluster, or of all rows with the method top."""
    pool, limit = case
    got = chosen_with(pool, limit, method=method, draw="gumbel", random_seed=random_seed)
    rows = np.flatnonzero(pool.valid)
    score = np.array([float(pool.score[i]) for i in rows])
    deviation = math.sqrt(max(0.0, (score * score).sum() / len(score) - score.mean() ** 2)) if len(score) else 0.0
    hashes = row_hash(xxhash.xxh3_64_intdigest(b"rows", random_seed), rows)
    uniform_numbers = ((hashes >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
    noisy = dict(zip(rows.tolist(), (score / (0.5 * deviation) if deviation > 1e-9 else 0 * score), strict=True))
    for row, u in zip(rows.tolist(), uniform_numbers.tolist(), strict=True):
        noisy[row] -= math.log(-math.log(u))
    clusters = [rows.tolist()] if method == "top" else [[i for i in rows if pool.labels[i] == c] for c in range(5)]
    chosen_rows = got.rows.tolist()
    for members in clusters:
        drawn = [row for row in members if row in chosen_rows]
        best = sorted(members, key=lambda i: -noisy[i])[: len(drawn)]
        # Hashes differ, so the sums are equal to their rounding only by a chance of 2^-40.
        assert sorted(drawn) == sorted(best)
    if method == "top":
        assert chosen_rows == plain_prefix(sorted(rows.tolist(), key=lambda i: -noisy[i]), pool, limit)
