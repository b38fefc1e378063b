"""Agreement, thresholds and choice against plain Python, over any sweep that hypothesis can think of."""

from __future__ import annotations

import math

import numpy as np
import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from gdig.config import Budget, Config
from gdig.errors import ConfigError
from gdig.resampling import row_hash
from gdig.stages.choose import NO_CLUSTER, choose, needs_clusters
from gdig.stages.cluster import resolve_clusters
from gdig.stages.quality import Quality, read_quality, threshold
from gdig.store import SketchStore

TAUS = st.sampled_from([1.0, 0.99, 0.9, 2 / 3, 0.5, 1 / 3, 0.1, 1e-3])
# Few different values, so that ties are common.
SCORES = st.sampled_from([-1.5, -1.0, 0.0, 0.25, 0.5, 0.5000001, 3.0])


@st.composite
def qualities(draw) -> Quality:
    n, n_seeds = draw(st.integers(1, 40)), draw(st.integers(1, 6))

    def column(values, dtype):
        return np.array(draw(st.lists(values, min_size=n, max_size=n)), dtype=dtype)

    return Quality(
        votes=column(st.integers(0, n_seeds), np.int32),
        score=column(SCORES, np.float32),
        loss=column(SCORES, np.float32),
        tokens=column(st.integers(1, 9), np.int32),
        valid=column(st.booleans(), bool),
        n_seeds=n_seeds,
    )


@st.composite
def cases(draw) -> tuple[Quality, Budget, np.ndarray]:
    quality = draw(qualities())
    unit = draw(st.sampled_from(["rows", "tokens"]))
    held = len(quality.valid) if unit == "rows" else int(quality.tokens.sum())
    labels = draw(st.lists(st.integers(0, 4), min_size=len(quality.valid), max_size=len(quality.valid)))
    return quality, Budget(unit, float(draw(st.integers(1, held)))), np.array(labels, dtype=np.uint32)


def chosen(quality: Quality, labels: np.ndarray | None, budget: Budget, **options) -> list[int]:
    return choose(quality, labels, budget, Config.build(options)).rows.tolist()


def plain_prefix(rows: list[int], quality: Quality, budget: Budget) -> list[int]:
    """Rows from the first on, up to the first that the budget does not allow."""
    found: list[int] = []
    spent = 0
    for row in rows:
        spent += int(quality.tokens[row]) if budget.unit == "tokens" else 1
        if spent > budget.amount:
            break
        found.append(row)
    return found


def plain_threshold(quality: Quality, tau: float, budget: Budget) -> int:
    """The definition, one number of votes at a time."""
    wanted = min(v for v in range(quality.n_seeds + 1) if v / quality.n_seeds >= tau - 1e-9)
    for votes in range(wanted, 0, -1):
        rows = [i for i in range(len(quality.valid)) if quality.valid[i] and quality.votes[i] >= votes]
        held = sum(int(quality.tokens[i]) if budget.unit == "tokens" else 1 for i in rows)
        if held >= budget.amount:
            return votes
    return 0


@given(cases(), TAUS)
def test_threshold(case, tau):
    quality, budget, _ = case
    assert threshold(quality, tau, budget) == plain_threshold(quality, tau, budget)


def test_threshold_at_shares_that_are_no_binary_fractions():
    """tau = 0.7 of 10 seeds is 7 votes, though 0.7 * 10 in floating point is not always 7."""
    for n_seeds in range(1, 60):
        votes = np.full(1, n_seeds, np.int32)
        quality = Quality(votes, np.ones(1, np.float32), votes, votes, np.ones(1, bool), n_seeds)
        for k in range(1, n_seeds + 1):
            assert threshold(quality, k / n_seeds, Budget("rows", 1)) == k
            assert threshold(quality, (k - 0.5) / n_seeds, Budget("rows", 1)) == k


@given(cases(), st.sampled_from(["top", "loss"]))
def test_the_best_first_ties_by_row(case, method):
    quality, budget, _ = case
    key = quality.loss if method == "loss" else -quality.score
    order = sorted(np.flatnonzero(quality.valid).tolist(), key=lambda i: (key[i], i))
    assert chosen(quality, None, budget, method=method) == plain_prefix(order, quality, budget)


