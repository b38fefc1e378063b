"""The run directory by itself: its record, its lock, what is refused and what is started over."""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Any

import pytest

from gdig.config.config import Config
from gdig.config.options import STAGES
from gdig.errors import ConfigError, RunError
from gdig.progress import Progress
from gdig.run import directory as run_module
from gdig.run.directory import Run
from gdig.run.layout import RunLayout
from gdig.run.record import (
    FORMAT,
    CheckpointRecord,
    CurvatureReport,
    FitRecord,
    RowCounts,
    RunRecord,
    SeedHealth,
    SeedReport,
    Stages,
    SweepRecord,
)
from gdig.run.record_file import read_record, write_record
from gdig.store.atomic import replacing
from tests.support.project_fixtures import edit_record

INPUTS = {
    "model": {"config.json": {"size": 1, "hash": "m"}},
    "candidates": {"a.jsonl": {"size": 2, "hash": "a"}, "b.jsonl": {"size": 3, "hash": "b"}},
    "seeds": {"s.jsonl": {"size": 4, "hash": "s"}},
}
FILES = {"fit": ("curvature/l", "seeds/l"), "sweep": ("sweep/0",), "cluster": ("clusters/labels/0",), "select": ()}
FACTS: dict[str, dict[str, Any]] = {
    "fit": {
        "seeds": SeedReport((1.0,), 4, 0.99, 0, 0.1, 1.0),
        "layers": ("l",),
        "coverage": 0.6,
        "dtype": "torch.float32",
    },
    "sweep": {"rows": 1, "scale": 2.0, "counts": RowCounts(1, 9, 0, 0, 0, 0, 0)},
    "cluster": {"n_clusters": 1},
    "select": {"rows": 1, "output": "o.jsonl"},
}


@pytest.fixture
def opened(tmp_path, capsys):
    """Opens tmp_path/run with options and inputs, and closes what was opened."""
    runs: list[Run] = []

    def open_run(inputs: dict[str, Any] = INPUTS, **options: Any) -> Run:
        for run in runs:
            run.close()
        runs.clear()
        runs.append(Run(Config.build({"run_path": tmp_path / "run", **options}), inputs, Progress()))
        return runs[0]

    yield open_run
    for run in runs:
        run.close()


def record(path: Path) -> dict[str, Any]:
    return json.loads((path / "run.json").read_text(encoding="utf-8"))


def finish(run: Run, *names: str) -> None:
    """Run stages, each leaving its files and a fact."""
    for name in names:
        with run.running(name):
            for file in FILES[name]:
                (run.path / file).parent.mkdir(parents=True, exist_ok=True)
                (run.path / file).write_text(f"of {name}")
            run.update(name, **FACTS[name])


def present(path: Path) -> set[str]:
    """Stages whose files are all there."""
    return {name for name in STAGES[:-1] if all((path / file).exists() for file in FILES[name])}


def test_a_new_directory_holds_the_configuration_the_inputs_and_the_versions(opened, tmp_path):
    run = opened(random_seed=3)
    state = record(tmp_path / "run")
    assert state["format"] == FORMAT and state["stages"] == {} and state["inputs"] == INPUTS
    assert state["config"] == Config.build({"run_path": tmp_path / "run", "random_seed": 3}).to_dict()
    assert set(state["versions"]) == {"gdig", "torch", "transformers", "numpy", "python"}
    assert run.record.stages.fit is None and run.fit.is_bare and not run.done("fit")


