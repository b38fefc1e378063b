"""The methods turns and gdig: relevance against the formulas, what must change nothing, and which way gdig goes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.selection.blend import blend, pool_shift, seeds_reach
from gdig.selection.choose import choose
from gdig.selection.judge import Judge
from gdig.selection.method import FinishedSweep
from gdig.selection.survey import make_judge, survey
from gdig.selection.tasks import Tasks
from gdig.store.sketches import SketchStore
from gdig.store.tensor_file import write_tensors
from tests.support.plain_methods import plain_round_robin

TURNS = Config(method="turns")


@dataclass
class Rows:
    """A pool of n rows: influence [n, S], sketch [n, dim], hash, valid and labels [n]."""

    influence: np.ndarray
    sketch: np.ndarray
    hash: np.ndarray
    valid: np.ndarray
    labels: np.ndarray


@st.composite
def rows(draw) -> Rows:
    """Numbers without ties, since rounding may turn a tie round; some rows repeat, are invalid or have no gradient."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    n, n_seeds = draw(st.integers(4, 40)), draw(st.integers(1, 5))
    lengths = rng.lognormal(0, 2, (n, 1))
    pool = Rows(
        (lengths * (rng.standard_normal((n, n_seeds)) + rng.standard_normal(n_seeds))).astype(np.float32),
        (lengths * rng.standard_normal((n, 8))).astype(np.float32),
        rng.integers(0, 2 * n, n).astype(np.uint64),
        rng.random(n) < 0.9,
        rng.integers(0, 3, n).astype(np.uint32),
    )
    empty = rng.random(n) < 0.1
    pool.influence[empty] = pool.sketch[empty] = 0
    pool.valid[:2] = True
    return pool


@contextmanager
def swept(pool: Rows, rows_per_shard: int = 7) -> Iterator[FinishedSweep]:
    """The pool as a finished sweep with clusters."""
    n = len(pool.valid)
    with tempfile.TemporaryDirectory() as folder:
        dim = pool.sketch.shape[1]
        store = SketchStore.create(f"{folder}/sweep", dim, dtype="float32", rows_per_shard=rows_per_shard)
        for shard, start in enumerate(range(0, n, rows_per_shard)):
            span = slice(start, min(n, start + rows_per_shard))
            columns = {name: getattr(pool, name)[span] for name in ("influence", "sketch", "hash")}
            columns |= {"valid": pool.valid[span].astype(np.uint8), "loss": np.zeros(span.stop - start, np.float32)}
            columns["tokens"] = np.ones(span.stop - start, np.int32)
            store.write_shard(shard, columns)
        labels = {"labels": pool.labels, "distances": np.zeros(n, np.float32)}
        write_tensors(Path(folder) / "labels" / "00000000.safetensors", labels, {"first_row": "0"})
        yield FinishedSweep(store, survey(store, Judge()), Path(folder) / "labels", metric_scale=1.0)


def relevance_of(sweep: FinishedSweep, discount: float) -> np.ndarray:
    made = blend(sweep, discount)
    return np.concatenate([made.relevance(shard) for shard in sweep.store.shards])


def plain(pool: Rows, discount: float) -> tuple[np.ndarray, np.ndarray]:
    """x [n, S] by the formulas of `gdig.selection.blend`, and which rows repeat another one."""
    valid, n = pool.valid, len(pool.valid)
    length = np.linalg.norm(pool.sketch.astype(np.float64), axis=1)
    c = np.where(length[:, None] > 0, pool.influence / np.where(length > 0, length, 1)[:, None], 0)
    deviation = c[valid].std(0, ddof=1)
    r = (c - c[valid].mean(0)) / np.where(deviation > 0, deviation, np.inf)
    m = np.where(valid, r.mean(1), 0)
    x = r + (m / m[valid].std(ddof=1))[:, None]
    repeats = np.zeros(n, bool)
    for row in range(n):
        repeats[row] = valid[row] and any(valid[i] and pool.hash[i] == pool.hash[row] for i in range(row))
    counted = [row for row in range(n) if valid[row] and not repeats[row]]
    for row in counted:
        rivals = [other for other in counted if pool.labels[other] == pool.labels[row]]
        place = 1 + sum((-m[other], other) < (-m[row], row) for other in rivals)
        x[row] -= discount * np.log2(place)
    return x, repeats


@given(rows(), st.sampled_from([0.0, 0.25, 1.0]))
def test_relevance_is_that_of_the_formulas(pool, discount):
    expected, repeats = plain(pool, discount)
    with swept(pool) as sweep:
        got = relevance_of(sweep, discount)
    shown = pool.valid & ~repeats
    # float32 rounds to 2^-24. The exact sums round each of n terms to 2^-41 of the largest, which a standard deviation
    # well below the largest term blows up; numbers here stay within a factor of 2^10 of it.
    np.testing.assert_allclose(got[shown], expected[shown], rtol=2**-23, atol=2**-20)
    assert (got[repeats] == np.float32(-1e30)).all()


