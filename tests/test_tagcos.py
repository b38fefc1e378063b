"""Matching pursuit in clusters against scikit-learn's, and its quotas, order and notes."""

from __future__ import annotations

from contextlib import contextmanager
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import nnls
from sklearn.linear_model import orthogonal_mp_gram

import gdig
from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.errors import ConfigError, GdigError, StoreError
from gdig.selection.choose import choose
from gdig.selection.judge import Judge
from gdig.selection.method import FinishedSweep
from gdig.selection.methods.tagcos import tagcos_rows
from gdig.selection.survey import survey
from gdig.store.sketches import INVALID_LABEL, SketchStore
from gdig.store.tensor_file import write_tensors
from tests.support.pools import Pool, cases, chosen_with


@contextmanager
def clustered(x: np.ndarray, labels: np.ndarray, rows_per_shard: int = 16, dtype: str = "float32"):
    """A store of sketches and label files, split alike."""
    with TemporaryDirectory() as folder:
        with SketchStore.create(f"{folder}/sweep", x.shape[1], dtype=dtype, rows_per_shard=rows_per_shard) as store:
            store.append(x)
        for shard, start in enumerate(range(0, len(x), rows_per_shard)):
            shard_labels = {"labels": labels[start : start + rows_per_shard].astype(np.uint32)}
            write_tensors(f"{folder}/labels/{shard:08d}.safetensors", shard_labels, {"first_row": str(start)})
        yield store, f"{folder}/labels"


def gradients(rng: np.random.Generator, n: int, dim: int) -> np.ndarray:
    """Rows that lean one way, so that their mean is far from 0."""
    return (rng.standard_normal((n, dim)) + 0.7).astype(np.float32)


@pytest.mark.parametrize("random_seed", range(12))
def test_scikit_learn_takes_the_same_rows_with_the_same_weights(random_seed):
    """Where all weights are positive, and no product with a residual is more negative than the largest is positive."""
    rng = np.random.default_rng(random_seed)
    n, dim = int(rng.integers(20, 200)), int(rng.integers(8, 40))
    x = gradients(rng, n, dim)
    wide = x.astype(np.float64)
    mean = wide.mean(0)
    with clustered(x, np.zeros(n)) as (store, labels):
        picked = tagcos_rows(store, labels, 6, 0, unit_normalize=False, ridge=0.0, tolerance=0.0)
    compared = 0
    for k in range(1, 7):
        weights = orthogonal_mp_gram(wide @ wide.T, wide @ mean, n_nonzero_coefs=k)
        if (weights < 0).any():
            break
        support = np.flatnonzero(weights)
        assert set(picked.rows[:k].tolist()) == set(support.tolist())
        compared = k
    assert compared >= 2, "or nothing is tested"
    with clustered(x, np.zeros(n)) as (store, labels):
        picked = tagcos_rows(store, labels, compared, 0, unit_normalize=False, ridge=0.0, tolerance=0.0)
    weights = orthogonal_mp_gram(wide @ wide.T, wide @ mean, n_nonzero_coefs=compared)
    # Both solve a positive definite system of at most 6 rows: off by some k^2 cond 2^-53 of the weights.
    bound = 36 * np.linalg.cond(wide[picked.rows] @ wide[picked.rows].T) * 2.0**-53 * np.abs(weights).max()
    np.testing.assert_allclose(picked.weights, weights[picked.rows], rtol=0, atol=4 * bound)


@given(st.integers(0, 10_000), st.integers(2, 12), st.booleans(), st.sampled_from(["float32", "float16", "int8"]))
def test_weights_are_the_best_that_are_not_negative(random_seed, budget, unit, dtype):
    """Against Lawson and Hanson's solver, the ridge as further equations."""
    rng = np.random.default_rng(random_seed)
    n, dim = int(rng.integers(2, 40)), int(rng.integers(1, 12))
    lengths = np.exp(rng.standard_normal((n, 1), dtype=np.float32))
    with clustered((gradients(rng, n, dim) - 0.5) * lengths, np.zeros(n), dtype=dtype) as (store, labels):
        picked = tagcos_rows(store, labels, budget, 0, unit_normalize=unit, ridge=0.01)
        x = np.concatenate([store.rows_float32(i) for i in store.shards])
    if unit:
        # Rows are brought to unit length in float32, each number off by 2^-23 of itself; so then are all products.
        x /= np.linalg.norm(x, axis=1, keepdims=True)
    x = x.astype(np.float64)
    ridge = 0.01 * (x**2).sum(1).mean()
    rows, mean = x[picked.rows[picked.matched]], x.mean(0)
    k = len(rows)
    if k == 0:
        return
    expected, _ = nnls(np.vstack([rows.T, np.sqrt(ridge) * np.eye(k)]), np.concatenate([mean, np.zeros(k)]))
    longest = np.sqrt((x**2).sum(1).max())
    # d w = (G + ridge)^-1 (d aims - d G w); unit rows add their rounding, others only that of the solvers.
    rounding = (2.0**-22 if unit else 2.0**-50) * k * longest * (np.linalg.norm(mean) + longest * expected.sum())
    np.testing.assert_allclose(picked.weights[: len(expected)], expected, rtol=0, atol=2 * rounding / ridge)
    assert (picked.weights >= 0).all()
    residual = np.linalg.norm(mean - expected @ rows) / np.linalg.norm(mean)
    assert picked.residual == pytest.approx(residual, rel=1e-4, abs=1e-4)