def test_a_stage_is_running_then_done_and_its_seconds_add_up(opened, tmp_path, monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(run_module.time, "monotonic", lambda: next(clock) * 10.0)
    run = opened()
    with run.running("fit"):
        assert record(tmp_path / "run")["stages"]["fit"]["state"] == "running"
        run.update("fit", curvature=CurvatureReport(3, 40, 0), **FACTS["fit"])
        curvature = record(tmp_path / "run")["stages"]["fit"]["curvature"]
        assert curvature == {"examples": 3, "tokens": 40, "invalid": 0}, "recorded at once, not at the end"
    assert read_record(tmp_path / "run" / "run.json") == run.record
    assert (run.fit.state, run.fit.seconds) == ("done", 10.0)
    with pytest.raises(ZeroDivisionError), run.running("sweep"):
        run.update("sweep", scale=2.0)
        _ = 1 / 0
    assert not run.done("sweep")
    run = opened()
    assert (run.sweep.state, run.sweep.seconds, run.sweep.scale) == ("running", 10.0, 2.0)
    with run.running("sweep"):
        pass
    assert run.sweep.seconds == 20.0


def test_the_same_configuration_goes_on_and_what_does_not_change_results_may_change(opened, tmp_path):
    finish(opened(random_seed=1), *STAGES)
    run = opened(
        random_seed=1, threads=1, token_batch_size=7, bad_rows="skip", quiet=True, device="cpu",
        method="top", budget="5", tau=0.5, output="o.jsonl",
    )  # fmt: skip
    assert all(run.done(name) for name in STAGES)
    assert present(tmp_path / "run") == {"fit", "sweep", "cluster"}
    assert record(tmp_path / "run")["config"]["method"] == "top"


CHANGES = {"fit": {"damping_factor": 0.5}, "sweep": {"projection_dim": 7}, "cluster": {"n_clusters": 7}}


@pytest.mark.parametrize("stage", CHANGES)
def test_another_configuration_is_refused_and_changes_nothing(opened, tmp_path, stage):
    finish(opened(), *STAGES)
    before = (tmp_path / "run" / "run.json").read_bytes()
    ((name, value),) = CHANGES[stage].items()
    was = getattr(Config(), name)
    with pytest.raises(RunError) as refused:
        opened(**CHANGES[stage])
    assert f"\n  {name}: {was!r} in the run, {value!r} now\n" in str(refused.value)
    assert str(refused.value).endswith(f"or --overwrite to start over from the {stage} stage.")
    assert (tmp_path / "run" / "run.json").read_bytes() == before
    assert present(tmp_path / "run") == {"fit", "sweep", "cluster"}


@pytest.mark.parametrize("stage", CHANGES)
def test_overwrite_forgets_that_stage_and_those_after_it(opened, tmp_path, stage, capsys):
    finish(opened(), *STAGES)
    run = opened(**CHANGES[stage], overwrite=True)
    earlier = set(STAGES[: STAGES.index(stage)])
    assert {name for name in STAGES if run.done(name)} == earlier
    assert present(tmp_path / "run") == earlier
    assert f"starting over from the {stage} stage" in capsys.readouterr().err
    finish(run, *(name for name in STAGES if name not in earlier))
    opened(**CHANGES[stage])  # and it is the run's configuration from then on


def test_overwrite_when_nothing_differs_starts_from_the_beginning(opened, tmp_path, capsys):
    assert "starting over" not in capsys.readouterr().err
    finish(opened(overwrite=True), *STAGES)
    assert "starting over" not in capsys.readouterr().err, "there was nothing to start over"
    run = opened(overwrite=True)
    assert run.record.stages == Stages() and present(tmp_path / "run") == set()


def test_a_stage_that_has_not_begun_pins_nothing(opened):
    finish(opened(), "fit")
    run = opened(projection_dim=7, n_clusters=3)
    assert run.done("fit")
    finish(run, "sweep")
    with pytest.raises(RunError, match="projection_dim: 7 in the run, 8 now"):
        opened(projection_dim=8)


@pytest.mark.parametrize("keeps", [False, True], ids=["kept nothing", "kept something"])
def test_a_stage_that_failed_pins_its_options_only_when_it_has_kept_something(opened, keeps):
    with pytest.raises(ZeroDivisionError), (run := opened(damping_factor=0.2)).running("fit"):
        if keeps:
            run.update("fit", curvature=CurvatureReport(3, 40, 0))
        _ = 1 / 0
    other = {**INPUTS, "seeds": {"t.jsonl": {"size": 5, "hash": "t"}}}
    if keeps:
        with pytest.raises(RunError, match=r"(?s)seeds: s\.jsonl is gone .*damping_factor: 0\.2 in the run"):
            opened(other)
    else:
        assert opened(other).record.stages.fit is None


@pytest.mark.parametrize(
    ("kind", "files", "expected"),
    [
        ("candidates", {"a.jsonl": {"size": 2, "hash": "x"}, "b.jsonl": {"size": 3, "hash": "b"}}, "a.jsonl changed"),
        ("candidates", {"a.jsonl": {"size": 2, "hash": "a"}}, "b.jsonl is gone"),
        ("candidates", {**INPUTS["candidates"], "c.jsonl": {"size": 1, "hash": "c"}}, "c.jsonl is new"),
        ("candidates", dict(reversed(INPUTS["candidates"].items())), "the files come in another order"),
        ("seeds", {"s.jsonl": {"size": 4, "hash": "S"}}, "s.jsonl changed"),
        ("model", {"config.json": {"size": 1, "hash": "M"}}, "config.json changed"),
        ("tokenizer", {"tokenizer.json": {"size": 1, "hash": "t"}}, "tokenizer.json is new"),
    ],
)
def test_other_inputs_are_refused_by_name(opened, kind, files, expected):
    finish(opened(), "fit")
    other = {**INPUTS, kind: files}
    with pytest.raises(RunError) as refused:
        opened(other)
    assert f"\n  {kind}: {expected}" in str(refused.value)
    assert "--overwrite to start over from the fit stage" in str(refused.value)
    run = opened(other, overwrite=True)
    assert run.record.stages == Stages() and run.record.inputs == other


def test_an_input_that_is_no_longer_given_is_refused(opened):
    finish(opened({**INPUTS, "tokenizer": {"tokenizer.json": {"size": 1, "hash": "t"}}}), "fit")
    with pytest.raises(RunError, match=r"tokenizer: tokenizer\.json is gone since the run began"):
        opened()


# The lock.


def test_a_directory_in_use_is_refused_until_it_is_closed(tmp_path):
    config = Config.build({"run_path": tmp_path / "run"})
    first = Run(config, INPUTS, Progress(quiet=True))
    with pytest.raises(RunError, match=f"run_path: {re.escape(str(tmp_path))}/run is in use by another gdig process"):
        Run(config, INPUTS, Progress(quiet=True))
    first.close()
    Run(config, INPUTS, Progress(quiet=True)).close()


@pytest.mark.parametrize("error", ["configuration", "record"])
def test_a_refusal_leaves_no_lock(opened, tmp_path, error):
    finish(opened(), "fit")
    opened()
    good = (tmp_path / "run" / "run.json").read_bytes()
    if error == "record":
        (tmp_path / "run" / "run.json").write_text("{")
    with pytest.raises(RunError):
        opened(**({"random_seed": 9} if error == "configuration" else {}))
    (tmp_path / "run" / "run.json").write_bytes(good)
    assert opened().done("fit")


# Directories and records that are no run's.


def test_foreign_directories(tmp_path):
    def make(path):
        Run(Config.build({"run_path": path}), INPUTS, Progress(quiet=True)).close()

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").touch()
    with pytest.raises(RunError, match=r"full is not empty and holds no run\.json; use another directory"):
        make(tmp_path / "full")
    assert os.listdir(tmp_path / "full") == ["letter.txt"]  # noqa: PTH208
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="file is a file, expected a directory"):
        make(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    make(tmp_path / "empty")
    make(tmp_path / "a" / "b" / "c")
    with pytest.raises(ConfigError, match="run_path: required"):
        Run(Config(), INPUTS, Progress(quiet=True))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"run\.json: not a run\.json: "),
        ("{", r"run\.json: not a run\.json: "),
        ("[1]", r"run\.json: not a run\.json: expected an object with the key 'format'"),
        ("{}", r"run\.json: not a run\.json: expected an object with the key 'format'"),
        ("[" * 100_000, r"run\.json: not a run\.json: "),
        ('{"format": 99, "stages": {}}', rf"expected format {FORMAT}, got 99; another version of gdig made this run"),
        ('{"format": 1, "stages": {}}', rf"expected format {FORMAT}, got 1; another version of gdig made this run"),
        ('{"format": 4, "stages": []}', r"run\.json: checksum: expected [0-9a-f]{32}, got None: the file was damaged"),
        (
            '{"format": 4, "config": ' + "[" * 900 + "]" * 900 + "}",
            r"not a run\.json: its values lie more than 64 deep",
        ),
        ("\udcff", r"run\.json: not a run\.json: "),
    ],
)
def test_a_damaged_record(tmp_path, text, message):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(RunError, match=message):
        Run(Config.build({"run_path": tmp_path / "run"}), INPUTS, Progress(quiet=True))
    with pytest.raises(RunError, match=message):
        read_record(tmp_path / "run" / "run.json")


