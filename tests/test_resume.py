"""Stopped and started again: killed, interrupted, on other threads, moved, or asked for something else."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import gdig
from gdig.errors import GdigError, RunError
from gdig.progress import Progress
from gdig.run.directory import Run
from tests.support.project_fixtures import Command, edit_record, flags, read_jsonl, stages, stored, write_jsonl

LAST_LAYER = "model.layers.1.mlp.down_proj.safetensors"
# Files whose appearance marks a moment in each stage, in the order in which they appear.
MOMENTS = (
    "run.json",
    "curvature",
    f"curvature/{LAST_LAYER}",
    f"seeds/{LAST_LAYER}",
    "sweep/store.json",
    "sweep/00000000.safetensors",
    "sweep/00000002.safetensors",
    "sweep/00000003.safetensors",
    "clusters/centroids.safetensors",
    "clusters/labels/00000001.safetensors",
    "selection.jsonl",
)


def wait_for(path: Path, command: Command) -> None:
    while not path.exists() and command.process.is_alive():
        time.sleep(0.0002)


def leftovers(run_path: Path) -> list[str]:
    return [str(p.relative_to(run_path)) for p in run_path.rglob("*.tmp")]


@pytest.mark.slow
def test_killed_at_any_moment_and_started_again_gives_the_same_bytes(project, finished, tmp_path):
    """One run directory, killed once at (or up to 30 ms after) each moment, then left alone."""
    rng, run_path = random.Random(0), tmp_path / "run"
    args = ["select", *flags(project.options(run_path))]
    killed = 0
    for moment in MOMENTS:
        command = Command.start(args, tmp_path)
        wait_for(run_path / moment, command)
        time.sleep(rng.uniform(0, 0.03))
        command.send(signal.SIGKILL)
        code = command.wait()
        assert code in (0, -signal.SIGKILL), command.error
        killed += code != 0
    assert killed >= len(MOMENTS) - 2, "the kills must hit a running process, or nothing is tested"
    command = Command.start(args, tmp_path)
    assert command.wait() == 0, command.error
    assert (run_path / "selection.jsonl").read_bytes() == (finished / "selection.jsonl").read_bytes()
    for name, tensor in stored(run_path).items():
        np.testing.assert_array_equal(tensor, stored(finished)[name], err_msg=name)
    assert leftovers(run_path) == []


@pytest.mark.slow
def test_killed_after_random_times_and_started_again_gives_the_same_bytes(project, finished, tmp_path):
    rng, run_path = random.Random(2), tmp_path / "run"
    args = ["select", *flags(project.options(run_path))]
    for _ in range(6):
        command = Command.start(args, tmp_path)
        time.sleep(rng.uniform(0.05, 1.0))
        command.send(signal.SIGKILL)
        assert command.wait() in (0, -signal.SIGKILL), command.error
    command = Command.start(args, tmp_path)
    assert command.wait() == 0, command.error
    assert (run_path / "selection.jsonl").read_bytes() == (finished / "selection.jsonl").read_bytes()
    assert leftovers(run_path) == []


def test_a_start_killed_before_its_first_record_does_not_spoil_the_directory(project, tmp_path):
    """The first thing written is run.json, under a temporary name: a kill may leave that and nothing else."""
    run_path = tmp_path / "run"
    run_path.mkdir()
    (run_path / ".lock").touch()
    (run_path / ".run.json.4194305.tmp").write_text('{"format"')
    gdig.fit(**project.options(run_path))
    assert leftovers(run_path) == []


def test_starting_over_killed_half_way_does_not_leave_old_shards_to_the_new_run(project, finished, run_copy, tmp_path):
    """--overwrite forgets the stages, then deletes their files; a kill in between must not mix two runs."""
    options = project.options(run_copy, random_seed=7)
    edit_record(run_copy, lambda plan: plan.update(stages={}))  # what start_over writes first
    gdig.select(**options)
    gdig.select(**project.options(tmp_path / "fresh", random_seed=7))
    fresh, old = stored(tmp_path / "fresh"), stored(finished)
    assert (fresh["influence"] != old["influence"]).any(), (
        "another random seed gives another sweep, or nothing is tested"
    )
    np.testing.assert_array_equal(stored(run_copy)["influence"], fresh["influence"])
    assert (run_copy / "selection.jsonl").read_bytes() == (tmp_path / "fresh" / "selection.jsonl").read_bytes()


@pytest.mark.parametrize("moment", ["curvature", "sweep/00000000.safetensors", "clusters/centroids.safetensors"])
def test_ctrl_c_ends_a_stage_that_is_at_work_and_the_run_goes_on(project, finished, tmp_path, moment):
    run_path = tmp_path / "run"
    args = ["select", *flags(project.options(run_path))]
    command = Command.start(args, tmp_path)
    wait_for(run_path / moment, command)
    command.send(signal.SIGINT)
    assert command.wait() == 130, command.error
    assert command.error.endswith("interrupted; the same command goes on from here\n")
    assert "Traceback" not in command.error
    gdig.select(**project.options(run_path))
    assert (run_path / "selection.jsonl").read_bytes() == (finished / "selection.jsonl").read_bytes()


@pytest.mark.slow
def test_ctrl_c_on_a_real_command(project, tmp_path):
    """With the interpreter's own end, and the threads that torch and others started."""
    run_path = tmp_path / "run"
    args = [sys.executable, "-m", "gdig", "select", *flags(project.options(run_path))]
    process = subprocess.Popen(args, stderr=subprocess.PIPE, text=True)
    while not (run_path / "run.json").exists() and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate()
    assert (process.returncode, error) == (130, "interrupted; the same command goes on from here\n")


