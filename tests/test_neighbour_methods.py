"""G2IS and Self-Filter over a swept run, against plain NumPy; features and difficulties from files."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

import gdig
from gdig import _native
from gdig.api import compare
from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.errors import ConfigError
from gdig.kmeans import KMeans
from gdig.nouns import counted
from gdig.selection import neighbours
from gdig.selection.choose import choose
from gdig.selection.judge import Judge
from gdig.selection.method import FinishedSweep
from gdig.selection.methods.g2is import components
from gdig.selection.survey import survey
from gdig.store.sketches import SketchStore
from tests.support.plain_methods import plain_facility, plain_self_filter, units
from tests.support.project_fixtures import N_ROWS, as_it_is, read_jsonl, stages, stored, translation_rows, write_jsonl
from tests.support.swept_run import make_swept


def plain_walk(u: np.ndarray, directions: np.ndarray, weights: np.ndarray, budget: int, k: int) -> list[int]:
    """Everything from the start at each step. For budgets that every walk can spend."""
    cosines = u @ u.T
    np.fill_diagonal(cosines, -2)
    near = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
    exact = budget * weights / weights.sum()
    shares = np.floor(exact).astype(int)
    for i in np.argsort(-(exact - shares), kind="stable")[: budget - shares.sum()]:
        shares[i] += 1
    chosen: list[int] = []
    for direction, share in zip(directions, shares, strict=True):
        walk: list[int] = []

        def along(rows: list[int], direction=direction) -> float:
            total = u[rows].sum(0)
            return total @ direction / np.linalg.norm(total)

        def fits(row: int, walk=walk, along=along) -> bool:
            agrees = all(u[row] @ u[other] >= 0 for other in walk)
            return agrees and (not walk or along([*walk, row]) >= 0.8 * along(walk))

        while len(walk) < share:
            order = [*(near[walk[-1]] if walk else []), *np.argsort(-(u @ direction), kind="stable")]
            nearest = next(row for row in order if row not in chosen and fits(row))
            walk.append(int(nearest))
            chosen.append(int(nearest))
    return chosen


def test_a_seed_set_that_is_one_direction_has_it_as_its_component():
    """Centred components would be noise here: all that the seeds share is in their mean."""
    rng = np.random.default_rng(0)
    mean = rng.standard_normal(20)
    features = (mean + 0.01 * rng.standard_normal((8, 20))) * rng.uniform(1, 100, (8, 1))
    directions, explained = components(features.astype(np.float32))
    # Eight rows within 0.01 sqrt(20) of the mean, whose length is about sqrt(20): a cosine of 1 - 0.01^2 or so.
    assert directions.shape == (1, 20) and explained[0] > 0.999
    assert directions[0] @ mean / np.linalg.norm(mean) > 0.999


@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 12))
def test_components(random_seed, n, dim):
    x = np.random.default_rng(random_seed).standard_normal((n, dim))
    directions, explained = components(x)
    count = len(directions)
    np.testing.assert_allclose(directions @ directions.T, np.eye(count), atol=1e-12)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    np.testing.assert_allclose(((x @ directions.T) ** 2).sum(0) / n, explained, atol=1e-12)
    assert (np.diff(explained) <= 1e-12).all()
    assert explained.sum() >= 0.5 - 1e-9 and explained[:-1].sum() < 0.5
    # The sign: as the seeds point. Negated seeds give negated components, unless the seeds cancel.
    along = (x @ directions.T).mean(0)
    assert (along > -1e-12).all()
    opposite, _ = components(-x)
    clear = along > 1e-6
    np.testing.assert_allclose(opposite[clear], -directions[clear], atol=1e-7)


def test_components_of_seeds_that_cancel_have_a_sign_nonetheless():
    directions, _ = components(np.array([[1.0, -2.0], [-1.0, 2.0], [0, 0]]))
    np.testing.assert_allclose(directions, [[-1 / 5**0.5, 2 / 5**0.5]], atol=1e-12)


@pytest.mark.parametrize(
    "features, message", [(np.zeros((3, 4)), "sketches of 0 from every seed"), (np.full((2, 2), np.nan), "seed 0")]
)
def test_seeds_without_a_direction(features, message):
    with pytest.raises(ConfigError, match=message):
        components(features)


def test_g2is_is_the_plain_walk(project, swept_copy):
    result = gdig.select(**project.options(swept_copy, method="g2is", n_neighbours=6))
    directions, explained = components(load_file(swept_copy / "features" / "seeds.safetensors")["sketch"])
    expected = plain_walk(units(stored(swept_copy)["sketch"]), directions, explained, 12, 6)
    assert result.rows.tolist() == expected
    reasons = [row["gdig"] for row in read_jsonl(result.output)]
    assert [row["row"] for row in reasons] == expected
    assert not reasons[0]["from_neighbour"] and any(row["from_neighbour"] for row in reasons)
    assert {row["component"] for row in reasons} <= set(range(len(directions)))
    assert sum(int(n) for n in stages(swept_copy)["select"]["notes"][0].split(": ")[1].split(", ")) == 12
    again = gdig.select(**project.options(swept_copy, method="g2is", n_neighbours=6, threads=2))
    assert again.rows.tolist() == expected


def test_g2is_says_that_it_falls_short(project, swept_copy):
    result = gdig.select(**project.options(swept_copy, method="g2is", budget=str(N_ROWS)))
    assert len(result.rows) < N_ROWS, "some rows must contradict others, or nothing is tested"
    assert len(set(result.rows.tolist())) == len(result.rows)
    assert f"only {counted(len(result.rows), 'row')} selected" in stages(swept_copy)["select"]["notes"][-1]


@pytest.mark.parametrize("method", ["g2is", "self-filter"])
def test_budgets_in_tokens(project, swept_copy, method):
    tokens = stored(swept_copy)["tokens"]
    rows = gdig.select(**project.options(swept_copy, method=method, budget="300t")).rows
    # A walk keeps what is left of its share when its next row does not fit.
    walks = len(components(load_file(swept_copy / "features" / "seeds.safetensors")["sketch"])[0])
    slack = tokens.max() * (walks if method == "g2is" else 1)
    assert 300 - slack < tokens[rows].sum() <= 300


def test_self_filter_is_the_plain_choice(project, swept_copy):
    sweep = stored(swept_copy)
    result = gdig.select(**project.options(swept_copy, method="self-filter"))
    expected = plain_self_filter(units(sweep["sketch"]), sweep["loss"], 12, 10)
    assert result.rows.tolist() == expected
    assert expected != np.argsort(-sweep["loss"], kind="stable")[:12].tolist(), "the penalties must matter"
    reasons = [row["gdig"] for row in read_jsonl(result.output)]
    assert all(row["difficulty_left"] <= row["difficulty"] for row in reasons)
    assert reasons[0]["difficulty"] == sweep["loss"].max() - sweep["loss"].min()
    more = gdig.select(**project.options(swept_copy, method="self-filter", budget="40"))
    assert more.rows[:12].tolist() == expected


def test_self_filter_by_files(project, swept_copy, tmp_path):
    rng = np.random.default_rng(1)
    x, f = rng.standard_normal((N_ROWS, 5)).astype(np.float16), rng.standard_normal(N_ROWS)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "f.npy", -f)
    save_file({"other": np.zeros(3), "features": x}, tmp_path / "x.safetensors")
    expected = plain_self_filter(units(x), (-f).astype(np.float32), 30, 7)
    for name in ("x.npy", "x.safetensors"):
        files = {"features": str(tmp_path / name), "difficulty": str(tmp_path / "f.npy")}
        options = project.options(swept_copy, method="self-filter", n_neighbours=7, budget="30", **files)
        assert gdig.select(**options).rows.tolist() == expected


def test_invalid_rows_are_not_looked_at(project, tmp_path):
    rows = translation_rows(40)
    rows[7]["trg_text"] = rows[20]["trg_text"] = ""
    pool = write_jsonl(tmp_path / "pool.jsonl", rows)
    x = np.random.default_rng(2).standard_normal((40, 6)).astype(np.float32)
    difficulty = np.linspace(0, 1, 40, dtype=np.float32)
    x[7], difficulty[20] = np.nan, np.nan
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "f.npy", difficulty)
    options = project.options(tmp_path / "run", candidates=(str(pool),), bad_rows="skip", n_neighbours=4)
    make_swept(options)
    valid = np.flatnonzero(~np.isin(np.arange(40), [7, 20]))
    files = {"features": str(tmp_path / "x.npy"), "difficulty": str(tmp_path / "f.npy")}
    picked = gdig.select(**{**options, "method": "self-filter", "budget": "38", **files}).rows
    assert picked.tolist() == valid[plain_self_filter(units(x[valid]), difficulty[valid], 38, 4)].tolist()
    picked = gdig.select(**{**options, "method": "self-filter", "budget": "38", "difficulty": files["difficulty"]}).rows
    assert sorted(picked) == valid.tolist()
    picked = gdig.select(**{**options, "method": "g2is", "budget": "10"}).rows
    assert len(picked) == 10 and set(picked) <= set(valid.tolist())


def test_by_clusters_and_its_recall(project, swept_copy, monkeypatch):
    """60 rows are searched in all of their 7 clusters: the same answer, a recall of 1; then in 2 of them."""
    options = project.options(swept_copy, method="self-filter")
    exact = gdig.select(**options).rows.tolist()
    monkeypatch.setattr(neighbours, "EXACT_ROWS", 50)
    assert gdig.select(**options).rows.tolist() == exact
    assert stages(swept_copy)["select"]["notes"][0] == (
        "each row's neighbours come from 7 of 7 clusters: 100.0% of the 40 nearest, by a sample"
    )
    assert gdig.select(**{**options, "neighbour_search": "exact"}).rows.tolist() == exact
    assert stages(swept_copy)["select"]["notes"] == []
    gdig.select(**{**options, "neighbour_search": "clusters", "n_probe": 2})
    note = stages(swept_copy)["select"]["notes"][0]
    assert note.startswith("each row's neighbours come from 2 of 7 clusters")
    assert 0.2 < float(note.split(": ")[1].split("%")[0]) / 100 < 1


@pytest.mark.parametrize("kernel", [k for k in _native.kernels() if not re.match("scalar|amx-int8|neon-", k)])
def test_neighbours_of_an_array_by_every_kernel(kernel):
    x = np.random.default_rng(3).standard_normal((500, 33)).astype(np.float16)
    u = units(x)
    cosines = u @ u.T
    np.fill_diagonal(cosines, -2)
    rows, similar = _native.neighbours(x, 12, kernel=kernel)
    expected = np.argsort(-cosines, axis=1)[:, :12]
    assert (rows == expected).all() and rows.dtype == np.uint32
    assert (similar == np.take_along_axis(cosines, expected, 1).astype(np.float32)).mean() > 0.99
    np.testing.assert_allclose(similar, np.take_along_axis(cosines, expected, 1), atol=2**-24)


@given(st.integers(0, 2**32 - 1), st.integers(3, 60), st.data())
def test_the_first_of_more_neighbours_are_those_of_a_search_for_fewer(random_seed, n, data):
    """Few different rows, so that many are as near as others; some of zeros."""
    rng = np.random.default_rng(random_seed)
    x = rng.integers(-1, 2, (n, 3)).astype(np.float32)
    more = data.draw(st.integers(1, n - 1))
    fewer = data.draw(st.integers(1, more))
    cache, options = neighbours.NeighbourCache(most=more), Config.build({"neighbour_search": "exact"})
    alone = _native.neighbours(x, fewer)
    for shared in (neighbours.nearest(x, k, n, 0, options, cache) for k in (fewer, more, fewer)):
        assert shared.rows[:, :fewer].tobytes() == alone[0].tobytes()
        assert shared.cosines[:, :fewer].tobytes() == alone[1].tobytes()
    assert cache.exact.rows.shape == (n, more)


@pytest.mark.parametrize(
    "search, probed, expected", [("exact", 1, 1), ("clusters", 1, 2), ("clusters", 2, 2), ("clusters", 5, 1)]
)
@pytest.mark.parametrize("methods", [["g2is", "self-filter"], ["self-filter", "g2is"]])
def test_methods_that_share_a_sweep_choose_what_each_chooses_alone(
    swept_copy, monkeypatch, search, probed, expected, methods
):
    """One search for both; by few small clusters two: for 20 neighbours more of them are looked into than for 5."""
    searches = {"neighbours": 0, "neighbours_by_clusters": 0, "fit": 0}

    def counted(where, name):
        search = getattr(where, name)

        def call(*arguments, **options):
            searches[name] += 1
            return search(*arguments, **options)

        monkeypatch.setattr(where, name, call)

    def swept() -> FinishedSweep:
        store = SketchStore.open(swept_copy / "sweep")
        sketches = swept_copy / "features" / "seeds.safetensors"
        return FinishedSweep(store, survey(store, Judge("steady")), seed_sketches=as_it_is(sketches))

    def facts(choice) -> list:
        arrays = [choice.rows, *choice.columns.values(), *choice.reasons.values()]
        return [[x.tobytes() for x in arrays], choice.notes]

    config = Config.build({"neighbour_search": search, "n_neighbours": 5, "n_probe": probed})
    limit = Limit("rows", 12)
    alone = {method: facts(choose(swept(), limit, config.with_options(method=method))) for method in methods}
    for name in ("neighbours", "neighbours_by_clusters"):
        counted(_native, name)
    counted(KMeans, "fit")
    shared = swept()
    shared.neighbour_cache.most = 20
    for method in methods:
        assert facts(choose(shared, limit, config.with_options(method=method))) == alone[method]
    by_clusters = search == "clusters"
    both = {"neighbours": expected * (not by_clusters), "neighbours_by_clusters": expected * by_clusters}
    assert searches == {**both, "fit": int(by_clusters)}
    other = choose(shared, limit, config.with_options(method="g2is", random_seed=1))
    assert facts(other) == facts(choose(swept(), limit, config.with_options(method="g2is", random_seed=1)))


def test_features_are_not_taken_for_sketches(project, swept_copy, tmp_path):
    """Self-Filter by features after G2IS by sketches: neither sees the other's neighbours."""
    np.save(tmp_path / "x.npy", np.random.default_rng(5).standard_normal((N_ROWS, 4)).astype(np.float32))
    options = project.options(swept_copy, features=str(tmp_path / "x.npy"))
    names = ["self-filter", "g2is", "random"]
    alone = [gdig.select(**{**options, "method": method}).rows for method in names]
    comparison = compare(**options, methods=names)
    assert comparison.overlap.tolist() == [[np.isin(a, b).mean() for b in alone] for a in alone]
    notes = {summary.method: summary.notes for summary in comparison.summaries}
    gdig.select(**{**options, "method": "self-filter"})
    assert notes["self-filter"] == stages(swept_copy)["select"]["notes"]