@given(rows(), st.integers(1, 9))
def test_shards_change_no_bit(pool, rows_per_shard):
    with swept(pool) as sweep, swept(pool, rows_per_shard) as other:
        np.testing.assert_array_equal(relevance_of(sweep, 0.25), relevance_of(other, 0.25))


@given(rows(), st.integers(1, 30))
def test_rows_are_those_of_the_turns_and_a_larger_budget_begins_with_them(pool, budget):
    n_valid = int(pool.valid.sum())
    budget = min(budget, n_valid)
    with swept(pool) as sweep:
        picks = choose(sweep, Limit("rows", budget), TURNS)
        more = choose(sweep, Limit("rows", n_valid), TURNS)
        relevance = relevance_of(sweep, TURNS.cluster_discount)
    turns, _, _, _ = plain_round_robin(relevance, pool.valid, Tasks())
    assert picks.rows.tolist() == turns[:budget]
    assert more.rows[:budget].tolist() == picks.rows.tolist()


@given(rows(), st.integers(0, 2**32))
def test_neither_lengths_nor_what_every_row_gives_a_seed_count(pool, number):
    """Powers of two scale a row exactly. Adding a seed's constant to all cosines shifts its column's mean alone."""
    rng = np.random.default_rng(number)
    factors = np.exp2(rng.integers(-9, 9, (len(pool.valid), 1))).astype(np.float32)
    longer = Rows(pool.influence * factors, pool.sketch * factors, pool.hash, pool.valid, pool.labels)
    length = np.linalg.norm(pool.sketch.astype(np.float64), axis=1)[:, None]
    shifted = (pool.influence + length * rng.standard_normal(pool.influence.shape[1])).astype(np.float32)
    easier = Rows(shifted, pool.sketch, pool.hash, pool.valid, pool.labels)
    with swept(pool) as sweep, swept(longer) as scaled, swept(easier) as moved:
        expected = relevance_of(sweep, 0.0)
        np.testing.assert_array_equal(relevance_of(scaled, 0.0), expected)
        moved_x = relevance_of(moved, 0.0)
    # A row without a gradient has length 0, so it gets no constant, and the mean of the others moves against it.
    if (length > 0).all():
        shown = expected[:, 0] > -1e29
        assert np.abs(moved_x - expected)[shown].max() <= rounding_of_a_shift(pool, shifted, length)


def rounding_of_a_shift(pool: Rows, shifted: np.ndarray, length: np.ndarray) -> float:
    """How far x may move when the influence is rounded to float32 once more, 2^-24 of its size.

    c moves by 2^-24 of the largest c at most, and so do its mean and deviation. r moves by that over the least
    deviation, four times: by itself, by the mean, and as |r| < sqrt(n) times by the deviation, twice. x has m over the
    deviation of m besides, which divides by that deviation again. The result is rounded to float32.
    """
    valid, n = pool.valid, len(pool.valid)
    c = pool.influence.astype(np.float64) / length
    deviation = c[valid].std(0, ddof=1)
    m = ((c - c[valid].mean(0)) / deviation).mean(1)
    of_r = 2**-24 * np.abs(shifted / length).max() / deviation.min() * (2 + 2 * np.sqrt(n))
    return float(of_r * (1 + (2 + 2 * np.sqrt(n)) / m[valid].std(ddof=1)) + 2**-22 * np.sqrt(n))


def test_a_discount_spreads_the_choice_over_the_clusters():
    rng = np.random.default_rng(0)
    n = 300
    labels = np.repeat(np.arange(3), 100).astype(np.uint32)
    influence = (rng.standard_normal((n, 4)) + (labels == 0)[:, None]).astype(np.float32)
    sketch = np.ones((n, 8), np.float32)
    pool = Rows(influence, sketch, np.arange(n).astype(np.uint64), np.ones(n, bool), labels)
    shares = []
    with swept(pool) as sweep:
        for discount in (0.0, 0.25, 1.0):
            picked = choose(sweep, Limit("rows", 30), TURNS.with_options(cluster_discount=discount))
            shares.append(int((labels[picked.rows] == 0).sum()))
    assert shares[0] > shares[1] > shares[2] > 10


@pytest.mark.parametrize(("scale", "says"), [(1.0, False), (None, True)])
def test_raw_sketches_and_repeats_are_said(scale, says):
    rng = np.random.default_rng(0)
    hashes = np.array([1, 2, 3, 1, 1], np.uint64)
    x = rng.standard_normal((5, 2)).astype(np.float32)
    pool = Rows(x, np.ones((5, 3), np.float32), hashes, np.ones(5, bool), np.zeros(5, np.uint32))
    with swept(pool) as sweep:
        finished = FinishedSweep(sweep.store, sweep.survey, sweep.labels, metric_scale=scale)
        picked = choose(finished, Limit("rows", 3), TURNS)
    assert sorted(picked.rows.tolist()) == [0, 1, 2]
    assert "2 rows repeat an earlier row; such rows come last" in picked.notes
    assert any("raw sketches" in note for note in picked.notes) == says


