"""Work inside a shard or a sum that was stopped: kept, gone on from to the same bytes, and never mistaken."""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import gdig
from gdig.influence.factors import eigenbasis
from gdig.influence.memory_plan import plan_fit
from gdig.influence.seed_preconditioner import SeedPreconditioner
from gdig.model.capture import GradientPass
from gdig.passes.row_pass import RowPass
from gdig.run.record_file import read_record, write_record
from gdig.run.verify import verify
from gdig.store.resume_file import Pace, ResumeFile
from gdig.store.tensor_file import read_tensors, write_tensors
from tests.support.project_fixtures import Command, SignalAt, flags
from tests.support.stops import Stop, StopAt
from tests.support.torchrun import files_of, finish_on_ranks, start_ranks

PASS = "gdig.model.capture:GradientPass.run"
KEEP_ALL = {"GDIG_RESUME_INTERVAL": "0"}
# One shard, many batches: a sweep that kept whole shards alone would lose all of them.
OPTIONS = {"token_batch_size": 128, "rows_per_shard": 64}


def sweep_options(project, run_path, **changes) -> dict:
    unknown = ("n_clusters", "budget", "report", "method", "tau")
    return {k: v for k, v in project.options(run_path, **{**OPTIONS, **changes}).items() if k not in unknown}


@pytest.fixture
def keep_all(monkeypatch) -> None:
    monkeypatch.setenv("GDIG_RESUME_INTERVAL", "0")


@pytest.fixture(scope="module")
def whole(project, tmp_path_factory) -> Path:
    """The sweep of a run that nobody stopped, and that kept nothing on its way."""
    return gdig.sweep(**sweep_options(project, tmp_path_factory.mktemp("whole") / "run"))


@pytest.fixture(scope="module")
def fitted(whole, tmp_path_factory) -> Path:
    """A copy of the run as it was before its sweep."""
    copy = tmp_path_factory.mktemp("fitted") / "run"
    shutil.copytree(whole, copy)
    for folder in ("sweep", "features"):
        shutil.rmtree(copy / folder)
    record = read_record(copy / "run.json")
    write_record(copy / "run.json", replace(record, stages=replace(record.stages, sweep=None)))
    return copy


@pytest.fixture
def stop_at(monkeypatch) -> StopAt:
    """stop_at(n): the n-th batch from now on that goes through a model raises Stop. Returns the numbers of rows."""
    return StopAt(monkeypatch, GradientPass, "run", lambda batch, *sinks, **more: len(batch.rows))


def sweep_stopped_at(stop_at, n: int | None, options: dict) -> int:
    """Sweep, and stop at the n-th batch where n is given. Returns how many batches went through a model."""
    batches = stop_at(n)
    if n is None:
        gdig.sweep(**options)
    else:
        with pytest.raises(Stop):
            gdig.sweep(**options)
    return len(batches)


def test_a_sweep_stopped_at_any_batch_loses_that_batch_alone(project, whole, fitted, tmp_path, stop_at):
    run_path = Path(shutil.copytree(fitted, tmp_path / "run"))
    options = sweep_options(project, run_path)
    per_start = sweep_stopped_at(stop_at, None, options)
    shutil.rmtree(run_path)
    shutil.copytree(fitted, run_path)
    first = sweep_stopped_at(stop_at, 9, options)  # the scale of the sketches is not yet recorded, or one batch is done
    passed = [first - 1]
    for n in (7, 3, 6, 5):
        passed.append(sweep_stopped_at(stop_at, n, options) - 1)
    passed.append(sweep_stopped_at(stop_at, None, options))
    assert files_of(run_path) == files_of(whole)
    assert sum(passed) == per_start, "what was done was done again"


def test_seeds_that_are_swept_before_a_stop_are_not_swept_again(project, whole, fitted, tmp_path, stop_at, monkeypatch):
    """Hundreds of seeds of a real model take minutes."""
    run_path = Path(shutil.copytree(fitted, tmp_path / "run"))
    options, batches = sweep_options(project, run_path), stop_at(None)
    of_seeds: list[tuple[int, int]] = []  # batches before those of the seeds, and how many these are
    compute = RowPass.compute

    def counted(self, examples, bar=None, resume=None):
        if resume is not None:  # the probe rows have none
            of_seeds.append((len(batches), len(self.batches_of(examples))))
        return compute(self, examples, bar, resume)

    monkeypatch.setattr(RowPass, "compute", counted)
    gdig.sweep(**options)
    ((before, n),), all_batches = of_seeds, len(batches)
    assert n > 1
    shutil.rmtree(run_path)
    shutil.copytree(fitted, run_path)
    sweep_stopped_at(stop_at, before + n, options)  # in the last batch of the seeds
    kept = run_path / "sweep" / "resume" / "seeds.safetensors"
    assert 0 < len(read_tensors(kept)[0]["rows"]) < 5
    assert "sweep/resume/seeds.safetensors" in {report.file for report in verify(run_path).files}
    assert sweep_stopped_at(stop_at, None, options) == all_batches - (before + n - 1)
    assert files_of(run_path) == files_of(whole)