@given(cases(), st.integers(0, 3))
def test_random_takes_the_smallest_hashes(case, seed):
    """Without replacement, whatever the clusters: what a larger budget adds does not change what a smaller one took."""
    quality, budget, labels = case
    got = chosen(quality, labels if seed % 2 else None, budget, method="random", seed=seed)
    assert got == chosen(quality, None, budget, method="random", seed=seed)
    order = np.flatnonzero(quality.valid)
    order = order[np.lexsort((order, row_hash(xxhash.xxh3_64_intdigest(b"rows", seed), order)))].tolist()
    assert sorted(got) == sorted(plain_prefix(order, quality, budget))


@given(cases(), st.sampled_from(["gdig", "diverse"]), st.sampled_from(["random", "score"]), TAUS)
def test_draws_from_clusters_are_even_and_only_from_those_that_agree(case, method, draw, tau):
    quality, budget, labels = case
    got = chosen(quality, labels, budget, method=method, draw=draw, tau=tau)
    least = plain_threshold(quality, tau, budget) if method == "gdig" else 0
    eligible = [i for i in range(len(labels)) if quality.valid[i] and quality.votes[i] >= least]
    assert len(set(got)) == len(got) and set(got) <= set(eligible)
    members = {c: [i for i in eligible if labels[i] == c] for c in range(5)}
    drawn = {c: [i for i in got if labels[i] == c] for c in range(5)}
    most = max(map(len, drawn.values()))
    for c in range(5):  # equal quotas: only a cluster that has run out gives two fewer than another
        assert len(drawn[c]) >= most - 1 or len(drawn[c]) == len(members[c])
    if budget.unit == "rows":
        assert len(got) == min(int(budget.amount), len(eligible))
    else:
        spent = int(quality.tokens[got].sum())
        assert spent <= budget.amount
        assert len(got) == len(eligible) or spent + int(quality.tokens[eligible].max()) > budget.amount
    if draw == "score":
        for c in range(5):
            best = sorted(members[c], key=lambda i: (-quality.score[i], i))
            assert sorted(drawn[c]) == sorted(best[: len(drawn[c])])
    assert got == sorted(got, key=lambda i: (-quality.score[i], i)), "reported by falling score, ties by row"


@given(cases(), TAUS)
def test_a_larger_budget_keeps_the_rows_of_a_smaller_one_under_the_same_threshold(case, tau):
    quality, budget, labels = case
    if budget.amount < 2:
        return
    smaller = Budget(budget.unit, budget.amount - 1)
    if threshold(quality, tau, smaller) == threshold(quality, tau, budget):
        assert set(chosen(quality, labels, smaller, tau=tau)) <= set(chosen(quality, labels, budget, tau=tau))


@given(cases(), TAUS)
def test_tau_is_lowered_only_when_it_must_be_and_that_is_said(case, tau):
    quality, budget, labels = case
    choice = choose(quality, labels, budget, Config.build({"tau": tau}))
    least = plain_threshold(quality, tau, budget)
    wanted = math.ceil(tau * quality.n_seeds - 1e-9)
    reach = [int((quality.valid & (quality.votes >= v)).sum()) for v in range(quality.n_seeds + 1)]
    note = choice.notes[0]
    if least == wanted:
        assert note == f"{reach[least]} rows reach agreement {tau:g} (help at least {least} of {quality.n_seeds} seeds)"
    else:
        assert note.startswith(
            f"only {reach[wanted]} rows reach agreement {tau:g}, too few for the budget: lowered to "
        )
        assert note.endswith(f"(at least {least} of {quality.n_seeds} seeds), which {reach[least]} rows reach")
    short = budget.unit == "rows" and reach[0] < budget.amount
    assert (len(choice.notes) == 2) == short
    if short:
        assert choice.notes[1] == (
            f"only {reach[0]} of the {budget.amount:.0f} rows asked for could be chosen: no more are valid"
        )