STORE = {"rows_per_shard": 4, "projection_dim": 8, "sketch_dtype": "float16"}
WHOLE = RunRecord(
    config={"tau": 0.5},
    inputs=INPUTS,
    versions={"gdig": "1"},
    date="2026-01-31",
    stages=Stages(
        FitRecord(
            {"fit_tokens": 3}, 1.5, "done", 1024, (2, 1), CurvatureReport(3, 40, 0),
            SeedReport((1.0,), 4, 0.99, 0, math.nan, math.nan),
            ("a.b", "c"), "torch.float32", ("w",), 0.625,
            {"candidates": ("chat template", "tokens"), "seeds": ("tokens",)},
        ),
        SweepRecord(
            STORE, rows=9, seed_health=SeedHealth(9, 0.5, 1.0, math.inf, 2.0),
            checkpoints={"0f": CheckpointRecord("x/checkpoint-1", 1e-4, 7, 2, 512, "done")}, checkpoint_order=("0f",),
        ),
    ),
)  # fmt: skip


def test_a_record_comes_back_as_it_was_written(tmp_path):
    write_record(tmp_path / "run.json", WHOLE)
    assert "NaN" not in (tmp_path / "run.json").read_text() and "Infinity" not in (tmp_path / "run.json").read_text()
    back = read_record(tmp_path / "run.json")
    assert back.stages.sweep is not None and back.stages.sweep.seed_health is not None
    assert math.isnan(back.stages.sweep.seed_health.seed_loss_error), "a number that is not finite is null in the file"
    write_record(tmp_path / "again.json", back)
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "run.json").read_bytes()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.update(colour="red"), "unknown key 'colour'; another version of gdig made this run"),
        (lambda s: s.pop("inputs"), "key 'inputs' is missing; another version"),
        (lambda s: s.update(date="today"), "date: expected a day as 2026-01-31, got 'today'"),
        (lambda s: s["stages"].update(bake={}), "stages: unknown key 'bake'"),
        (lambda s: s["stages"]["fit"].update(gdig=1), "stages: fit: unknown key 'gdig'"),
        (lambda s: s["stages"]["fit"].pop("layers"), "stages: fit: key 'layers' is missing"),
        (lambda s: s["stages"]["fit"].update(seconds="3"), "stages: fit: seconds: expected a number, got '3'"),
        (lambda s: s["stages"]["fit"].update(state="late"), "fit: state: expected one of running, done, got 'late'"),
        (lambda s: s["stages"]["fit"].update(layers="a"), "fit: layers: expected a list, got 'a'"),
        (lambda s: s["stages"]["fit"].update(layers=["a", 3]), r"fit: layers\[1\]: expected text, got 3"),
        (lambda s: s["stages"]["fit"]["curvature"].pop("tokens"), "fit: curvature: key 'tokens' is missing"),
        (lambda s: s["stages"]["sweep"].update(rows=True), "sweep: rows: expected a whole number, got True"),
        (lambda s: s["stages"]["sweep"].update(checkpoints=[]), r"sweep: checkpoints: expected an object, got \[\]"),
        (lambda s: s["stages"]["sweep"].update(checkpoint_order=["9"]), "checkpoint_order: no checkpoint '9'"),
        *(
            (lambda s, name=name: s["stages"]["fit"].update(layers=[name]), "fit: layers: expected a name of up to 200")
            for name in ("../x", "..", "", "a/b", "a\\b", "a\nb", "a\0", "\ud800", "x" * 201)
        ),
        (
            lambda s: s["stages"]["sweep"].update(checkpoints={"..": s["stages"]["sweep"]["checkpoints"]["0f"]}),
            r"sweep: checkpoints: expected a name of up to 200 bytes without a slash, got '\.\.'",
        ),
        (lambda s: s["stages"].pop("fit"), "sweep: expected a record of the stage fit before it"),
        (lambda s: s["stages"]["fit"].update(layers=None), "fit: layers: expected a value, because the stage is done"),
        (lambda s: s["stages"]["sweep"].update(scale=0), "sweep: scale: expected a number above 0, got 0.0"),
        (lambda s: s["stages"]["sweep"].update(scale=10**400), "sweep: scale: expected a number, got 1000"),
        *(
            (lambda s, n=n: s["stages"]["sweep"].update(rows=n), "sweep: rows: expected 1 to 1,000,000 shards of rows")
            for n in (0, -5, 10**18)
        ),
        *(
            (
                lambda s, n=n: s["stages"]["sweep"].update(config={**STORE, "rows_per_shard": n}),
                "rows_per_shard: expected a whole",
            )
            for n in (0, -1, 1.5, "x", None, True)
        ),
        (
            lambda s: s["stages"]["sweep"].update(config={**STORE, "projection_dim": 2**31}),
            "projection_dim: expected a whole number .* got 2147483648",
        ),
        (
            lambda s: s["stages"]["sweep"].update(config={**STORE, "sketch_dtype": "float64"}),
            "sketch_dtype: expected one of float16, bfloat16, int8, float32, got 'float64'",
        ),
        (lambda s: s["stages"]["sweep"].update(config={}), "rows_per_shard: expected a whole number .* got None"),
    ],
)
def test_a_record_with_something_else_in_it_is_refused_by_name(tmp_path, change, message):
    write_record(tmp_path / "run.json", WHOLE)
    edit_record(tmp_path, change)
    with pytest.raises(RunError, match=message):
        read_record(tmp_path / "run.json")