@pytest.mark.slow
def test_a_sweep_killed_inside_its_shard_again_and_again_ends_with_the_same_bytes(project, whole, fitted, tmp_path):
    run_path = tmp_path / "run"
    shutil.copytree(fitted, run_path)
    args = ["sweep", *flags(sweep_options(project, run_path))]
    resume_file = run_path / "sweep" / "resume" / "00000000.safetensors"
    rows = 0
    # The first batches are those of the probe rows and of the seeds, which the first start passes. Of the batches
    # before a kill, two may be in flight and the rows of two more may wait for the writer.
    for count in (17, 7, 7):
        command = Command.start(args, tmp_path, environment=KEEP_ALL, signal_at=SignalAt(PASS, count))
        assert command.wait() == -signal.SIGKILL, command.error
        before, rows = rows, len(read_tensors(resume_file)[0]["rows"])
        assert before < rows < 60, "the kill must hit a shard, and later starts must go on from it"
    gdig.sweep(**sweep_options(project, run_path))
    assert files_of(run_path) == files_of(whole)
    assert not resume_file.parent.exists()


def stopped(project, fitted, folder: Path, stop_at) -> tuple[dict, Path]:
    """A run whose sweep was stopped in its shard: its options, and the shard's resume file."""
    shutil.copytree(fitted, folder)
    options = sweep_options(project, folder)
    sweep_stopped_at(stop_at, 12, options)
    stop_at(None)
    return options, folder / "sweep" / "resume" / "00000000.safetensors"