@pytest.mark.slow
def test_the_number_of_threads_changes_model_numbers_by_rounding_only(project, finished, tmp_path):
    gdig.select(**project.options(tmp_path / "two", threads=2))
    again, two = stored(finished), stored(tmp_path / "two")
    for name in ("tokens", "valid", "hash", "cut"):
        np.testing.assert_array_equal(again[name], two[name])
    # A sum of n float32 products in another order differs by at most n 2^-24 of the sum of their sizes. The longest
    # chain (a factor over the sample's 24 rows of at most 128 tokens, its eigenbasis, two products of width 24, a sum
    # over 128 tokens) is some 2^12 terms: 2^-12. Per column against its largest entry, since terms cancel.
    for name in ("influence", "sketch", "loss"):
        a, b = (x[name].astype(np.float64).reshape(len(x[name]), -1) for x in (again, two))
        assert np.all(np.abs(a - b) <= 2.0**-10 * np.abs(a).max(0)), name


def test_the_rust_parts_do_not_depend_on_threads(project, run_copy, finished, tmp_path):
    """Over one sweep, clusters and choice are the same to the last bit."""
    shutil.rmtree(run_copy / "clusters")
    edit_record(run_copy, lambda plan: [plan["stages"].pop(name) for name in ("cluster", "select")])
    gdig.select(**project.options(run_copy, threads=2))
    for name in ("clusters/labels/00000000.safetensors", "clusters/labels/00000003.safetensors", "selection.jsonl"):
        assert (run_copy / name).read_bytes() == (finished / name).read_bytes(), name


# A changed option.

CHANGES = [
    ("fit", {"damping_factor": 0.2}),
    ("fit", {"fit_tokens": 1500}),
    ("fit", {"random_seed": 1}),
    ("fit", {"filter_modules": "down_proj"}),
    ("fit", {"max_length": 50}),
    ("sweep", {"projection_dim": 16}),
    ("sweep", {"sketch_dtype": "float32"}),
    ("sweep", {"rows_per_shard": 32}),
    ("cluster", {"n_clusters": 4}),
    ("cluster", {"kmeans_max_iter": 7}),
]


@pytest.mark.parametrize(("stage", "change"), CHANGES, ids=lambda value: str(value))
def test_a_changed_option_is_refused_by_name(project, run_copy, stage, change):
    before = (run_copy / "run.json").read_bytes()
    ((name, value),) = change.items()
    with pytest.raises(RunError) as refused:
        gdig.select(**project.options(run_copy, **change))
    message = str(refused.value)
    was = json.loads(before)["config"][name]
    assert f"{name}: {was!r} in the run, {value!r} now" in message
    assert f"--overwrite to start over from the {stage} stage" in message
    assert str(run_copy) in message
    assert (run_copy / "run.json").read_bytes() == before
    gdig.select(**project.options(run_copy))  # what is there is as it was, and no lock is left behind


