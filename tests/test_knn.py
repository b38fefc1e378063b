"""knn against plain forms: densities, masses by search over all levels, and draws."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gdig
from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.errors import ConfigError
from gdig.selection.centred import CentredFeatures, kernel_densities, unit_float16
from gdig.selection.choose import choose
from gdig.selection.judge import Judge
from gdig.selection.method import FinishedSweep
from gdig.selection.methods import METHODS
from gdig.selection.methods.knn import RADIUS, seed_masses, transport_masses
from gdig.selection.survey import survey
from gdig.selection.tasks import Tasks
from gdig.store.tensor_file import CheckedFile, write_tensors
from tests.support.plain_methods import plain_round_robin
from tests.support.pools import cases, on_disk
from tests.support.swept_run import make_swept


def plain_spread(distance: list[float], density: list[float], level: float) -> tuple[list[float], float]:
    """A seed's masses at a level, row by row, and what they cost."""
    mass_left, masses, cost = 1.0, [], 0.0
    for d, r in zip(distance, density, strict=True):
        mass = min(mass_left, level / r)
        masses.append(mass)
        cost += mass * d
        mass_left -= mass
    return masses, cost if mass_left <= 1e-9 else float("inf")


@st.composite
def neighbourhoods(draw):
    """Distances and densities of up to 4 seeds with up to 8 neighbours; few different numbers, so that levels tie."""
    n_seeds, k = draw(st.integers(1, 4)), draw(st.integers(1, 8))
    step = st.sampled_from([0.0, 0.1, 0.25, 1.0])
    steps = draw(st.lists(step, min_size=n_seeds * k, max_size=n_seeds * k))
    density = draw(st.lists(st.sampled_from([1.0, 1.5, 2.0, 7.0]), min_size=n_seeds * k, max_size=n_seeds * k))
    return np.cumsum(np.reshape(steps, (n_seeds, k)), axis=1), np.reshape(density, (n_seeds, k))


@given(neighbourhoods(), st.sampled_from([0.1, 0.6, 0.9]), st.sampled_from([0.1, 1.0, 5.0]))
def test_masses_have_the_least_cost_of_all_levels(case, alpha, scale):
    """The objective is piecewise linear in the level; its minimum is where some seed has just filled some row."""
    distance, density = case
    got = transport_masses(distance, density, alpha, scale)
    np.testing.assert_allclose(got.sum(1), 1, rtol=1e-12)
    assert (got >= 0).all()

    def objective(level: float) -> float:
        costs = [plain_spread(d, r, level)[1] for d, r in zip(distance.tolist(), density.tolist(), strict=True)]
        return alpha / scale * np.mean(costs) + (1 - alpha) * level

    totals = np.cumsum(1 / density, axis=1)
    finite = [level for level in 1 / totals.ravel() if np.isfinite(objective(level))]
    best = min(map(objective, finite))
    level = (got * density).max()
    reach = totals[:, -1].min()
    if level >= 1 / reach * (1 - 1e-12):  # every seed can spread its mass at this level
        assert objective(level * (1 + 1e-12)) <= best * (1 + 1e-9)
    for masses, d, r, total in zip(got, distance.tolist(), density.tolist(), totals, strict=True):
        # A seed whose rows are all full spreads evenly over them.
        own = max(level, 1 / total[-1]) if (masses * r).max() < level * (1 - 1e-12) else level
        np.testing.assert_allclose(masses, plain_spread(d, r, min(own, (masses * r).max()))[0], atol=1e-9)


@given(st.integers(0, 2**32 - 1), st.integers(1, 9), st.integers(1, 4))
def test_densities_count_near_rows(random_seed, n, block):
    rng = np.random.default_rng(random_seed)
    x = unit_float16(rng.standard_normal((n, 3)) * (rng.random((n, 1)) > 0.1))
    x = np.concatenate([x, x[:1]])
    plain = []
    for i, a in enumerate(x.astype(float)):
        total = 0.0
        for j, b in enumerate(x.astype(float)):
            lengths = np.linalg.norm(a) * np.linalg.norm(b)
            square = 0.0 if i == j else 2 - 2 * (a @ b / lengths if lengths else 0)
            total += max(0.0, 1 - square / RADIUS**2)
        plain.append(total)
    got = kernel_densities(x, RADIUS, block)
    np.testing.assert_allclose(got, plain, atol=1e-12)
    assert (got >= 1).all()


