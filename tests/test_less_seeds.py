"""The seeds of a training checkpoint pass once: what a start kept of them, a later start goes on with."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig

import gdig
from gdig.config.config import Config
from gdig.errors import MemoryShortError, NotFiniteError
from gdig.influence.seeds_resume import PartitionSeeds
from gdig.model.capture import GradientPass
from gdig.model.load import load_model
from gdig.passes import training_checkpoints
from gdig.passes.adam_seeds import pass_seeds
from gdig.passes.gradient_projections import GradientProjections
from gdig.progress import Progress
from gdig.run.session import Workspace
from gdig.run.verify import verify
from gdig.store.resume_file import Pace
from gdig.store.tensor_file import read_tensors
from tests.support.project_fixtures import Command, SignalAt, flags, llama_module, stages
from tests.support.stops import Stop, StopAt
from tests.support.torchrun import files_of
from tests.support.training import train

pytestmark = pytest.mark.slow

# One seed a batch, and several batches a shard.
OPTIONS = {"method": "less", "inversion": "identity", "token_batch_size": 32, "rows_per_shard": 16}


@pytest.fixture(scope="module")
def checkpoint(project, tmp_path_factory) -> str:
    module = llama_module(AutoConfig.from_pretrained(project.model).vocab_size)
    return train(module, tmp_path_factory.mktemp("training"), 100).args.output_dir + "/checkpoint-2"


@pytest.fixture(scope="module")
def whole(project, checkpoint, tmp_path_factory) -> Path:
    """A run that nobody stopped."""
    run_path = tmp_path_factory.mktemp("whole") / "run"
    gdig.select(**project.options(run_path, checkpoints=(checkpoint,), **OPTIONS))
    return run_path


@pytest.fixture(scope="module")
def swept(whole, project, tmp_path_factory) -> Path:
    """The same run before its checkpoint."""
    run_path = tmp_path_factory.mktemp("swept") / "run"
    gdig.sweep(**project.options(run_path, **OPTIONS))
    return run_path


@pytest.fixture
def stop_at(monkeypatch) -> StopAt:
    """stop_at(n): the n-th batch from now on raises Stop."""
    return StopAt(monkeypatch, GradientPass, "run", lambda batch, *sinks, **more: len(batch.rows))


def stopped(run_path: Path) -> list[Path]:
    """The resume files of the seeds."""
    return sorted(run_path.glob("checkpoints/*/resume/*"))


def test_a_pass_stopped_at_any_batch_loses_that_batch_alone(project, checkpoint, whole, swept, tmp_path, stop_at):
    run_path = Path(shutil.copytree(swept, tmp_path / "run"))
    options = project.options(run_path, checkpoints=(checkpoint,), **OPTIONS)
    batches = stop_at(None)
    gdig.select(**options)
    of_whole = len(batches)
    assert files_of(run_path) == files_of(whole)
    shutil.rmtree(run_path)
    shutil.copytree(swept, run_path)
    passed = 0
    for n, kept in ((1, 0), (3, 2), (2, 3), (8, 5)):
        batches = stop_at(n)
        with pytest.raises(Stop):
            gdig.select(**options)
        passed += len(batches) - 1
        assert len(stopped(run_path)) == kept
        reports = verify(run_path).files
        assert {report.state for report in reports if "/resume/" in report.file} <= {"sound"}
        assert sum("/resume/" in report.file for report in reports) >= kept
    batches = stop_at(None)
    gdig.select(**options)
    assert passed + len(batches) == of_whole, "what was done was done again"
    assert files_of(run_path) == files_of(whole) and list(run_path.rglob("resume")) == []


def test_killed_among_the_seeds_and_among_the_rows(project, checkpoint, whole, swept, tmp_path):
    run_path = Path(shutil.copytree(swept, tmp_path / "run"))
    args = ["select", *flags(project.options(run_path, checkpoints=(checkpoint,), **OPTIONS, quiet=False))]
    resumed = {"GDIG_RESUME_INTERVAL": "0"}
    for count, kept in ((3, 2), (2, 3), (12, 5)):
        at = SignalAt("gdig.model.capture:GradientPass.run", count)
        command = Command.start(args, tmp_path, environment=resumed, signal_at=at)
        assert command.wait() == -signal.SIGKILL, command.error
        assert len(stopped(run_path)) == kept
    command = Command.start(args, tmp_path)
    assert command.wait() == 0, command.error
    assert "checkpoint 1 of 1: seeds: 5 seeds in " in command.error
    assert files_of(run_path) == files_of(whole)


def test_the_share_of_all_stages_never_falls_at_a_start(project, checkpoint, swept, tmp_path, stop_at, monkeypatch):
    for name in ("_FIRST_LINE_S", "_LINE_INTERVAL_S"):
        monkeypatch.setattr(f"gdig.progress.{name}", 0.0)
    monkeypatch.setenv("GDIG_RESUME_INTERVAL", "0")
    options = project.options(shutil.copytree(swept, tmp_path / "run"), checkpoints=(checkpoint,), **OPTIONS)
    shown = []
    for n in (3, 4, 9, 20, None):
        stream = io.StringIO()
        stop_at(n)
        with contextlib.suppress(Stop):
            gdig.sweep(progress=Progress(stream=stream), **options)
        shown.append([int(share) for share in re.findall(r"all stages: (\d+) %", stream.getvalue())])
    shares = [share for start in shown for share in start]
    assert all(shown) and shares == sorted(shares) and shares[-1] == 100, shown


@pytest.mark.parametrize("kind", ["damaged", "of other batches"])
def test_a_seed_that_cannot_be_read_passes_again_and_is_told(
    project, checkpoint, whole, swept, tmp_path, stop_at, capsys, kind
):
    run_path = Path(shutil.copytree(swept, tmp_path / "run"))
    options = project.options(run_path, checkpoints=(checkpoint,), **OPTIONS, quiet=False)
    stop_at(4)
    with pytest.raises(Stop):
        gdig.select(**options)
    first, second, *_ = stopped(run_path)
    if kind == "damaged":
        data = bytearray(second.read_bytes())
        data[-1] ^= 1
        second.write_bytes(data)
    else:
        shutil.copyfile(first, second)
    capsys.readouterr()
    batches = stop_at(None)
    gdig.select(**options)
    error = capsys.readouterr().err
    assert f"{second}: " in error and "the resume file is discarded" in error
    assert error.count("the resume file is discarded") == 1
    assert len(batches) > 3 and files_of(run_path) == files_of(whole)


def test_the_bar_and_the_plan_have_the_seeds_as_a_stage(project, checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("gdig.progress._FIRST_LINE_S", 0.0)
    stream = io.StringIO()
    options = project.options(tmp_path / "run", checkpoints=(checkpoint,), **OPTIONS)
    plan = gdig.plan(**options)
    stage = next(stage for stage in plan.stages if stage.name == "checkpoint 1 of 1: seeds")
    assert stage.tokens == plan.seed_tokens and stage.seconds > 0
    assert plan.memory["checkpoint seeds"].total > plan.memory["checkpoint seeds"].weights
    gdig.sweep(progress=Progress(stream=stream), **options)
    line = next(x for x in stream.getvalue().splitlines() if x.startswith("checkpoint 1 of 1: seeds: 1/5 seeds"))
    assert " tokens/s, " in line and "all stages: " in line


def test_the_plan_has_the_disk_of_the_seeds(project, checkpoint, swept, tmp_path, stop_at):
    run_path = Path(shutil.copytree(swept, tmp_path / "run"))
    options = project.options(run_path, checkpoints=(checkpoint,), **OPTIONS)
    planned = gdig.plan(**options).disk["seeds of a checkpoint"]
    stop_at(8)
    with pytest.raises(Stop):
        gdig.select(**options)
    on_disk = sum(file.stat().st_size for file in stopped(run_path))
    assert on_disk <= planned < on_disk + 5 * 4096


def test_a_seed_that_is_not_finite_leaves_nothing(project, checkpoint, swept, tmp_path, monkeypatch):
    run_path = Path(shutil.copytree(swept, tmp_path / "run"))
    run, seen = GradientPass.run, []

    def infinite(self, batch, sink, *more, **options):
        seen.append(batch)
        losses = run(self, batch, sink, *more, **options)
        return losses / 0 if len(seen) == 3 else losses

    monkeypatch.setattr(GradientPass, "run", infinite)
    with pytest.raises(NotFiniteError, match=r"seeds: seed .*: its loss at this checkpoint is inf"):
        gdig.select(**project.options(run_path, checkpoints=(checkpoint,), **OPTIONS))
    assert list(run_path.glob("checkpoints/*")) == [] and stages(run_path)["sweep"]["checkpoints"] == {}


def test_a_checkpoint_that_cannot_fit_is_refused_before_its_seeds_pass(
    project, checkpoint, swept, tmp_path, stop_at, monkeypatch
):
    run_path = Path(shutil.copytree(swept, tmp_path / "run"))
    options = project.options(run_path, checkpoints=(checkpoint,), **OPTIONS)
    monkeypatch.setattr(training_checkpoints, "room", lambda *_: 1000)
    batches = stop_at(None)
    with pytest.raises(MemoryShortError, match=r"checkpoint: the pass needs at least .* 60 % of .* lower feature_side"):
        gdig.sweep(**options)
    assert batches == [] and list(run_path.glob("checkpoints/*")) == []


def test_what_is_kept_has_the_bits_of_what_was_passed(project, checkpoint, tmp_path, swept, stop_at):
    """In batches of several seeds, of which some are lost: the whole batch passes, in its shape."""
    config = Config.build(project.options("unused", checkpoints=(checkpoint,), **{**OPTIONS, "token_batch_size": 1024}))
    model = load_model(config.with_options(model=checkpoint))
    seeds = Workspace(config, Progress(quiet=True)).seed_examples
    projections = GradientProjections(model, config)
    fresh = pass_seeds(model, projections, seeds, config)

    def resume() -> PartitionSeeds:
        return PartitionSeeds(tmp_path, "a", [layer.name for layer in model.layers], pytest.fail, Pace())

    again = [pass_seeds(model, projections, seeds, config, resume=resume())]
    batches = stop_at(None)
    again.append(pass_seeds(model, projections, seeds, config, resume=resume()))
    assert batches == []
    sorted(tmp_path.glob("*.safetensors"))[1].unlink()
    again.append(pass_seeds(model, projections, seeds, config, resume=resume()))
    assert len(batches) == 1 and batches[0] > 1
    for other in again:
        np.testing.assert_array_equal(other.sketches, fresh.sketches)
        assert all(torch.equal(a, b) for a, b in zip(other.projected, fresh.projected, strict=True))
        assert all(x.is_contiguous() for x in other.projected)
    assert read_tensors(sorted(tmp_path.glob("*.safetensors"))[0])[0]["square"].dtype == np.float64
