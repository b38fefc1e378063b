"""A pool that grows: only new rows are swept, old ones and earlier selections stay, and drift is told."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

import gdig
from gdig.errors import RunError
from gdig.passes import shards as shards_module
from gdig.passes.drift import curvature_drift, shift
from gdig.progress import Progress
from gdig.run.origin import origin_at
from gdig.run.pool_files import with_recorded_names
from gdig.run.record import RunRecord
from gdig.store.sketches import SketchStore
from tests.support import profiles
from tests.support.project_fixtures import ROWS_PER_SHARD, stages, translation_rows, write_jsonl

STEPS = (20, 7, 16, 1, 16)
"""Rows of five files: growths inside a shard, over its end, by one row, and up to its end."""


def tensors(run: Path) -> dict[str, np.ndarray]:
    files = [load_file(file) for file in sorted((run / "sweep").glob("*.safetensors"))]
    return {name: np.concatenate([file[name] for file in files]) for name in files[0]}


@pytest.fixture(scope="module")
def five(project, tmp_path_factory):
    """Five files, and the options of a run over the first ones."""
    root = tmp_path_factory.mktemp("five")
    rows, start, files = translation_rows(sum(STEPS), random_seed=3), 0, []
    for number, n in enumerate(STEPS):
        files.append(str(write_jsonl(root / f"{number}.jsonl", rows[start : start + n])))
        start += n

    def options(run: Path, n: int, **changes):
        return project.options(run, candidates=tuple(files[:n]), **{"budget": "30%", "method": "turns", **changes})

    return files, options


@pytest.fixture(scope="module")
def grown(five, tmp_path_factory):
    """The run after each of the five steps, with what was selected, and how many rows each start passed."""
    _, options = five
    run = tmp_path_factory.mktemp("grown") / "run"
    selections, swept, texts = [], [], []
    write = shards_module._write

    def count(store, shard, before, resume, given):
        swept[-1] += len(given["loss"])
        return write(store, shard, before, resume, given)

    patch = pytest.MonkeyPatch()
    patch.setattr(shards_module, "_write", count)
    for step in range(1, len(STEPS) + 1):
        swept.append(0)
        selections.append(gdig.select(**options(run, step)).rows.tolist())
        texts.append((run / "selection.jsonl").read_bytes())
    patch.undo()
    return run, selections, swept, texts


def test_only_the_rows_of_appended_files_are_swept(grown, five):
    run, _, swept, _ = grown
    assert swept == list(STEPS)
    assert [step["first_row"] for step in stages(run)["sweep"]["growth"]] == np.cumsum(STEPS)[:-1].tolist()
    assert stages(run)["sweep"]["rows"] == sum(STEPS) == len(tensors(run)["loss"])
    assert gdig.verify(run).sound


def test_rows_have_the_numbers_of_a_sweep_of_all_files_under_the_same_fit(five, grown, tmp_path):
    """The seeds alone decide the influence without a curvature: then a growth changes nothing but batches."""
    _, options = five
    plain = {"inversion": "identity", "sketch_space": "raw", "method": "top"}
    for step in (1, 3, 5):
        picked = gdig.select(**options(tmp_path / "grown", step, **plain))
    whole = gdig.select(**options(tmp_path / "whole", 5, **plain))
    a, b = tensors(tmp_path / "grown"), tensors(tmp_path / "whole")
    assert a["hash"].tolist() == b["hash"].tolist() and a["tokens"].tolist() == b["tokens"].tolist()
    scale = stages(tmp_path / "grown")["sweep"]["scale"] / stages(tmp_path / "whole")["sweep"]["scale"]
    # Batches of other shapes round otherwise: float32 sums over at most a few hundred terms.
    for name, factor in (("influence", 1), ("loss", 1), ("hidden", 1), ("sketch", scale)):
        x, y = a[name].astype(np.float64), factor * b[name].astype(np.float64)
        assert np.abs(x - y).max() <= 2e-3 * np.abs(y).max(), name
    assert picked.rows.tolist() == whole.rows.tolist()


def test_an_earlier_selection_comes_back_byte_for_byte(five, grown, tmp_path):
    _, options = five
    run, selections, _, texts = grown
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    before = {file: file.read_bytes() for folder in ("sweep", "clusters") for file in (copy / folder).rglob("*.s*")}
    for step in (3, 1, 4, 2, 5):
        assert gdig.select(**options(copy, step)).rows.tolist() == selections[step - 1]
        assert (copy / "selection.jsonl").read_bytes() == texts[step - 1]
        assert stages(copy)["select"]["pool_rows"] == sum(STEPS[:step])
    assert before == {file: file.read_bytes() for file in before}
    assert json.loads((copy / "run.json").read_text())["config"]["candidates"] == list(five[0])
    later = gdig.select(run_path=str(copy), method="turns", budget="30%", quiet=True, report=False)
    assert later.rows.tolist() == selections[4], "a start without the option has all files"


def test_the_same_steps_leave_the_same_bytes_also_after_a_damage(five, grown, tmp_path):
    _, options = five
    run, selections, _, _ = grown
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    shard = copy / "sweep" / "00000001.safetensors"
    shard.unlink()  # rows 16 to 31: of three steps
    (copy / "clusters" / "labels" / "00000001.safetensors").unlink()
    assert gdig.select(**options(copy, 5)).rows.tolist() == selections[4]
    for file in sorted((run / "sweep").glob("*")):
        assert file.name == "resume" or file.read_bytes() == (copy / "sweep" / file.name).read_bytes()
    with pytest.raises(RunError, match="give all files of the run once"):
        shard.unlink()
        gdig.select(**options(copy, 2))


def test_clusters_stay_or_are_made_again(five, grown, tmp_path):
    _, options = five
    run, _, _, _ = grown
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    centroids = copy / "clusters" / "centroids.safetensors"
    first = centroids.read_bytes()
    assert stages(copy)["cluster"]["rows"] == STEPS[0]
    alone = gdig.cluster(**options(tmp_path / "alone", 1))
    assert load_file(alone / "clusters" / "centroids.safetensors")["centroids"].tolist() == (
        load_file(centroids)["centroids"].tolist()
    )
    again = gdig.select(**options(copy, 5, grown_clusters="again"))
    assert centroids.read_bytes() != first and stages(copy)["cluster"]["rows"] == sum(STEPS)
    assert gdig.select(**options(copy, 5, grown_clusters="again")).rows.tolist() == again.rows.tolist()
    gdig.select(**options(copy, 5))
    assert centroids.read_bytes() == first, "the first files' clusters are those again"


def test_a_budget_may_be_more_than_the_first_files_hold(five, grown, tmp_path):
    _, options = five
    copy = tmp_path / "run"
    shutil.copytree(grown[0], copy)
    tokens = int(tensors(copy)["tokens"][: STEPS[0]].sum()) + 100
    assert len(gdig.select(**options(copy, 5, budget=str(STEPS[0] + 10))).rows) == STEPS[0] + 10
    assert gdig.select(**options(copy, 5, budget=f"{tokens}t")).rows.size
    assert stages(copy)["cluster"]["rows"] == STEPS[0]


def test_a_growth_that_was_interrupted_goes_on(five, grown, tmp_path, monkeypatch):
    _, options = five
    run, selections, _, _ = grown
    copy = tmp_path / "run"
    for step in (1, 2):
        gdig.select(**options(copy, step))
    write, calls = shards_module._write, []

    def fail(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise OSError("the disk went")
        return write(*arguments)

    monkeypatch.setattr(shards_module, "_write", fail)
    with pytest.raises(OSError, match="the disk went"):
        gdig.select(**options(copy, 3))  # to the end of the second shard, and into the third
    monkeypatch.undo()
    with pytest.raises(RunError, match="Files can be appended once the sweep of those before them is done"):
        gdig.select(**options(copy, 4))
    with pytest.raises(RunError, match="give all files of the run once"):
        gdig.select(**options(copy, 1))
    for step in (3, 4, 5):
        picked = gdig.select(**options(copy, step))
    assert picked.rows.tolist() == selections[4]
    for file in sorted((run / "sweep").glob("*.safetensors")):
        assert file.read_bytes() == (copy / "sweep" / file.name).read_bytes()


def test_a_growth_that_is_given_up_leaves_the_run_as_it_was(five, tmp_path, monkeypatch):
    files, options = five
    run = tmp_path / "run"
    first = gdig.select(**options(run, 1)).rows.tolist()
    bad = write_jsonl(tmp_path / "bad.jsonl", [{"src_text": 3}])
    with pytest.raises(gdig.GdigError, match=r"bad\.jsonl"):
        gdig.select(**{**options(run, 1), "candidates": (files[0], str(bad))})
    assert gdig.select(**options(run, 1)).rows.tolist() == first
    assert stages(run)["sweep"]["growth"] == [] and gdig.verify(run).sound
    assert len(gdig.select(**options(run, 2)).rows) == round(0.3 * sum(STEPS[:2]))


def test_a_file_that_changed_or_went_is_named(five, grown, tmp_path):
    files, options = five
    run, _, _, _ = grown
    copy = tmp_path / "run"
    shutil.copytree(run, copy)

    def refused(candidates, match):
        with pytest.raises(RunError, match=match):
            gdig.select(**{**options(copy, 5), "candidates": tuple(map(str, candidates))})

    refused([files[0], files[2]], r"other inputs:\n  candidates: 1\.jsonl is gone since the run began\nUse")
    refused([files[1], files[0], *files[2:]], r"candidates: the files come in another order")
    (tmp_path / "pool").mkdir()
    copies = [Path(shutil.copy(file, tmp_path / "pool")) for file in files]
    assert len(gdig.select(**{**options(copy, 5), "candidates": tuple(map(str, copies))}).rows) == 18
    copies[2].write_text(copies[2].read_text() + "\n")
    refused(copies, r"candidates: 2\.jsonl changed since the run began")
    # Files after the last one that is given are no difference, because an earlier selection leaves them out.
    refused(copies[:4], r"other inputs:\n  candidates: 2\.jsonl changed since the run began\nUse")
    new = write_jsonl(tmp_path / "pool" / "new.jsonl", translation_rows(3, random_seed=8))
    refused([new, *files], r"(?s)new\.jsonl is new since the run began.*New files can be appended: give them after")


def test_the_warning_fires_for_rows_of_another_kind_and_is_silent_for_the_same(project, tmp_path):
    """The second half of a pool: a half of the same rows drawn at random, or rows of digits in a fixed form."""
    rows = translation_rows(120, random_seed=5)
    digits = [
        {
            "src_lang": "Digits",
            "trg_lang": "Digits",
            "src_text": f"{i * 7919 % 9973:06d} 0 0",
            "trg_text": f"{i} 1 1 1 1",
        }
        for i in range(60)
    ]
    first = str(write_jsonl(tmp_path / "first.jsonl", rows[:60]))
    files = {
        name: str(write_jsonl(tmp_path / f"{name}.jsonl", more))
        for name, more in (("same", rows[60:]), ("few", rows[60:65]), ("other", digits))
    }
    options = project.options(tmp_path / "run", candidates=(first,), fit_tokens=8000, method="top")
    gdig.sweep(**options)
    for name, appended in files.items():
        copy = shutil.copytree(tmp_path / "run", tmp_path / name)
        said = Warned()
        picked = gdig.select(**{**options, "run_path": str(copy), "candidates": (first, appended)}, progress=said)
        drift = stages(copy)["sweep"]["growth"][0]["drift"]
        assert (drift["old"], drift["new"]) == (60, 5 if name == "few" else 60)
        warned = [line for line in picked.warnings if "a new fit is due" in line]
        assert bool(drift["due"]) == bool(warned) == (name == "other"), drift
        assert set(said.texts) == set(picked.warnings), "a growth as such is nothing to be warned of"
    assert {"hidden", "curvature"} <= set(drift["due"])
    assert drift["curvature"]["new"] > drift["curvature"]["old"] + 0.1
    assert warned[0].startswith("other.jsonl: the appended rows are of another kind")
    given_files = {**options, "run_path": str(copy), "report": True}
    both = gdig.select(**{**given_files, "candidates": (first, files["other"], files["same"])})
    assert warned[0] in both.warnings, "rows of another kind stay so when others come after them"
    earlier = gdig.select(**{**given_files, "candidates": (first,)})
    assert warned[0] not in earlier.warnings and not any("no report" in line for line in earlier.warnings)
    assert any(line.startswith("report: ") for line in earlier.summary)


class Warned(Progress):
    """Keeps the warnings."""

    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.texts: list[str] = []

    def warn(self, text: str) -> None:
        if text not in self.texts:
            self.texts.append(text)


@given(st.integers(0, 2**32 - 1), st.integers(2, 8), st.integers(1, 8), st.integers(1, 4))
def test_groups_of_the_fit_and_of_rows_like_them_have_equal_errors(random_seed, n_old, n_new, size):
    """In the mean over draws: the distance of a group's mean from that of the rows, of which it is one or is none."""
    rng, fitted = np.random.default_rng(random_seed), size * n_old
    old = rng.standard_normal((n_old, size)).mean(1)
    new = rng.standard_normal((n_new, size)).mean(1)
    errors = [np.abs(x - old.mean()).tolist() for x in (old, new)]
    drift = curvature_drift(*errors, size, fitted)
    factor = ((fitted + size) / (fitted - size)) ** 0.5
    # Of normal numbers with variance 1, the mean of a group of m lies from the mean of n, m of them its own, by a
    # variance of 1/m - 1/n; from the mean of n others by 1/m + 1/n.
    assert 1 / size - 1 / fitted == pytest.approx((1 / size + 1 / fitted) / factor**2)
    assert drift.old == pytest.approx(factor * sum(errors[0]) / n_old)
    assert drift.new == pytest.approx(sum(errors[1]) / n_new)
    variance = sum((factor * x - drift.old) ** 2 for x in errors[0]) / (n_old - 1)
    assert drift.error**2 == pytest.approx(variance * (1 / n_old + 1 / n_new), abs=1e-18, rel=1e-9)