def states(random_seed: int, n: int, dim: int = 5) -> np.ndarray:
    """Vectors about one direction, as hidden states are."""
    rng = np.random.default_rng(random_seed)
    return unit_float16(np.eye(dim)[0] * 2 + rng.standard_normal((n, dim)))


@given(cases(), st.integers(0, 50), st.sampled_from(["kernel", "uniform"]))
def test_rows_are_drawn_by_mass_and_then_by_turns(case, random_seed, density):
    pool, _ = case
    n, n_valid = len(pool.valid), int(pool.valid.sum())
    n_seeds = pool.influence.shape[1]
    hidden, seeds = states(random_seed, n), states(random_seed + 1000, n_seeds)
    with on_disk(pool, hidden=hidden) as (store, labels):
        write_tensors(labels.parent / "seeds.safetensors", {"hidden": seeds})
        sweep = FinishedSweep(
            store, survey(store, Judge("mean")), seed_sketches=CheckedFile(labels.parent / "seeds.safetensors")
        )
        features = CentredFeatures(sweep, "hidden")
        masses, counts = seed_masses(sweep, features, density == "kernel")
        options = Config.build({"method": "knn", "knn_density": density, "random_seed": random_seed})
        budgets = sorted({k for k in (1, 2, n // 3, n // 2, n - 1, n) if k >= 1})
        picked = [choose(sweep, Limit("rows", k), options).rows.tolist() for k in budgets]
        cosines = np.concatenate([features.cosines(shard) for shard in store.shards])
    assert len(counts) == n_seeds and (masses[~pool.valid] == 0).all()
    if not n_valid:
        return
    assert masses.sum() == pytest.approx(1, rel=1e-12)
    mean = hidden[pool.valid].astype(float).mean(0)
    centred = unit_float16(hidden - mean), unit_float16(seeds - mean)
    assert np.abs(cosines - centred[0].astype(float) @ centred[1].astype(float).T).max() < 2.0**-10
    everything = picked[-1]
    assert sorted(everything) == np.flatnonzero(pool.valid).tolist()
    assert all(rows == everything[: len(rows)] for rows in picked), "a smaller budget is a beginning"
    massive = int((masses > 0).sum())
    assert set(everything[:massive]) == set(np.flatnonzero(masses > 0).tolist())
    by_turns = [row for row in plain_round_robin(cosines, pool.valid, Tasks())[0] if masses[row] == 0]
    assert everything[massive:] == by_turns


@given(cases(), st.sampled_from([2, 7, 100]), st.integers(0, 50))
def test_masses_do_not_depend_on_the_shards(case, rows_per_shard, random_seed):
    pool, _ = case
    hidden, seeds = states(random_seed, len(pool.valid)), states(random_seed + 1000, pool.influence.shape[1])
    picks = []
    for size in (7, rows_per_shard):
        with on_disk(pool, size, hidden=hidden) as (store, labels):
            write_tensors(labels.parent / "seeds.safetensors", {"hidden": seeds})
            sweep = FinishedSweep(
                store, survey(store, Judge("mean")), seed_sketches=CheckedFile(labels.parent / "seeds.safetensors")
            )
            picks.append(seed_masses(sweep, CentredFeatures(sweep, "hidden"), True)[0].tobytes())
    assert picks[0] == picks[1]


def test_copies_share_the_mass_of_one_row():
    """Ten copies of a row near the seed together take little more than a single row at the same distance."""
    rng = np.random.default_rng(0)
    distance = np.full((1, 11), 0.5)
    density = np.array([[10.0] * 10 + [1.0]])
    got = transport_masses(distance, density)
    assert got[0, :10].sum() == pytest.approx(got[0, 10], rel=1e-12)
    even = transport_masses(np.sort(rng.random((1, 50))), np.ones((1, 50)))
    full = even[even > 0]
    assert full[:-1] == pytest.approx(full[0]) and full[-1] <= full[0] * (1 + 1e-12)


def test_gradient_sketches_are_an_option(project, tmp_path):
    run = make_swept(project.options(tmp_path / "run"))
    picks = {
        kind: gdig.select(**project.options(run, method="knn", knn_features=kind)).rows.tolist()
        for kind in ("hidden", "sketch")
    }
    assert picks["hidden"] != picks["sketch"] and all(len(set(rows)) == 12 for rows in picks.values())
    with pytest.raises(ConfigError, match="knn_features='sketch': expected hidden, because this run has no gradients"):
        sweep = FinishedSweep(None, None)  # type: ignore[arg-type]
        METHODS["knn"].pick(sweep, Limit("rows", 1), 0, Config.build({"gradients": False, "knn_features": "sketch"}))