def test_all_that_differs_is_named_at_once(project, run_copy):
    with pytest.raises(RunError, match=r"(?s)damping_factor: .*projection_dim: .*n_clusters: .*from the fit stage"):
        gdig.select(**project.options(run_copy, damping_factor=0.2, projection_dim=16, n_clusters=4))


def identity(path: Path) -> dict[str, tuple[int, int]]:
    return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in path.iterdir()}


def test_overwrite_starts_over_from_the_first_stage_that_differs(project, run_copy, tmp_path, model_passes):
    sweep, curvature = identity(run_copy / "sweep"), identity(run_copy / "curvature")
    gdig.select(**project.options(run_copy, n_clusters=4, overwrite=True))
    assert identity(run_copy / "sweep") == sweep and identity(run_copy / "curvature") == curvature
    assert model_passes == []
    assert stages(run_copy)["cluster"]["n_clusters"] == 4
    gdig.select(**project.options(run_copy, n_clusters=4, projection_dim=16, overwrite=True))
    assert identity(run_copy / "curvature") == curvature
    assert not set(identity(run_copy / "sweep").values()) & set(sweep.values())
    assert stored(run_copy)["sketch"].shape[1] == 16
    gdig.select(**project.options(run_copy, n_clusters=4, projection_dim=16, damping_factor=0.2, overwrite=True))
    assert not set(identity(run_copy / "curvature").values()) & set(curvature.values())
    options = project.options(tmp_path / "fresh", n_clusters=4, projection_dim=16, damping_factor=0.2)
    gdig.select(**options)
    assert (run_copy / "selection.jsonl").read_bytes() == (tmp_path / "fresh" / "selection.jsonl").read_bytes()


def test_another_choice_costs_no_model_pass_and_needs_no_overwrite(project, run_copy, model_passes):
    before = {name: identity(run_copy / name) for name in ("curvature", "seeds", "sweep", "clusters")}
    first = (run_copy / "selection.jsonl").read_bytes()
    for change in (
        {"budget": "5"}, {"budget": "50%"}, {"budget": "500t"}, {"tau": 0.5}, {"draw": "score"}, {"method": "top"},
        {"method": "random"}, {"method": "loss"}, {"method": "diverse"},
    ):  # fmt: skip
        gdig.select(**project.options(run_copy, **change))
        assert (run_copy / "selection.jsonl").read_bytes() != first, change
    gdig.select(**project.options(run_copy))
    assert (run_copy / "selection.jsonl").read_bytes() == first
    assert model_passes == []
    assert before == {name: identity(run_copy / name) for name in before}


def test_a_budget_that_asks_for_another_number_of_clusters_clusters_again_and_says_so(project, tmp_path, capsys):
    """Without n_clusters it follows from the budget; that is no change of an option, so nothing is refused."""
    options = project.options(tmp_path / "run", n_clusters=None, quiet=False)
    gdig.select(**{**options, "budget": "6"})
    sweep = identity(tmp_path / "run" / "sweep")
    gdig.select(**{**options, "budget": "9"})
    assert stages(tmp_path / "run")["cluster"]["n_clusters"] == 9
    assert "the budget asks for 9 clusters, the run has 6" in capsys.readouterr().err
    assert identity(tmp_path / "run" / "sweep") == sweep


# Another process, other inputs.


def test_a_second_process_on_the_same_directory_is_refused(project, run_copy, tmp_path):
    run = Run(gdig.Config.build(project.options(run_copy)), _inputs(run_copy), Progress(quiet=True))
    try:
        command = Command.start(["select", *flags(project.options(run_copy))], tmp_path / "second")
        assert command.wait() == 2
        busy = f"gdig: error: run_path: {run_copy} is in use by another gdig process; wait until it has ended"
        assert command.error == f"{busy}, or give another directory [G402]\n"
    finally:
        run.close()
    gdig.select(**project.options(run_copy))