def damage(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def test_a_damaged_resume_file_is_told_by_verify_and_discarded_by_the_next_start(
    project, whole, fitted, tmp_path, stop_at, capsys
):
    options, file = stopped(project, fitted, tmp_path / "run", stop_at)
    assert any(line.startswith("sweep/resume: 1 sound, ") for line in verify(tmp_path / "run").lines())
    damage(file)
    bad = [report for report in verify(tmp_path / "run").files if report.state != "sound"]
    assert [(report.file, report.state) for report in bad] == [("sweep/resume/00000000.safetensors", "damaged")]
    gdig.sweep(**{**options, "quiet": False})
    error = capsys.readouterr().err
    assert str(file) in error and "the resume file is discarded, and its work is done again" in error
    assert files_of(tmp_path / "run") == files_of(whole)


def test_a_resume_file_of_other_batches_is_discarded_by_name(project, whole, fitted, tmp_path, stop_at, capsys):
    """token_batch_size may change between starts, so a shard must not mix rows of two sizes.

    What the first start has finished stays: on AVX-512 the last bits of the seeds' sketches depend on the size.
    """
    options, _ = stopped(project, fitted, tmp_path / "run", stop_at)
    gdig.sweep(**{**options, "token_batch_size": 256, "quiet": False})
    assert "token_batch_size 128, now 256; the resume file is discarded" in capsys.readouterr().err
    shutil.copytree(fitted, tmp_path / "fresh")
    gdig.sweep(**{**options, "token_batch_size": 256, "run_path": str(tmp_path / "fresh")})
    seeds = "features/seeds.safetensors"
    run, fresh = files_of(tmp_path / "run"), files_of(tmp_path / "fresh")
    assert run.pop(seeds) == files_of(whole)[seeds] and fresh.pop(seeds)
    assert run == fresh


def test_a_resume_file_of_another_run_is_discarded(project, whole, fitted, tmp_path, stop_at, capsys):
    _, foreign = stopped(project, fitted, tmp_path / "other", stop_at)
    tensors, metadata = read_tensors(foreign)
    made_from = json.loads(metadata["made_from"])
    made_from["origin"] = "0" * 16
    options, file = stopped(project, fitted, tmp_path / "run", stop_at)
    tensors["numbers"] = tensors["numbers"] + 1  # used, it would be seen
    write_tensors(file, tensors, {"made_from": json.dumps(made_from)})
    gdig.sweep(**{**options, "quiet": False})
    assert "made from origin '0000000000000000', now '" in capsys.readouterr().err
    assert files_of(tmp_path / "run") == files_of(whole)


def test_overwrite_leaves_no_resume_file(project, fitted, tmp_path, stop_at):
    options, file = stopped(project, fitted, tmp_path / "run", stop_at)
    with pytest.raises(Stop):
        stop_at(1)
        gdig.sweep(**{**options, "projection_dim": 16, "overwrite": True})
    assert not file.exists()


@pytest.mark.parametrize(
    ("writing_s", "interval_s"),
    [
        (1, 60),
        (4, 80),  # a twentieth of the time
        (10, 120),  # more than that, because two minutes are the most
        (40, 200),  # a fifth
    ],
)
def test_a_resume_file_that_is_not_due_costs_nothing(writing_s, interval_s):
    now, seen = [0.0], []
    pace = Pace(lambda: now[0])
    while now[0] < 1000:
        now[0] += 1
        if pace.due():
            seen.append(now[0])
            with pace.writing():
                now[0] += writing_s
    assert seen[0] == 60 and {b - a for a, b in pairwise(seen)} == {interval_s + writing_s}


def test_a_disk_that_takes_no_resume_file_is_told_and_ends_nothing(tmp_path):
    said: list[str] = []
    (tmp_path / "file").touch()
    file = ResumeFile(tmp_path / "file" / "a.safetensors", {"a": 1}, said.append)
    file.write({"x": np.zeros(3)})
    assert said and said[0].startswith("work in progress is not kept: ")


def fit_options(project, run_path, **changes) -> dict:
    unknown = ("n_clusters", "budget", "report", "method", "tau", "projection_dim", "projection_side", "rows_per_shard")
    return {k: v for k, v in project.options(run_path, **{**OPTIONS, **changes}).items() if k not in unknown}


@pytest.mark.parametrize("damaged", [False, True])
def test_seeds_that_are_done_are_kept(project, whole, tmp_path, monkeypatch, capsys, damaged):
    """The five seeds pass in groups of four and one. If a seed is damaged, its group passes again, and that is said."""
    monkeypatch.setattr(Pace, "due", lambda self, ahead_s=0.0: False)  # what Ctrl-C keeps
    run_path, options = tmp_path / "run", fit_options(project, tmp_path / "run", quiet=False)
    passed: list[range] = []
    invert = SeedPreconditioner._invert

    def stopping(self, numbers):
        if passed:
            raise Stop
        passed.append(numbers)
        return invert(self, numbers)

    def counted(self, numbers):
        passed.append(numbers)
        return invert(self, numbers)

    monkeypatch.setattr(SeedPreconditioner, "_invert", stopping)
    with pytest.raises(Stop):
        gdig.fit(**options)
    files = sorted((run_path / "seeds" / "resume").iterdir())
    assert passed == [range(4)] and [file.stem for file in files] == [f"{number:08}" for number in range(4)]
    if damaged:
        damage(files[1])
    passed.clear()
    monkeypatch.setattr(SeedPreconditioner, "_invert", counted)
    gdig.fit(**options)
    assert passed == ([range(4), range(4, 5)] if damaged else [range(4, 5)])
    assert (f"{files[1]}: " in capsys.readouterr().err) == damaged
    of_fit = {name: data for name, data in files_of(whole).items() if name.startswith(("curvature", "seeds"))}
    assert files_of(run_path) == of_fit


def fit_stopped_at(stop_at, n: int | None, options: dict) -> int:
    """Fit, and stop at the n-th batch where n is given. Returns how many batches went through a model."""
    batches = stop_at(n)
    if n is None:
        gdig.fit(**options)
    else:
        with pytest.raises(Stop):
            gdig.fit(**options)
    return len(batches)


def of_fit(run_path: Path) -> dict[str, bytes]:
    return {name: data for name, data in files_of(run_path).items() if name.startswith(("curvature", "seeds"))}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "partitions"),
    [({}, 1), ({}, 3), ({"inversion": "kfac", "kfac_approx": "reduce"}, 1)],
    ids=["ekfac", "ekfac in 3 partitions", "kfac"],
)
def test_a_fit_stopped_at_any_batch_ends_with_the_same_bytes(
    project, tmp_path, stop_at, keep_all, monkeypatch, changes, partitions
):
    """Small batches, so that each of the 8 groups of the sums has several; stopped in both passes, and in the seeds."""
    if partitions > 1:
        groups = ((0, 1, 2), (3, 4), (5,))
        monkeypatch.setattr("gdig.influence.fit.plan_fit", lambda *given: replace(plan_fit(*given), partitions=groups))
        monkeypatch.setattr("gdig.influence.fit.plan_seeds_on_ranks", lambda *given: [list(group) for group in groups])
    options = fit_options(project, tmp_path / "whole", token_batch_size=64, fit_tokens=2350, **changes)
    whole_batches = fit_stopped_at(stop_at, None, options)
    options["run_path"] = str(tmp_path / "run")
    passed = [fit_stopped_at(stop_at, n, options) - 1 for n in (1, 4, 13, 9, 12)]
    assert sum(passed) < whole_batches, "the stops must hit the fit"
    passed.append(fit_stopped_at(stop_at, None, options))
    assert files_of(tmp_path / "run") == files_of(tmp_path / "whole")
    assert sum(passed) <= whole_batches + 4, "what was done was done again"


