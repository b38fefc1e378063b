"""Searches by conjugate gradients that were stopped: kept, gone on from to the same bytes, and never mistaken."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest

import gdig
from gdig.influence import conjugate_gradients as conjugate
from gdig.influence.gauss_newton import GaussNewton
from gdig.run.verify import verify
from gdig.store.resume_file import Pace, ResumeFile
from gdig.store.tensor_file import read_tensors, write_tensors
from tests.support.project_fixtures import Command, SignalAt, edit_record, flags
from tests.support.stops import Stop, StopAt
from tests.support.torchrun import files_of

CG = {"inversion": "cg", "cg_rows": 12, "cg_iterations": 3, "cg_tolerance": 0.0, "token_batch_size": 128}
LATER = ("projection_dim", "projection_side", "rows_per_shard", "n_clusters", "budget", "method", "tau", "report")


def fit_options(project, run_path, **changes) -> dict:
    return {k: v for k, v in project.options(run_path, **{**CG, **changes}).items() if k not in LATER}


@pytest.fixture(scope="module")
def whole(project, tmp_path_factory) -> Path:
    """A fit that nobody stopped, and that kept nothing on its way."""
    return gdig.fit(**fit_options(project, tmp_path_factory.mktemp("whole") / "run"))


@pytest.fixture(scope="module")
def fitted(whole, tmp_path_factory) -> Path:
    """A copy of the run as it was before its seeds."""
    copy = tmp_path_factory.mktemp("fitted") / "run"
    shutil.copytree(whole, copy)
    shutil.rmtree(copy / "seeds")
    edit_record(copy, lambda record: record["stages"]["fit"].update(state="running", seeds=None))
    return copy


@pytest.fixture
def additions(monkeypatch) -> StopAt:
    """additions(n): the n-th batch from now on raises Stop. Returns the list of how many products each is added to."""
    monkeypatch.setenv("GDIG_RESUME_INTERVAL", "0")
    return StopAt(monkeypatch, GaussNewton, "_add", lambda batch, directions, *more: len(directions))


def fit_stopped_at(additions, n: int | None, options: dict) -> int:
    """Fit, and stop after `n` batches where `n` says so. Returns how often a batch was added to a product."""
    if n is None:
        added = additions(None)
        gdig.fit(**options)
        return sum(added)
    added = additions(n + 1)
    with pytest.raises(Stop):
        gdig.fit(**options)
    return sum(added[:-1])


def test_a_search_stopped_at_any_batch_loses_that_batch_alone(project, whole, fitted, tmp_path, additions, monkeypatch):
    """Also if other seeds lie side by side at each start."""
    run_path = Path(shutil.copytree(fitted, tmp_path / "run"))
    options = fit_options(project, run_path)
    n = fit_stopped_at(additions, None, options)
    assert files_of(run_path) == files_of(whole)
    shutil.rmtree(run_path)
    shutil.copytree(fitted, run_path)
    done = 0
    for seeds, batches in ((4, 5), (4, 1), (4, 8), (2, 7), (3, 9), (5, 2)):
        monkeypatch.setattr(conjugate, "_MAX_SEEDS", seeds)
        done += fit_stopped_at(additions, batches, options)
    assert 0 < done < n, "the stops must hit the searches"
    assert done + fit_stopped_at(additions, None, options) == n, "what was done was done again"
    assert files_of(run_path) == files_of(whole)


def test_searches_stopped_between_the_files_of_two_seeds_go_on(
    project, whole, fitted, tmp_path, additions, monkeypatch
):
    """The seeds are then at other batches, and at other iterations."""
    run_path = Path(shutil.copytree(fitted, tmp_path / "run"))
    options, writes, limit = fit_options(project, run_path), [0], [0]
    write = ResumeFile.write

    def stopping(self, *content):
        if self.path.name.startswith(("search", "product-")):
            writes[0] += 1
            if writes[0] == limit[0]:
                raise Stop
        return write(self, *content)

    monkeypatch.setattr(ResumeFile, "write", stopping)
    additions(None)
    for limit[0] in (4, 13, 21, 8):  # of 5 or 10 files a batch
        writes[0] = 0
        with pytest.raises(Stop):
            gdig.fit(**options)
    states = [json.loads(read_tensors(path)[1]["facts"]) for path in run_path.rglob("product-*")]
    assert len({tuple(state) for state in states}) > 1, "the seeds must be at other batches"
    limit[0] = 0
    gdig.fit(**options)
    assert files_of(run_path) == files_of(whole)


@pytest.mark.slow
def test_a_search_that_is_killed_again_and_again_ends_with_the_same_bytes(project, whole, fitted, tmp_path):
    run_path = Path(shutil.copytree(fitted, tmp_path / "run"))
    args = ["fit", *flags(fit_options(project, run_path))]
    for number, count in enumerate((3, 6, 5)):
        moment = SignalAt("gdig.influence.gauss_newton:GaussNewton._add", count)
        command = Command.start(args, tmp_path, environment={"GDIG_RESUME_INTERVAL": "0"}, signal_at=moment)
        assert command.wait() == -signal.SIGKILL, command.error
        assert list(run_path.rglob("search-*")), number
    gdig.fit(**fit_options(project, run_path))
    assert files_of(run_path) == files_of(whole)


def damage(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def forge(file: Path, **changes) -> None:
    """Write a file anew with other facts or tensors, and a checksum that is right."""
    tensors, metadata = read_tensors(file)
    facts = json.loads(metadata["facts"])
    for name, value in changes.items():
        if name == "facts":
            facts = value
        elif name.startswith("fact"):
            facts[int(name[4:])] = value
        elif name == "made_from":
            metadata["made_from"] = json.dumps({**json.loads(metadata["made_from"]), **value})
        else:
            tensors[name] = value
    write_tensors(file, {k: np.array(v) for k, v in tensors.items()}, {**metadata, "facts": json.dumps(facts)})


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("search-00000001", {}),  # damaged
        ("product-00000002", {}),
        ("search-00000000", {"made_from": {"batches": "0" * 16}}),
        ("product-00000000", {"made_from": {"origin": "0" * 16}}),
        ("search-00000003", {"facts": [1.0]}),
        ("search-00000003", {"facts": {"a": 1}}),
        ("search-00000003", {"fact3": 10**400}),  # iterations
        ("search-00000003", {"fact3": -1}),
        ("search-00000003", {"fact3": True}),
        ("search-00000003", {"fact2": float("nan")}),  # the first residual
        ("search-00000003", {"fact2": 0.0}),
        ("search-00000003", {"x0": np.zeros((3, 3), np.float32)}),
        ("search-00000003", {"p1": np.zeros(4, np.int8)}),
        ("product-00000004", {"facts": None}),
        ("product-00000004", {"fact1": 0}),
        ("product-00000004", {"fact1": 10**9}),
        ("product-00000004", {"fact2": -1}),
        ("product-00000004", {"q0": np.zeros((3, 3), np.float32)}),
    ],
    ids=lambda x: x if isinstance(x, str) else (str(next(iter(x), "damaged"))),
)
def test_a_file_that_cannot_be_used_is_discarded_by_name_and_its_work_is_done_again(
    project, whole, fitted, tmp_path, additions, capsys, name, change
):
    run_path = Path(shutil.copytree(fitted, tmp_path / "run"))
    options = fit_options(project, run_path, quiet=False)
    fit_stopped_at(additions, 2, options)
    file = run_path / "seeds" / "resume" / f"{name}.safetensors"
    assert {"seeds/resume/" + path.name for path in file.parent.iterdir()} <= {x.file for x in verify(run_path).files}
    forge(file, **change) if change else damage(file)
    if not change:
        bad = [report for report in verify(run_path).files if report.state != "sound"]
        assert [(report.file, report.state) for report in bad] == [(f"seeds/resume/{file.name}", "damaged")]
    capsys.readouterr()
    fit_stopped_at(additions, None, options)
    error = capsys.readouterr().err
    assert str(file) in error and "the resume file is discarded, and its work is done again" in error
    assert files_of(run_path) == files_of(whole)


def test_a_product_of_an_iteration_before_is_not_used(project, whole, fitted, tmp_path, additions, monkeypatch):
    """The pace may keep a search after an iteration, and nothing of the next one."""
    run_path = Path(shutil.copytree(fitted, tmp_path / "run"))
    options = fit_options(project, run_path)
    fit_stopped_at(additions, 2, options)
    kept = {path: path.read_bytes() for path in run_path.rglob("product-*")}
    assert len(kept) == 5
    fit_stopped_at(additions, 4, options)
    for path, content in kept.items():
        path.write_bytes(content)
    fit_stopped_at(additions, None, options)
    assert files_of(run_path) == files_of(whole)


def test_a_later_start_takes_the_batches_of_the_first(project, tmp_path, additions, monkeypatch):
    """With less free memory, "auto" would take smaller ones, and their sums have other bits."""
    options = fit_options(project, tmp_path / "whole", token_batch_size="auto")
    gdig.fit(**options)
    options["run_path"] = str(tmp_path / "run")
    n = fit_stopped_at(additions, 3, options)
    assert n
    monkeypatch.setattr(
        "gdig.influence.gauss_newton.resolve_token_batch_size",
        lambda option, *more: option if isinstance(option, int) else 64,
    )
    fit_stopped_at(additions, None, options)
    assert files_of(tmp_path / "run") == files_of(tmp_path / "whole")


def test_what_is_not_due_is_not_written(project, fitted, tmp_path, additions, monkeypatch):
    run_path = Path(shutil.copytree(fitted, tmp_path / "run"))
    monkeypatch.setattr(Pace, "due", lambda self, ahead_s=0.0: False)
    fit_stopped_at(additions, 3, fit_options(project, run_path))
    assert not list(run_path.rglob("search-*"))


def test_a_plan_counts_the_searches_side_by_side(project, tmp_path, monkeypatch):
    """In memory five numbers a weight, on the disk four, by as many seeds as half of the free memory holds."""
    asked = project.options(tmp_path / "run", **{**CG, "filter_modules": "q_proj"})
    plans = {}
    for most in (1, 3, 16):
        monkeypatch.setattr(conjugate, "_MAX_SEEDS", most)
        plans[most] = gdig.plan(**asked)
    work = {most: plan.memory["seeds"].work for most, plan in plans.items()}
    assert work[1] > 0 and work[3] == 3 * work[1] and work[16] == 5 * work[1], "there are five seeds"
    assert plans[16].disk["resume files"] >= work[16] // 5 * 4
    assert gdig.plan(**{**asked, "inversion": "ekfac"}).memory["seeds"].work == 0