@given(st.integers(2, 40), st.integers(2, 40), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_the_shift_is_the_formula(n_old, n_new, dim, random_seed):
    rng = np.random.default_rng(random_seed)
    old, new = rng.standard_normal((n_old, dim)), 3 * rng.standard_normal((n_new, dim)) + 1
    moved = shift(old, new)

    def mean(x, j):
        return sum(float(row[j]) for row in x) / len(x)

    def variance(x):
        return sum(sum((float(row[j]) - mean(x, j)) ** 2 for row in x) / (len(x) - 1) for j in range(dim))

    chance = variance(old) / n_old + variance(new) / n_new
    apart = sum((mean(new, j) - mean(old, j)) ** 2 for j in range(dim))
    assert moved.size**2 == pytest.approx(max(0, apart - chance) / variance(old), abs=1e-12, rel=1e-9)
    assert moved.error**2 == pytest.approx(chance / variance(old), rel=1e-9)


def test_a_constant_has_a_shift_only_where_it_changes():
    ones = np.ones(5)
    assert shift(ones, ones).size == 0 and shift(ones, 2 * ones).size == np.inf


@settings(max_examples=profiles.examples(20))
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(2, 5))
def test_shards_that_grow_are_those_that_are_written_whole(tmp_path_factory, steps, rows_per_shard):
    """Each step extends the last shard: the same files, whoever wrote the rows before."""
    root = tmp_path_factory.mktemp("stores")
    rng, n = np.random.default_rng(0), sum(steps)
    x, extra = rng.standard_normal((n, 3)).astype(np.float32), rng.standard_normal((n, 2)).astype(np.float32)
    ends = np.cumsum(steps)
    made_from = " ".join(["a", *(f"{end}:s{i}" for i, end in enumerate(ends[:-1]))])
    for dtype in ("float16", "int8"):
        stores = {}
        for name in ("grown", "whole"):
            store = SketchStore.describe(
                root / f"{name}-{dtype}", 3, dtype=dtype, rows_per_shard=rows_per_shard, made_from=made_from
            )
            stores[name] = store
        for start, stop in zip([0, *ends[:-1]], ends, strict=True):
            for shard in range(start // rows_per_shard, -(-stop // rows_per_shard)):
                first = shard * rows_per_shard
                rows = slice(max(start, first), min(stop, first + rows_per_shard))
                given_rows = {"sketch": x[rows], "extra": extra[rows]}
                if rows.start > first:
                    stores["grown"].extend_shard(shard, rows.start - first, given_rows)
                else:
                    stores["grown"].write_shard(shard, given_rows)
        for shard in range(-(-n // rows_per_shard)):
            rows = slice(shard * rows_per_shard, min(n, (shard + 1) * rows_per_shard))
            stores["whole"].write_shard(shard, {"sketch": x[rows], "extra": extra[rows]})
            a, b = (stores[name].shard_path(shard).read_bytes() for name in ("grown", "whole"))
            assert a == b
            assert stores["grown"].origin_of(shard) == origin_at(made_from, rows.stop)
        assert stores["grown"].damage(n) == {}
        more = SketchStore.describe(
            stores["grown"].path, 3, dtype=dtype, rows_per_shard=rows_per_shard, made_from=f"{made_from} {n}:t"
        )
        damage, last = more.damage(n + 1), n // rows_per_shard
        if n % rows_per_shard:
            assert list(damage) == [last] and damage[last].state == "short" and more.absent(n + 1) == []
        else:
            assert damage == {} and more.absent(n + 1) == [last]


def test_names_are_those_of_the_run_wherever_an_appended_file_lies():
    before = {"a.jsonl": {"hash": "1"}, "b.jsonl": {"hash": "2"}}
    record = RunRecord(inputs={"candidates": before})
    now = {"pool/a.jsonl": {"hash": "1"}, "pool/b.jsonl": {"hash": "2"}, "b.jsonl": {"hash": "4"}}
    files = with_recorded_names(record, {"candidates": now})["candidates"]
    assert list(files.items()) == [
        ("a.jsonl", {"hash": "1"}),
        ("b.jsonl", {"hash": "2"}),
        ("+b.jsonl", {"hash": "4"}),
    ]
    twice = RunRecord(inputs={"candidates": {"x/a.jsonl": {"hash": "1"}, "y/a.jsonl": {"hash": "1"}}})
    now = {"p/x/a.jsonl": {"hash": "1"}, "p/y/a.jsonl": {"hash": "1"}, "q/b.jsonl": {"hash": "2"}}
    files = with_recorded_names(twice, {"candidates": now})["candidates"]
    assert list(files) == ["x/a.jsonl", "y/a.jsonl", "q/b.jsonl"]
    assert ROWS_PER_SHARD == 16  # the steps are chosen for shards of 16 rows
