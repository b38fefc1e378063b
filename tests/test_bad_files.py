"""A run directory that is damaged, foreign or full: a clear error, nothing half-written, and the run goes on."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

import gdig
from tests.support.project_fixtures import Command, edit_record, flags

STATES = {"cut": "damaged", "flipped": "damaged", "gone": "missing"}


def damage(path: Path, how: str) -> None:
    data = bytearray(path.read_bytes())
    if how == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif how == "gone":
        path.unlink()
    else:  # one bit, in the last tensor
        data[-3] ^= 16
        path.write_bytes(data)


@pytest.mark.parametrize("how", ["cut", "flipped", "gone"])
@pytest.mark.parametrize(
    "file",
    [
        "curvature/model.layers.1.mlp.up_proj.safetensors", "seeds/model.layers.1.mlp.up_proj.safetensors",
        "sweep/00000001.safetensors", "sweep/00000003.safetensors", "clusters/labels/00000003.safetensors",
    ],
)  # fmt: skip
def test_verify_names_a_damaged_file(run_copy, capsys, file, how):
    from gdig.cli.main import main

    damage(run_copy / file, how)
    assert main(["verify", "--run-path", str(run_copy)]) == 1
    out, error = capsys.readouterr()
    assert (
        error == ""
        and str(run_copy / file) in out.partition("\n")[0]
        and out.endswith("1 " + STATES[how] + "; not sound\n")
    )


@pytest.mark.parametrize("state", ["running", "done"])
@pytest.mark.parametrize("file", ["sweep/00000001.safetensors", "sweep/00000003.safetensors"])
@pytest.mark.parametrize("how", ["cut", "gone"])
def test_a_shard_that_is_gone_or_cut_short_is_made_again(project, run_copy, finished, file, how, state):
    """Also of a finished sweep: a shard less must not become a smaller pool."""
    edit_record(run_copy, lambda record: record["stages"]["sweep"].update(state=state))
    damage(run_copy / file, how)
    gdig.select(**project.options(run_copy))
    for name in (file, "selection.jsonl"):
        assert (run_copy / name).read_bytes() == (finished / name).read_bytes()


@pytest.mark.parametrize("how", ["cut", "flipped", "gone"])
@pytest.mark.parametrize(
    "file",
    [
        "seeds/model.layers.0.mlp.up_proj.safetensors", "curvature/model.layers.0.mlp.up_proj.safetensors",
        "features/seeds.safetensors", "clusters/centroids.safetensors", "clusters/labels/00000001.safetensors",
    ],
)  # fmt: skip
def test_a_damaged_file_of_another_stage_is_named_and_made_again(project, run_copy, finished, capsys, file, how):
    if file.startswith(("seeds", "curvature")):  # read by the sweep, so one that has to be made again
        shutil.rmtree(run_copy / "sweep")
    damage(run_copy / file, how)
    (run_copy / "selection.jsonl").unlink()
    gdig.select(**project.options(run_copy, quiet=False))
    assert str(run_copy / file) in capsys.readouterr().err
    for name in (file, "selection.jsonl"):
        assert (run_copy / name).read_bytes() == (finished / name).read_bytes()


@pytest.mark.parametrize("how", ["cut", "flipped", "gone"])
def test_a_fit_that_goes_on_makes_damaged_curvature_again(project, run_copy, finished, capsys, how):
    edit_record(run_copy, lambda record: record.update(stages={"fit": {**record["stages"]["fit"], "state": "running"}}))
    (run_copy / "selection.jsonl").unlink()
    file = "curvature/model.layers.0.mlp.up_proj.safetensors"
    damage(run_copy / file, how)
    gdig.select(**project.options(run_copy, quiet=False))
    assert str(run_copy / file) in capsys.readouterr().err
    for name in (file, "selection.jsonl"):
        assert (run_copy / name).read_bytes() == (finished / name).read_bytes()


def test_directories_that_are_no_run(project, tmp_path, failing):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").touch()
    message = failing(run_path=tmp_path / "full")
    assert f"run_path: {tmp_path}/full is not empty and holds no run.json" in message
    (tmp_path / "file").touch()
    assert f"run_path: {tmp_path}/file is a file, expected a directory" in failing(run_path=tmp_path / "file")


# A full disk.


@pytest.mark.parametrize("limit", [2_000, 7_000, 20_000])
def test_a_full_disk_leaves_nothing_half_written_and_the_run_goes_on(project, tmp_path, limit):
    """No file may be longer than the limit: below run.json's length, then a factor's, then a shard's."""
    run_path = tmp_path / "run"
    options = project.options(run_path, projection_dim=2048)
    args = ["select", *flags(options)]
    command = Command.start(args, tmp_path / "first", limit_bytes=limit)
    assert command.wait() == 2
    error = command.error
    assert error.startswith("gdig: error: ") and "Traceback" not in error
    assert str(run_path) in error and "File too large" in error
    assert list(run_path.rglob("*.tmp")) == []
    assert not (run_path / "selection.jsonl").exists()
    for file in run_path.rglob("*.safetensors"):
        load_file(file)
    gdig.select(**options)
    gdig.select(**{**options, "run_path": tmp_path / "whole"})
    assert (run_path / "selection.jsonl").read_bytes() == (tmp_path / "whole" / "selection.jsonl").read_bytes()


def test_no_room_for_the_output(project, run_copy, tmp_path):
    out = tmp_path / "out" / "chosen.jsonl"
    out.parent.mkdir()
    out.write_text("as it was\n")
    rows = flags(project.options(run_copy, budget="60", output=out))
    limit = (run_copy / "run.json").stat().st_size + 1000
    command = Command.start(["select", *rows], tmp_path / "first", limit_bytes=limit)
    assert command.wait() == 2
    assert command.error == f"gdig: error: {out}: cannot be written: File too large [G205]\n"
    assert os.listdir(out.parent) == ["chosen.jsonl"]  # noqa: PTH208
    assert out.read_text() == "as it was\n"
    assert gdig.select(**project.options(run_copy, budget="60", output=out)).output == out


def test_a_directory_that_cannot_be_written(project, tmp_path, failing):
    """Written below a file, which no user, root neither, can."""
    (tmp_path / "file").touch()
    message = failing(run_path=tmp_path / "file" / "run")
    assert f"{tmp_path}/file/run" in message