def _inputs(run_path: Path) -> dict:
    return json.loads((run_path / "run.json").read_text())["inputs"]


def copied_inputs(project, folder: Path) -> dict:
    """The project's inputs, copied."""
    folder.mkdir()
    return {
        "model": shutil.copytree(project.model, folder / "model"),
        "candidates": (shutil.copy(project.pool, folder),),
        "seeds": (shutil.copy(project.seeds, folder),),
    }


def change_pool(inputs):
    path = Path(inputs["candidates"][0])
    rows = read_jsonl(path)
    rows[17]["trg_text"] += " again"
    write_jsonl(path, rows)
    return "candidates: pool.jsonl changed since the run began"


def change_seeds(inputs):
    path = Path(inputs["seeds"][0])
    write_jsonl(path, read_jsonl(path)[:-1])
    return "seeds: seeds.jsonl changed since the run began"


def change_model(inputs):
    path = Path(inputs["model"]) / "config.json"
    path.write_text(path.read_text().replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 1e-05'))
    return "model: config.json changed since the run began"


def rename_pool(inputs):
    path = Path(inputs["candidates"][0])
    inputs["candidates"] = (path.rename(path.with_name("other.jsonl")),)
    return "candidates: pool.jsonl is gone since the run began"


@pytest.mark.parametrize("change", [change_pool, change_seeds, change_model, rename_pool])
def test_an_input_that_changed_since_the_run_began_is_refused_by_name(project, run_copy, tmp_path, change):
    inputs = copied_inputs(project, tmp_path / "inputs")
    gdig.select(**project.options(run_copy, **inputs))
    expected = change(inputs)
    with pytest.raises(RunError) as refused:
        gdig.select(**project.options(run_copy, **inputs))
    assert expected in str(refused.value)
    assert "--overwrite to start over from the fit stage" in str(refused.value)


def test_files_in_another_order_are_another_pool(project, tmp_path):
    halves = [
        write_jsonl(tmp_path / "b.jsonl", project.rows[:30]),
        write_jsonl(tmp_path / "a.jsonl", project.rows[30:]),
    ]
    gdig.fit(**project.options(tmp_path / "run", candidates=halves))
    with pytest.raises(RunError, match="candidates: the files come in another order"):
        gdig.fit(**project.options(tmp_path / "run", candidates=halves[::-1]))


@pytest.mark.parametrize("first", [None, "model"])
def test_a_tokenizer_given_or_no_longer_given_is_another_input(project, tmp_path, first):
    """--tokenizer may be left out, which is as much of a change as another one."""
    given = {"tokenizer": str(project.model)}
    gdig.fit(**project.options(tmp_path / "run", **(given if first else {})))
    with pytest.raises(RunError, match="tokenizer"):
        gdig.fit(**project.options(tmp_path / "run", **({} if first else given)))


def test_inputs_and_run_moved_to_another_directory_go_on(project, finished, run_copy, tmp_path, model_passes):
    inputs = copied_inputs(project, tmp_path / "inputs")
    moved = Path(shutil.move(run_copy, tmp_path / "elsewhere"))
    (moved / "selection.jsonl").unlink()
    gdig.select(**project.options(moved, **inputs))
    assert (moved / "selection.jsonl").read_bytes() == (finished / "selection.jsonl").read_bytes()
    assert model_passes == []


def test_a_pool_that_changes_while_it_is_read_stops_the_run(project, tmp_path, monkeypatch):
    inputs = copied_inputs(project, tmp_path / "inputs")
    pool = Path(inputs["candidates"][0])
    gdig.fit(**project.options(tmp_path / "run", **inputs))
    from gdig.passes.row_pass import RowPass

    def shard(self, *args, **kwargs):
        write_jsonl(pool, read_jsonl(pool)[:50])
        return compute(self, *args, **kwargs)

    compute = RowPass.shard
    monkeypatch.setattr(RowPass, "shard", shard)
    with pytest.raises(GdigError, match=r"pool\.jsonl: the file changed since it was opened"):
        gdig.select(**project.options(tmp_path / "run", **inputs))
    assert not (tmp_path / "run" / "selection.jsonl").exists()