def test_the_layout_names_each_file_that_the_record_says_is_there():
    layout = RunLayout(Path("r"))
    groups = {group.name: [file.as_posix() for file in group.files] for group in layout.files_of(WHOLE)}
    shards = ["00000000.safetensors", "00000001.safetensors", "00000002.safetensors"]
    assert groups == {
        "curvature": ["r/curvature/a.b.safetensors", "r/curvature/c.safetensors"],
        "seeds": ["r/seeds/a.b.safetensors", "r/seeds/c.safetensors"],
        "curvature/resume": [],
        "seeds/resume": [],
        "sweep": [f"r/sweep/{name}" for name in shards],
        "tokens": [f"r/tokens/{name}" for name in (*shards, "seeds.safetensors")],
        "sweep/resume": [],
        "features": ["r/features/seeds.safetensors"],
        "checkpoints/0f/shards": [f"r/checkpoints/0f/shards/{name}" for name in shards],
        "checkpoints/0f/shards/resume": [],
        "checkpoints/0f/resume": [],
        "checkpoints/0f": ["r/checkpoints/0f/seeds.safetensors"],
    }
    assert [group.name for group in layout.files_of(WHOLE) if group.done] == [
        "curvature", "seeds", "checkpoints/0f/shards", "checkpoints/0f",
    ], "what is not done need not be there"  # fmt: skip