@pytest.mark.parametrize(
    ("shift", "method"), [(0.0, "agreement"), (0.05, "agreement"), (0.2, "turns"), (-0.2, "turns")]
)
def test_gdig_goes_by_whether_the_model_knows_the_pool(shift, method):
    """Columns of known mean and deviation: the shift is the median of the seeds', whatever their scale or sign."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 3))
    x = (x - x.mean(0)) / x.std(0, ddof=1) + shift * np.array([1, -1, 100])
    influence = (x * np.array([1e-3, 1, 1e4])).astype(np.float32)
    labels = rng.integers(0, 4, 60).astype(np.uint32)
    pool = Rows(influence, np.ones((60, 3), np.float32), np.arange(60).astype(np.uint64), np.ones(60, bool), labels)
    with swept(pool) as sweep:
        # float32 rounds x by 2^-24 of its size.
        assert pool_shift(sweep) == pytest.approx(abs(shift), abs=1e-6)
        by_itself = choose(sweep, Limit("rows", 12), Config())
        asked = choose(sweep, Limit("rows", 12), Config(method=method))
    assert by_itself.rows.tolist() == asked.rows.tolist()
    assert by_itself.notes[0].startswith(f"by {method}, because the pool's mean influence on a seed is ")
    assert by_itself.notes[1:] == asked.notes
    np.testing.assert_equal(by_itself.reasons, asked.reasons)


@pytest.mark.parametrize(
    ("shift", "options", "warned"),
    [(1.0, {}, True), (0.0, {}, False), (1.0, {"tau": 1.0}, False), (1.0, {"relative_to": "pool"}, False)],
)
def test_agreement_warns_where_most_of_the_pool_passes(shift, options, warned):
    """Not where the model knows the pool, few rows reach tau, or votes are relative to the pool."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, 4))
    influence = ((x - x.mean(0)) / x.std(0, ddof=1) + shift).astype(np.float32)
    labels = rng.integers(0, 4, 60).astype(np.uint32)
    pool = Rows(influence, np.ones((60, 3), np.float32), np.arange(60).astype(np.uint64), np.ones(60, bool), labels)
    config = Config(method="agreement").with_options(**options)
    with swept(pool) as sweep:
        judge = make_judge(sweep.store, config, Tasks())
        scored = choose(replace(sweep, survey=survey(sweep.store, judge)), Limit("rows", 12), config)
    share = float(((influence > 0).sum(1) >= 0.55 * 4).mean())
    assert len(scored.warnings) == warned
    assert all(text.startswith(f"{share:.0%} of the pool reaches agreement 0.55, so") for text in scored.warnings)


@pytest.mark.parametrize(("share", "method"), [(1.0, "agreement"), (0.9, "agreement"), (0.5, "turns"), (0.1, "turns")])
def test_gdig_goes_by_how_much_of_the_pool_matters_to_the_seeds(share, method):
    """A tuned model (columns without a mean). Rows beyond the share have a thousandth of the others' influence. Signs
    of one size and rows of different length: the length does not count."""
    rng = np.random.default_rng(0)
    n, n_seeds = 200, 5
    x = np.repeat(np.array([1.0, -1.0]), n // 2)[:, None] * rng.choice([-1, 1], n_seeds)
    x[np.arange(n) % (n // 2) >= round(share * n / 2)] *= 1e-3
    lengths = np.tile(rng.uniform(0.5, 2, n // 2), 2)
    sketch = np.zeros((n, 3), np.float32)
    sketch[np.arange(n), rng.integers(0, 3, n)] = lengths
    influence = (x * lengths[:, None]).astype(np.float32)
    x = influence.astype(np.float64) / np.linalg.norm(sketch.astype(np.float64), axis=1)[:, None]
    r = np.sqrt((x * x / (x * x).mean(0)).mean(1))
    labels = rng.integers(0, 4, n).astype(np.uint32)
    pool = Rows(influence, sketch, np.arange(n).astype(np.uint64), np.ones(n, bool), labels)
    with swept(pool) as sweep:
        # The deviation is that of a sample, n / (n - 1) of the mean square.
        assert seeds_reach(sweep) == pytest.approx(r.mean() ** 2 / (r * r).mean(), rel=1e-5)
        assert seeds_reach(sweep) == pytest.approx(share, abs=0.01)
        by_itself = choose(sweep, Limit("rows", 20), Config())
        asked = choose(sweep, Limit("rows", 20), Config(method=method))
    assert by_itself.rows.tolist() == asked.rows.tolist()
    assert by_itself.notes[0].startswith(f"by {method}, because ")