def test_neighbours_leave_with_what_a_callback_raises():
    def stop(done: int, total: int) -> None:
        assert 0 < done <= total == 3000
        raise KeyError("enough")

    with pytest.raises(KeyError, match="enough"):
        _native.neighbours(np.random.default_rng(0).standard_normal((3000, 8)), 5, callback=stop)


BAD_FILES = {
    "short": (np.zeros((N_ROWS - 1, 3)), r"expected \[60, any\], a row for each of the pool; got \[59, 3\]"),
    "flat": (np.zeros(N_ROWS), r"expected \[60, any\]"),
    "whole": (np.zeros((N_ROWS, 3), np.int64), "expected float16, float32 or float64, got int64"),
    "nan": (np.where(np.arange(120).reshape(60, 2) == 9, np.nan, 1.0), "row 4, column 1: expected a finite number"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_features(project, swept_copy, tmp_path, case):
    array, message = BAD_FILES[case]
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(ConfigError, match=f"features: .*x.npy: {message}"):
        gdig.select(**project.options(swept_copy, method="self-filter", features=str(tmp_path / "x.npy")))


def test_bad_files(project, swept_copy, tmp_path):
    def message(**options) -> str:
        with pytest.raises(ConfigError) as error:
            gdig.select(**project.options(swept_copy, method="self-filter", **options))
        return str(error.value)

    (tmp_path / "x.npy").write_bytes(b"no numbers")
    (tmp_path / "x.safetensors").write_bytes(b"no tensors")
    assert "features: " in message(features=str(tmp_path / "x.npy"))
    assert "cannot be read" in message(features=str(tmp_path / "x.safetensors"))
    assert "expected a .npy file, found none" in message(difficulty=str(tmp_path / "absent.npy"))
    save_file({"a": np.zeros((N_ROWS, 1)), "b": np.zeros((N_ROWS, 1))}, tmp_path / "two.safetensors")
    assert "expected a tensor 'features', got a, b" in message(features=str(tmp_path / "two.safetensors"))
    np.save(tmp_path / "f.npy", np.zeros(3))
    assert "f.npy: expected floats [60], one for each row of the pool; got float64 [3]" in message(
        difficulty=str(tmp_path / "f.npy")
    )
    np.save(tmp_path / "f.npy", np.where(np.arange(N_ROWS) == 5, np.inf, 0.0))
    assert "row 5: expected a finite float32 number, got inf" in message(difficulty=str(tmp_path / "f.npy"))
    np.save(tmp_path / "f.npy", np.array([None] * N_ROWS), allow_pickle=True)
    assert "f.npy: expected a .npy file of numbers" in message(difficulty=str(tmp_path / "f.npy"))


@pytest.mark.parametrize("method", ["g2is", "self-filter"])
def test_more_neighbours_than_rows(project, swept_copy, method):
    with pytest.raises(ConfigError, match="n_neighbours=60: expected at most 59, because the pool has 60 rows"):
        gdig.select(**project.options(swept_copy, method=method, n_neighbours=60))
    assert len(gdig.select(**project.options(swept_copy, method=method, n_neighbours=59)).rows) == 12
    with pytest.raises(ConfigError, match="n_neighbours=0: expected a whole number of at least 1"):
        Config.build({"n_neighbours": 0})


@pytest.mark.parametrize("budget", ["7", "100%", "300t"])
def test_facility_location_is_the_plain_one(project, swept_copy, budget):
    result = gdig.select(**project.options(swept_copy, method="facility", n_neighbours=4, budget=budget))
    sweep = stored(swept_copy)
    valid = np.flatnonzero(sweep["valid"])
    near, cosines = _native.neighbours(SketchStore.open(swept_copy / "sweep")._native, 4)
    numbers = np.full(N_ROWS, -1)
    numbers[valid] = np.arange(len(valid))
    rows, gains = plain_facility(numbers[near[valid].astype(np.int64)], cosines[valid], len(valid))
    held = int(sweep["tokens"].sum()) if budget.endswith("t") else None
    if held is not None:
        n = int((np.cumsum(sweep["tokens"][valid[rows]]) <= 300).sum())
    else:
        n = min(len(valid), 7 if budget == "7" else N_ROWS)
    assert result.rows.tolist() == valid[rows[:n]].tolist()
    # Sums of at most 60 float32 differences, in float64 here and there.
    assert [column["gain"] for column in result.columns] == pytest.approx(gains[:n], rel=1e-12)
    share = sum(gains[:n]) / len(valid)
    assert any(line.startswith(f"the rows cover {share:.1%} of the pool") for line in result.summary)
