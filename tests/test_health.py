"""What a run tells the user of its seeds: too few, at odds with one another, or harder than the pool."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

import gdig
from gdig.passes.seed_health import SeedHealth, measure_seed_health, reliability, seed_warnings, seeds_wanted
from gdig.store.sketches import SketchStore
from tests.support.project_fixtures import read_jsonl, write_jsonl


def make_votes(n: int, n_seeds: int, weight: float, random_seed: int = 0) -> np.ndarray:
    """Votes of seeds that see the same value of a row through noise of their own."""
    rng = np.random.default_rng(random_seed)
    return weight * rng.normal(size=(n, 1)) + rng.normal(size=(n, n_seeds)) > 0


def test_reliability_is_cronbachs_alpha_of_the_covariances():
    votes = make_votes(500, 9, 0.7).astype(np.float64)
    covariance = np.cov(votes.T, bias=True)
    mean_variance, mean_covariance = np.trace(covariance) / 9, (covariance.sum() - np.trace(covariance)) / 72
    expected = 9 * mean_covariance / (mean_variance + 8 * mean_covariance)
    # Both are ratios of sums of 500 x 9 numbers of 0 and 1, at most 1e4 roundings of 1.1e-16.
    assert reliability(votes > 0) == pytest.approx(expected, rel=1e-11)


def test_reliability_says_how_well_other_seeds_would_agree():
    votes = make_votes(20_000, 40, 0.5)
    half, other_half = votes[:, :20].mean(1), votes[:, 20:].mean(1)
    # The correlation of two halves estimates the same number; each has a standard error of about (1 - r^2) / sqrt(n).
    assert reliability(votes[:, :20]) == pytest.approx(np.corrcoef(half, other_half)[0, 1], abs=5 / math.sqrt(20_000))


def test_the_seeds_wanted_reach_four_fifths():
    few = make_votes(20_000, 10, 0.4)
    wanted = seeds_wanted(SeedHealth(20_000, reliability(few), 0.0, 0.25, 0.0), 10)
    assert wanted > 20
    assert reliability(make_votes(20_000, wanted, 0.4, random_seed=1)) == pytest.approx(0.8, abs=0.02)


@pytest.mark.parametrize("votes", [np.ones((5, 3), bool), np.ones((5, 1), bool), np.ones((1, 3), bool)])
def test_reliability_is_unknown_where_nothing_varies(votes):
    assert math.isnan(reliability(votes))


def test_seeds_that_contradict_one_another_have_none():
    votes = make_votes(1000, 1, 9.0)
    assert reliability(np.concatenate([votes, ~votes, votes, ~votes], axis=1)[:, :3]) == 0.0


def test_valid_rows_are_sampled_evenly_over_the_shards(tmp_path):
    store = SketchStore.create(tmp_path, 2, rows_per_shard=1000)
    n, rng = 5500, np.random.default_rng(0)
    influence = rng.normal(size=(n, 3)).astype(np.float32)
    loss = np.arange(n, dtype=np.float32)
    valid = (np.arange(n) % 7 > 0).astype(np.uint8)
    loss[valid == 0] = np.nan
    for shard in range(6):
        span = slice(1000 * shard, min(n, 1000 * shard + 1000))
        rows = {"sketch": np.zeros((len(loss[span]), 2), np.float32), "influence": influence[span]}
        store.write_shard(shard, rows | {"loss": loss[span], "valid": valid[span]})
    health = measure_seed_health(SketchStore.open(tmp_path), [1.0, 2.0])
    assert 4096 * 6 / 7 - 20 < health.rows < 4096 * 6 / 7 + 20
    assert health.pool_loss == pytest.approx((n - 1) / 2, abs=10)
    assert (health.seed_loss, health.seed_loss_error) == (1.5, 0.5)


def test_nothing_is_said_of_good_seeds():
    assert seed_warnings(SeedHealth(100, 0.5, 3.0, 0.25, 3.0), [3.0] * 64, "mean") == []
    assert seed_warnings(SeedHealth(100, math.nan, 3.0, 0.25, 3.0), [3.0], "mean") == []


def test_seeds_at_odds_are_told_with_the_number_that_would_do():
    (text,) = seed_warnings(SeedHealth(100, 0.4, 1.0, 0.25, 2.0), [1.0] * 20, "mean")
    assert "another 20 like them would repeat 40%" in text
    assert "about 120 of the same kind" in text  # 20 x (0.8 / 0.2) x (0.6 / 0.4)
    (text,) = seed_warnings(SeedHealth(100, 0.0, 1.0, 0.25, 2.0), [1.0] * 20, "mean")
    assert "they agree on nothing" in text


def test_seeds_harder_than_the_pool_are_named():
    losses = [1.0, 5.0, 2.0, 4.0, 3.0]
    (text,) = seed_warnings(SeedHealth(100, 0.9, 3.0, 0.25, 2.5), losses, "mean", "line {}".format)
    assert "line 1: 5; line 3: 4; line 4: 3" in text
    assert seed_warnings(SeedHealth(100, 0.9, 3.0, 0.5, 2.5), losses, "mean") == [], "within the standard error"
    assert seed_warnings(SeedHealth(100, 0.9, 3.0, 0.25, 2.5), losses, "sum") == [], "sums grow with the length"


def test_a_run_warns_records_and_warns_again(project, tmp_path, capsys):
    """Four seeds whose targets are another's: too few, at odds, harder than the pool."""
    run_path = tmp_path / "run"
    options = project.options(run_path, seeds=str(tmp_path / "few.jsonl"))
    write_jsonl(tmp_path / "few.jsonl", read_jsonl(project.seeds)[:4])
    first = gdig.select(**{**options, "quiet": False})
    shown = capsys.readouterr().err
    assert any("only 4; fewer than 16" in text for text in first.warnings)
    stages = json.loads((run_path / "run.json").read_text())["stages"]
    assert first.warnings == stages["fit"]["warnings"] + stages["sweep"]["warnings"] == stages["select"]["warnings"]
    assert set(stages["sweep"]["seed_health"]) == {"rows", "reliability", "seed_loss", "seed_loss_error", "pool_loss"}
    assert all(shown.count(f"warning: {text}") == 1 for text in first.warnings)
    again = gdig.select(**{**options, "quiet": False, "method": "top"})
    shown = capsys.readouterr().err
    assert again.warnings == first.warnings
    assert all(shown.count(f"warning: {text}") == 1 for text in first.warnings)
