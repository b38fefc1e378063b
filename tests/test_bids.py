"""BIDS against its plain form: every remaining entry looked at for every pick."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.errors import GdigError, StoreError
from gdig.nouns import counted
from gdig.selection.choose import choose
from gdig.selection.judge import Judge
from gdig.selection.method import FinishedSweep
from gdig.selection.methods.bids import bids_rows
from gdig.selection.survey import survey
from gdig.selection.tasks import Tasks
from tests.support.pools import Pool, cases, chosen_with, on_disk, plain_prefix, pools


def standardised(pool: Pool) -> list[list[float] | None]:
    """Column by column, by row of the pool, in float64 with sums in the order of the rows; None where all are equal."""
    valid = np.flatnonzero(pool.valid).tolist()
    columns: list[list[float] | None] = []
    for column in pool.influence.astype(np.float64).T.tolist():
        here = [column[i] for i in valid]
        if len(set(here)) <= 1:
            columns.append(None)
            continue
        total = 0.0
        for x in here:  # sum() of Python 3.12 compensates
            total += x
        mean = total / len(here)
        squares = 0.0
        for x in here:
            squares += (x - mean) * (x - mean)
        deviation = math.sqrt(squares / (len(here) - 1))
        columns.append([(x - mean) / deviation for x in column])
    return columns


def plain(pool: Pool) -> tuple[list[int], list[int], list[float]]:
    """All valid rows in the order taken, the seed that each is taken for, and its gain."""
    z = standardised(pool)
    pending, sums = np.flatnonzero(pool.valid).tolist(), [0.0] * pool.n_seeds
    rows, seeds, gains = [], [], []
    while pending:
        offers = []
        for j, column in enumerate(z):
            if column is not None:
                row = min(pending, key=lambda i, j=j: (-float(pool.influence[i, j]), i))
                mean = sums[j] / len(rows) if rows else 0.0
                offers.append((-(column[row] - mean), row, j))
                assert max(column[i] - mean for i in pending) == column[row] - mean, "the published choice"
        gain, row, j = min(offers) if offers else (-0.0, pending[0], 0)
        pending.remove(row)
        sums = [total + (column[row] if column else 0.0) for total, column in zip(sums, z, strict=True)]
        rows.append(row), seeds.append(j), gains.append(-gain)
    return rows, seeds, gains


@given(cases())
def test_rows_seeds_and_gains_are_those_of_the_plain_form(case):
    pool, limit = case
    rows, seeds, gains = plain(pool)
    choice = chosen_with(pool, limit, clusters=False, method="bids")
    expected = plain_prefix(rows, pool, limit)
    n = len(expected)
    assert choice.rows.tolist() == expected
    assert choice.reasons["for_seed"].tolist() == seeds[:n]
    assert choice.reasons["gain"].tolist() == gains[:n]
    assert choice.notes[0] == f"rows were taken for {len(set(seeds[:n]))} of {counted(pool.n_seeds, 'seed')}"
    flat = standardised(pool).count(None)
    assert (
        f"{flat} of {pool.n_seeds} seeds have no vote: all rows have one influence on each of them" in choice.notes
    ) == (flat > 0)
    short = limit.unit == "rows" and len(rows) < limit.amount
    assert any(note.endswith("asked for: no more rows are valid") for note in choice.notes) == short


@given(pools(), st.integers(0, 40), st.integers(0, 40))
def test_an_array_and_a_sweep_give_the_same_and_budgets_are_nested(pool, budget, other_budget):
    with on_disk(pool, 4) as (store, _):
        from_store = bids_rows(store, max(budget, other_budget))
    array = bids_rows(pool.influence, min(budget, other_budget), pool.valid)
    for whole, fewer in zip(from_store[:3], array[:3], strict=True):
        assert whole[: len(fewer)].tolist() == fewer.tolist()
    assert len(array.rows) == min(budget, other_budget, int(pool.valid.sum()))
    assert from_store.flat == array.flat


def test_the_task_of_the_seed_is_told():
    influence = np.array([[9, 0, 0], [0, 9, 0], [0, 0, 9], [1, 1, 1]], np.float32)
    pool = Pool(influence, *(np.ones(4, t) for t in (np.float32, np.int32, bool, np.uint32)))
    with on_disk(pool) as (store, _):
        swept = FinishedSweep(store, survey(store, Judge("mean")), tasks=Tasks(("a", "b"), np.array([0, 1, 0])))
        choice = choose(swept, Limit("rows", 3), Config.build({"method": "bids", "task_field": "task"}))
    assert choice.rows.tolist() == [0, 1, 2]
    assert choice.reasons["for_seed"].tolist() == [0, 1, 2] and choice.reasons["for_task"].tolist() == ["a", "b", "a"]


def test_what_is_wrong_is_named():
    influence = np.ones((9, 2), np.float32)
    influence[8, 1] = np.nan
    with pytest.raises(GdigError, match="row 8: influence on seed 1: expected a finite number, got NaN"):
        bids_rows(influence, 3)
    assert bids_rows(influence, 3, np.arange(9) < 8).rows.tolist() == [0, 1, 2]
    pool = Pool(influence, *(np.ones(9, t) for t in (np.float32, np.int32, bool, np.uint32)))
    with (
        on_disk(pool) as (store, _),
        pytest.raises(StoreError, match=r"00000001\.safetensors: row 8: influence on seed 1"),
    ):
        bids_rows(store, 3)
    with pytest.raises(GdigError, match="at least one seed"):
        bids_rows(np.ones((3, 0), np.float32), 1)
    with pytest.raises(GdigError, match="valid: expected 9, one for each row, got 8"):
        bids_rows(influence, 3, np.ones(8, bool))
    for bad in (influence.astype(np.float64), influence[:, 0], influence.T):
        with pytest.raises(ValueError, match="influence: "):
            bids_rows(bad, 3)