def test_a_row_whose_weight_fell_to_none_weighs_again_once_it_helps():
    """Row 0 is the longest towards the mean (0, 1/4); row 1 does better alone; with row 3, row 0 is of use again."""
    x = np.array([[-1.2, 1.4], [-0.2, 1.3], [0.9, -1.9], [0.5, 0.2]], np.float32)
    with clustered(x, np.zeros(4)) as (store, labels):
        two, three = (tagcos_rows(store, labels, k, 0, unit_normalize=False, ridge=0.01) for k in (2, 3))
    assert three.rows.tolist() == [0, 1, 3] and two.rows.tolist() == [0, 1]
    assert two.weights[0] == 0 < three.weights[0]
    wide = x.astype(np.float64)
    ridge = 0.01 * (wide**2).sum(1).mean()
    equations = np.vstack([wide[[0, 1, 3]].T, np.sqrt(ridge) * np.eye(3)])
    # The condition of the Gram matrix is below 6.6 / 0.02, so both solutions are good to 1e-12.
    np.testing.assert_allclose(three.weights, nnls(equations, np.append(wide.mean(0), np.zeros(3)))[0], atol=1e-12)


@given(cases())
def test_quotas_are_in_proportion_and_budgets_are_kept(case):
    pool, limit = case
    eligible = np.flatnonzero(pool.valid)
    pool.labels = np.where(pool.valid, pool.labels, INVALID_LABEL).astype(np.uint32)
    choice = chosen_with(pool, limit, method="tagcos")
    rows = choice.rows
    assert len(set(rows.tolist())) == len(rows) and set(rows.tolist()) <= set(eligible.tolist())
    if limit.unit == "tokens":
        spent = int(pool.tokens[rows].sum())
        assert spent <= limit.amount
        most = int(pool.tokens[eligible].max()) if len(eligible) else 0
        assert len(rows) == len(eligible) or spent + most > limit.amount
    else:
        assert len(rows) == min(limit.amount, len(eligible))
        # gdig.resample fills the same quotas.
        drawn = gdig.resample(pool.labels, limit.amount, 0, quotas="proportional")
        assert pool.labels[rows].tolist() == pool.labels[drawn].tolist(), "clusters in the same turns"
    # Their sketches are 0: no mean to come near to, so the rows are the nearest to it, ties by row, and that is said.
    assert not choice.reasons["matched"].any() and not choice.reasons["weight"].any()
    for label in set(pool.labels[rows].tolist()):
        here = rows[pool.labels[rows] == label]
        assert here.tolist() == np.flatnonzero(pool.labels == label)[: len(here)].tolist()
    if len(rows):
        assert choice.notes[1].endswith(
            f"{len(rows)} of {len(rows)} rows are the nearest to their cluster's mean instead"
        )


def test_the_residual_falls_below_that_of_other_rows():
    """What the method is for: its rows stand for the clusters' means better than as many drawn ones do."""
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 4, 400)
    x = gradients(rng, 400, 32) + 2 * rng.standard_normal((4, 32)).astype(np.float32)[labels]
    with clustered(x, labels) as (store, files):
        picked = tagcos_rows(store, files, 40, 0)
        assert tagcos_rows(store, files, 80, 0).residual < picked.residual
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    residuals = []
    for label in range(4):
        rows = x[picked.rows[labels[picked.rows] == label]]
        drawn = x[rng.permutation(np.flatnonzero(labels == label))[: len(rows)]]
        mean = x[labels == label].mean(0)
        residuals.append([nnls(some.T, mean)[1] / np.linalg.norm(mean) for some in (rows, drawn)])
    ours, theirs = np.mean(residuals, 0)
    assert picked.residual == pytest.approx(ours, rel=0.02), "the ridge costs little"
    assert ours < 0.7 * theirs


def test_what_is_wrong_is_named(tmp_path):
    pool = Pool(np.ones((4, 1), np.float32), *(np.ones(4, t) for t in (np.float32, np.int32, bool, np.uint32)))
    with pytest.raises(ConfigError, match="method='tagcos': expected clusters, got none"):
        chosen_with(pool, Limit("rows", 2), clusters=False, method="tagcos")
    x = np.ones((20, 3), np.float32)
    with clustered(x, np.zeros(20)) as (store, _), clustered(x[:17], np.zeros(17)) as (_, others):
        with pytest.raises(GdigError, match="labels of 17 rows: expected 20, one for each row"):
            tagcos_rows(store, others, 3, 0)
        with pytest.raises(StoreError, match="no labels there"):
            tagcos_rows(store, tmp_path, 3, 0)


def test_rows_weights_and_reasons_through_the_door_of_all_methods(tmp_path):
    """Through the same door as the other methods, over a sweep with gradients."""
    rng = np.random.default_rng(0)
    x, labels = gradients(rng, 30, 4), np.repeat([0, 1, 2], 10)
    store = SketchStore.create(tmp_path / "sweep", 4, dtype="float32", rows_per_shard=30)
    columns = {"loss": np.ones(30, np.float32), "tokens": np.ones(30, np.int32), "valid": np.ones(30, bool)}
    store.write_shard(0, {"sketch": x, "influence": x[:, :2].copy(), **columns})
    tensors = {"labels": labels.astype(np.uint32), "distances": np.zeros(30, np.float32)}
    write_tensors(tmp_path / "labels" / "00000000.safetensors", tensors, {"first_row": "0"})
    swept = FinishedSweep(store, survey(store, Judge("mean")), tmp_path / "labels")
    alone = choose(swept, Limit("rows", 6), Config.build({"method": "tagcos"}))
    raw = choose(swept, Limit("rows", 6), Config.build({"method": "tagcos", "unit_normalize": False}))
    expected = tagcos_rows(store, tmp_path / "labels", 6, 0)
    assert alone.rows.tolist() == expected.rows.tolist() != raw.rows.tolist()
    assert alone.reasons["weight"].tolist() == expected.weights.tolist() and alone.reasons["matched"].all()
    assert np.bincount(labels[alone.rows]).tolist() == [2, 2, 2]
