"""Run directories that somebody made to do harm: nothing outside is touched, no code runs, and each start ends soon."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

import gdig
from gdig.cli.main import main
from gdig.errors import GdigError, RunError, StoreError
from gdig.run.verify import verify
from tests.drill.faults import files_of
from tests.drill.forgery import forge_record, forge_tensors
from tests.support.limits import within
from tests.support.project_fixtures import as_it_is, edit_record


def test_a_file_without_a_tensor_is_refused_by_name(project, whole, tmp_path):
    """Its checksum and its origin are right: somebody made it on purpose."""
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    file = as_it_is(run / "features" / "seeds.safetensors")
    tensors, _ = file.read()
    file.write({name: tensor for name, tensor in tensors.items() if name != "hidden"})
    with pytest.raises(StoreError, match=r"seeds\.safetensors: tensor 'hidden': expected it in the file, which holds"):
        gdig.select(**project.options(run, method="rds"))


# Hostile run directories.


@pytest.mark.parametrize("name", ["../../../x", "/etc/x", "a/b", "..", "", "x\n", "x" * 201])
def test_no_name_in_a_record_leaves_the_run(project, whole, tmp_path, name):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    (tmp_path / "x").mkdir()
    checkpoint = {
        "path": "p", "learning_rate": 0.1, "step": 1, "layers": 1, "token_batch_size": 8, "state": "running",
    }  # fmt: skip
    edit_record(run, lambda state: state["stages"]["sweep"].update(checkpoints={name: checkpoint}))
    for command in (lambda: gdig.select(**project.options(run, overwrite=True)), lambda: gdig.merge([run], run)):
        with pytest.raises(RunError, match="expected a name of up to 200 bytes without a slash"):
            command()
    shutil.copy2(whole / "run.json", run / "run.json")
    edit_record(run, lambda state: state["stages"]["fit"].update(layers=[name]))
    with pytest.raises(RunError, match="expected a name of up to 200 bytes without a slash"):
        gdig.merge([run], tmp_path / "merged")
    assert (tmp_path / "x").is_dir()


def test_a_link_is_not_followed_for_writing_and_does_not_block_overwrite(project, whole, tmp_path):
    run, outside = Path(shutil.copytree(whole, tmp_path / "run")), tmp_path / "outside"
    shutil.move(run / "sweep", outside)
    (run / "sweep").symlink_to(outside)
    before = {path: path.read_bytes() for path in outside.iterdir()}
    with pytest.raises(RunError, match=r"run/sweep: is a symbolic link, and gdig writes through none"):
        gdig.select(**project.options(run, method="top"))
    gdig.sweep(**project.options(run, overwrite=True))
    assert not (run / "sweep").is_symlink() and {path: path.read_bytes() for path in outside.iterdir()} == before
    (run / ".lock").unlink()
    (run / ".lock").symlink_to(tmp_path / "made")
    with pytest.raises(RunError, match=r"\.lock: is a symbolic link"):
        gdig.select(**project.options(run))
    gdig.select(**project.options(run, overwrite=True))
    assert not (run / ".lock").is_symlink() and not (tmp_path / "made").exists()


def test_consent_to_run_code_is_not_taken_from_a_run(project, tmp_path, capsys):
    run = tmp_path / "run"
    gdig.sweep(**project.options(run, trust_remote_code=True))
    for flags in ([], ["--trust-remote-code"], ["--model", str(project.model)]):
        status = main(["select", "--run-path", str(run), "--method", "top", *flags])
        error = capsys.readouterr().err
        if flags[:1] != ["--model"]:  # with a model, no option is that of the run: others are missing
            assert "trust_remote_code: runs the code in a model's folder" in error and "--model again" in error
        assert status == 2
    consent = ["--trust-remote-code", "--model", str(project.model)]
    assert (
        main(["select", "--run-path", str(run), "--method", "top", "--output", str(tmp_path / "o.jsonl"), *consent])
        == 0
    )


# Numbers without an end, pipes, and forgeries.


def raise_rows(rows: int, per_shard: int | None = None) -> Callable[[dict], None]:
    def change(state: dict) -> None:
        state["stages"]["sweep"]["rows"] = rows
        if per_shard is not None:
            state["stages"]["sweep"]["config"]["rows_per_shard"] = per_shard

    return change


@pytest.mark.parametrize("rows", [10**18, 10**400, -1])
def test_a_number_of_rows_that_no_pool_has_is_refused_at_once(project, whole, tmp_path, rows):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    edit_record(run, raise_rows(rows))
    with within(1.0), pytest.raises(RunError, match=r"run\.json: stages: sweep: rows: expected 1 to 1,000,000 shards"):
        gdig.select(**project.options(run, method="top"))
    with within(1.0):
        assert verify(run).files[0].state == "damaged"


def test_the_most_shards_that_a_record_may_have_are_looked_for_in_seconds(project, whole, tmp_path):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    edit_record(run, raise_rows(16 * 10**6))
    with within(2.0):
        states = {report.file: report.state for report in verify(run).files}
    assert list(states.values()).count("missing") < 100, "as a range"
    assert any(" to 00999999.safetensors" in file for file in states)
    with within(2.0):  # the pool says how many rows there are, so it is made from other rows
        assert gdig.select(**project.options(run, method="top")).rows.tolist()


def test_a_large_record_is_refused_unread(whole, tmp_path):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    with (run / "run.json").open("ab") as file:
        file.truncate(1 << 40)  # it takes no room on the disk
    with within(1.0):
        assert "expected at most 67,108,864 bytes" in verify(run).files[0].what


def test_a_pipe_in_the_place_of_a_file_of_a_run_is_damage(project, whole, tmp_path):
    """To open one would wait for its writer."""
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    for file in files_of(whole):
        (run / file).unlink()
        os.mkfifo(run / file)
        with within(1.0):
            states = {report.file: report.state for report in verify(run).files}
        assert states[file] == "damaged", file
        (run / file).unlink()
        shutil.copy2(whole / file, run / file)
    for file in ("sweep/store.json", "sweep/00000001.safetensors", "clusters/labels/00000000.safetensors"):
        (run / file).unlink()
        os.mkfifo(run / file)
    (run / "sweep" / "resume").mkdir()
    os.mkfifo(run / "sweep" / "resume" / "00000001.safetensors")
    with within(10.0):
        gdig.select(**project.options(run, method="agreement"))
    assert verify(run).sound, "what was damaged is made again"


def test_a_folder_in_the_place_of_a_file_is_a_clear_error(project, whole, tmp_path):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    shard = run / "sweep" / "00000001.safetensors"
    shard.unlink()
    (shard / "x").mkdir(parents=True)
    with pytest.raises(GdigError, match=r"sweep/00000001\.safetensors"):
        gdig.select(**project.options(run, method="top"))
    gdig.select(**project.options(run, method="top", overwrite=True))
    assert verify(run).sound


@pytest.mark.parametrize("random_seed", range(12))
def test_a_forgery_is_an_answer_or_a_clear_error(project, whole, tmp_path, random_seed):
    """Tensors with a right checksum that are lost, or of another type or shape; and values of run.json."""
    rng, run = Random(random_seed), Path(shutil.copytree(whole, tmp_path / "run"))
    file = rng.choice([file for file in files_of(whole) if file.endswith(".safetensors")])
    what = forge_record(run / "run.json", rng) if random_seed % 3 == 0 else forge_tensors(run / file, rng)
    method = "bm25" if file.startswith("tokens") else "agreement"
    for command in (lambda: verify(run), lambda: gdig.select(**project.options(run, method=method))):
        with within(20.0):
            try:
                command()
            except GdigError as error:
                assert str(error), what


def test_texts_of_a_run_do_not_control_the_terminal(project, whole, tmp_path, capsys):
    run = Path(shutil.copytree(whole, tmp_path / "run"))
    edit_record(run, lambda state: state["stages"]["fit"].update(warnings=["\x1b]0;owned\x07"]))
    (run / "sweep" / "\x1b[2J.safetensors").touch()
    main(["select", "--run-path", str(run), "--method", "top", "--output", str(tmp_path / "o.jsonl")])
    main(["verify", "--run-path", str(run)])
    main(["verify", "--run-path", str(tmp_path / "\x1b[2J")])
    out, error = capsys.readouterr()
    assert "\x1b" not in out + error and "\\u001b]0;owned" in error and "\\u001b[2J" in out