@pytest.mark.distributed
def test_ranks_killed_inside_fit_and_sweep_end_with_the_bytes_of_one_process(project, tmp_path):
    """Rank 1 is killed in the first pass of the fit, then rank 0 in the second, then rank 1 in the sweep."""
    options = sweep_options(project, tmp_path / "alone", token_batch_size=64, fit_tokens=2350)
    gdig.sweep(**options)
    run_path = tmp_path / "run"
    args = ["sweep", *flags({**options, "run_path": str(run_path)})]
    counts = []
    for number, (rank, count) in enumerate(((1, 9), (0, 12), (1, 30))):
        moments = {rank: SignalAt(PASS, count)}
        ranks = start_ranks(2, args, tmp_path / str(number), environment=KEEP_ALL, signal_at=moments)
        statuses = [each.wait() for each in ranks]
        assert statuses[rank] == -signal.SIGKILL and statuses[1 - rank] != 0
        counts.append(sorted({path.name.split("-", 4)[-1][:12] for path in run_path.rglob("resume/rank-*")}))
    assert counts[0] and counts[1], "the kills must hit the fit"
    assert list(run_path.rglob("sweep/resume/*")) != [], "the last kill must hit the sweep"
    finish_on_ranks(2, args, tmp_path / "last")
    assert files_of(run_path) == files_of(tmp_path / "alone")


@pytest.mark.distributed
def test_another_number_of_ranks_begins_the_sums_anew_and_says_so(project, tmp_path, stop_at, keep_all, capsys):
    options = fit_options(project, tmp_path / "run", token_batch_size=64, fit_tokens=2350)
    fit_stopped_at(stop_at, 9, options)
    ranks = start_ranks(2, ["fit", *flags({**options, "quiet": False})], tmp_path / "two")
    assert [rank.wait() for rank in ranks] == [0, 0]
    assert "holds sums of 1 ranks, and now there are 2; the resume files are discarded" in ranks[0].error
    stop_at(None)
    gdig.fit(**{**options, "run_path": str(tmp_path / "whole")})
    assert files_of(tmp_path / "run") == files_of(tmp_path / "whole")


def test_a_fit_stopped_between_two_eigendecompositions_does_neither_its_pass_nor_these_again(
    project, whole, tmp_path, stop_at, keep_all, monkeypatch
):
    widths: list[int] = []
    limit = [4]

    def counted(x, layer):
        if len(widths) == limit[0]:
            raise Stop
        widths.append(len(x))
        return eigenbasis(x, layer)

    monkeypatch.setattr("gdig.influence.curvature.eigenbasis", counted)
    options = fit_options(project, tmp_path / "run")
    batches = stop_at(None)
    with pytest.raises(Stop):
        gdig.fit(**options)
    first_pass = len(batches)
    limit[0] = 100
    gdig.fit(**options)
    # gate and up share their input, so there are 5 matrices a block. One whose partner was missing is done again.
    assert len(widths) == 10 + 1
    whole_fit = of_fit(whole)
    assert files_of(tmp_path / "run") == whole_fit
    limit[0], n = 100, len(batches)
    fit_stopped_at(stop_at, None, {**options, "run_path": str(tmp_path / "again")})
    assert n == len(batches) and first_pass > 0, "a batch was passed twice"