def test_rows_without_a_cluster_are_not_drawn():
    quality = Quality(*(np.ones(4, t) for t in (np.int32, np.float32, np.float32, np.int32, bool)), n_seeds=1)
    labels = np.array([0, NO_CLUSTER, 1, NO_CLUSTER], np.uint32)
    assert sorted(chosen(quality, labels, Budget("rows", 4.0), method="diverse")) == [0, 2]


def test_which_methods_draw_from_clusters():
    methods = ("gdig", "top", "random", "loss", "diverse")
    assert [method for method in methods if needs_clusters(method)] == ["gdig", "diverse"]


# From the store.


@given(st.integers(1, 23), st.integers(1, 5), st.sampled_from([4, 7, 100]), st.integers(0, 2**32 - 1))
def test_verdicts_are_read_shard_by_shard(n, n_seeds, rows_per_shard, seed):
    import tempfile

    rng = np.random.default_rng(seed)
    influence = rng.choice(np.array([-2.0, 0.0, -0.0, 1e-30, 0.1, 5.0], np.float32), (n, n_seeds))
    loss, tokens = rng.random(n, np.float32), rng.integers(0, 99, n).astype(np.int32)
    valid = rng.integers(0, 2, n).astype(np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        store = SketchStore.create(folder, 2, rows_per_shard=rows_per_shard)
        for shard, start in enumerate(range(0, n, rows_per_shard)):
            part = slice(start, min(n, start + rows_per_shard))
            rows = np.zeros((part.stop - start, 2), np.float32)
            tensors = {"influence": influence[part], "loss": loss[part], "tokens": tokens[part], "valid": valid[part]}
            store.write_shard(shard, {"sketch": rows, **tensors})
        quality = read_quality(SketchStore.open(folder))
    assert quality.n_seeds == n_seeds
    for i in range(n):
        assert quality.votes[i] == sum(float(x) > 0 for x in influence[i])  # no effect is no help
        assert quality.agreement[i] == quality.votes[i] / n_seeds
        # A sum of at most 5 numbers in float64, rounded once.
        assert quality.score[i] == np.float32(sum(map(float, influence[i])) / n_seeds)
    assert (quality.loss == loss).all() and (quality.tokens == tokens).all() and (quality.valid == (valid != 0)).all()


# How many clusters.


def uniform(n: int, valid: int, tokens: int = 10) -> Quality:
    ones = np.ones(n, np.int32)
    return Quality(ones, ones.astype(np.float32), ones, ones * tokens, np.arange(n) < valid, 1)


@pytest.mark.parametrize(
    ("options", "quality", "budget", "clusters"),
    [
        ({}, uniform(5000, 5000), Budget("rows", 4000), 512),
        ({}, uniform(5000, 5000), Budget("rows", 100), 100),
        ({}, uniform(5000, 40), Budget("rows", 100), 40),
        ({}, uniform(5000, 5000), Budget("tokens", 999), 99),
        ({}, uniform(5000, 5000), Budget("tokens", 3), 1),
        ({"n_clusters": 7}, uniform(50, 50), Budget("rows", 3), 7),
        ({"n_clusters": 50}, uniform(50, 50), Budget("rows", 3), 50),
    ],
)
def test_number_of_clusters(options, quality, budget, clusters):
    assert resolve_clusters(Config.build(options), quality, budget) == clusters


@pytest.mark.parametrize(
    ("options", "quality", "message"),
    [
        ({"n_clusters": 41}, uniform(50, 40), "n_clusters: 41 asked for, but the pool has 40 valid rows"),
        ({"train_rows": 7}, uniform(50, 40), "train_rows: expected at least 8, one a cluster, got 7"),
        ({}, uniform(50, 0), "candidates: no row is valid"),
    ],
)
def test_numbers_of_clusters_that_cannot_be(options, quality, message):
    with pytest.raises(ConfigError, match=message):
        resolve_clusters(Config.build(options), quality, Budget("rows", 8))