# Crashes.


def test_what_a_killed_process_left_under_temporary_names_is_removed(opened, tmp_path):
    finish(opened(), "fit", "sweep")
    abandoned = [
        tmp_path / "run" / name
        for name in (".run.json.4.tmp", "sweep/.00000000.safetensors.4-a-0.tmp", ".selection.jsonl.4.tmp")
    ]
    for file in abandoned:
        file.touch()
    opened()
    assert not any(file.exists() for file in abandoned)
    assert present(tmp_path / "run") == {"fit", "sweep"}


def test_a_start_killed_before_its_first_record(opened, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".lock").touch()
    (tmp_path / "run" / ".run.json.4.tmp").write_text("{")
    assert opened().record.stages == Stages()


class Killed(BaseException):
    pass


@pytest.mark.parametrize("removed", range(4))
def test_starting_over_killed_at_any_deletion_leaves_no_old_file_to_a_new_stage(opened, tmp_path, monkeypatch, removed):
    finish(opened(), *STAGES)
    calls = []
    remove = run_module.remove_folder

    def counted_removal(path):
        if len(calls) == removed:
            raise Killed
        calls.append(path)
        remove(path)

    monkeypatch.setattr(run_module, "remove_folder", counted_removal)
    with pytest.raises(Killed):
        opened(damping_factor=0.5, overwrite=True)
    monkeypatch.undo()
    run = opened(damping_factor=0.5, overwrite=True)
    for name in STAGES[:-1]:
        assert not run.done(name)
        with run.running(name):
            assert not any((tmp_path / "run" / file).exists() for file in FILES[name]), "an old file would pass for new"


def test_a_record_is_the_old_one_or_the_new_one(opened, tmp_path, monkeypatch):
    run = opened()
    finish(run, "fit")
    before = (tmp_path / "run" / "run.json").read_bytes()
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(RunError, match=r"run\.json: cannot be written: No space left on device"):
        run.update("fit", dtype="torch.bfloat16")
    assert (tmp_path / "run" / "run.json").read_bytes() == before
    assert [p.name for p in (tmp_path / "run").iterdir() if p.name.endswith(".tmp")] == []


def test_replacing_syncs_the_file_before_the_rename_and_the_directory_after(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(
        os, "fsync", lambda handle: (events.append(Path(f"/proc/self/fd/{handle}").readlink().name), fsync(handle))
    )
    monkeypatch.setattr(Path, "replace", lambda self, target: (events.append("rename"), replace(self, target)))
    with replacing(tmp_path / "new" / "f") as temporary:
        temporary.write_text("x")
    assert events == [temporary.name, "rename", "new"]
    assert (tmp_path / "new" / "f").read_text() == "x"
    with pytest.raises(ZeroDivisionError), replacing(tmp_path / "new" / "f") as temporary:
        temporary.write_text("y")
        _ = 1 / 0
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["f"]


def test_another_version_of_a_package_is_warned_of(opened, tmp_path, capsys):
    finish(opened(), "fit")
    edit_record(tmp_path / "run", lambda state: state["versions"].update(torch="1.0"))
    opened()
    error = capsys.readouterr().err
    assert "warning: torch 1.0 began this run, " in error and " goes on: rounding may differ" in error
    assert record(tmp_path / "run")["versions"]["torch"] == "1.0", "what began it is kept"
