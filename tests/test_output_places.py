"""No output takes the place of an input or of a file of the run, and names may be any that the system takes."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

import gdig
from gdig.cli.main import main
from gdig.errors import ConfigError, CorpusError, RunError
from gdig.run.record_file import read_record
from gdig.run.verify import verify
from gdig.selection.chosen_rows import read_chosen_rows
from tests.support.limits import within
from tests.support.project_fixtures import SignalAt, edit_record, fork, translation_rows, write_jsonl


@pytest.fixture
def run(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "run"))


@pytest.mark.parametrize(
    "place", ["excluded.jsonl", "sweep/x.jsonl", "tokens/new/x.jsonl", "clusters/../sweep/x.jsonl"]
)
def test_a_selection_is_not_written_among_the_files_of_a_run(project, run, place):
    with pytest.raises(ConfigError, match="a place beside the run's own files"):
        gdig.select(**project.options(run, method="top", output=run / place))


@pytest.mark.parametrize("option", ["exclude", "difficulty", "features"])
def test_a_selection_replaces_no_input(project, run, tmp_path, option):
    file = write_jsonl(tmp_path / "given.jsonl", translation_rows()[:3])
    before = file.read_bytes()
    value = (str(tmp_path / "g*.jsonl"),) if option == "exclude" else str(file)
    with pytest.raises(ConfigError, match=rf"output: .*given\.jsonl is one of the {option}, which it would replace"):
        gdig.select(**project.options(run, method="top", output=file, **{option: value}))
    (tmp_path / "link.jsonl").symlink_to(project.pool)
    with pytest.raises(ConfigError, match=r"link\.jsonl is one of the candidates"):
        gdig.select(**project.options(run, method="top", output=tmp_path / "link.jsonl"))
    assert file.read_bytes() == before


@pytest.mark.parametrize("command", ["report", "explain", "compare", "compare runs"])
def test_a_page_replaces_no_file_of_data(project, run, capsys, command):
    flags = {
        "report": ["report", str(run)],
        "explain": ["explain", str(run), "3"],
        "compare": ["compare", str(run), "--methods", "top", "loss"],
        "compare runs": ["compare", str(run), "--other", str(run)],
    }[command]
    for file in (project.pool, run / "run.json", run / "sweep" / "store.json", run / "sweep" / "x.html"):
        before = file.read_bytes() if file.exists() else None
        assert main([*flags, "--html", str(file)]) == 2
        error = capsys.readouterr().err
        assert "html=" in error and ("a name that ends in .html" in error or "a place beside the run's own" in error)
        assert (file.read_bytes() if file.exists() else None) == before
    assert verify(run).sound


def test_a_table_of_rows_replaces_neither_the_pool_nor_the_selection(project, run, tmp_path):
    output = tmp_path / "chosen.parquet"
    gdig.select(**project.options(run, method="top", output=output))
    before = output.read_bytes()
    for place, message in ((output, "which it would replace"), (run / "run.json", "a name that ends in .parquet")):
        with pytest.raises(ConfigError, match=f"atlas.*{message}"):
            gdig.report(run_path=run, html=tmp_path / "a.html", atlas=place)
    assert output.read_bytes() == before


def test_a_name_that_no_file_can_have_is_refused(tmp_path):
    for name in ("output", "model", "candidates", "chat_template_file", "run_path"):
        for text in ("a\0b.jsonl", "\ud800.jsonl"):
            value = (text,) if name == "candidates" else text
            with pytest.raises(ConfigError, match=f"{name}=.*expected a name that a file can have"):
                gdig.Config.build({name: value})


def test_a_name_that_is_no_utf_8_is_a_name(project, tmp_path, monkeypatch):
    """A system takes any bytes but two for the name of a file."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    folder.mkdir()
    pool, evaluation = folder / "\udcfe.jsonl", folder / "\udcfd.jsonl"
    shutil.copy(project.pool, pool)
    shutil.copy(project.pool, evaluation)
    options = project.options(
        folder / "run", candidates=(str(pool),), exclude=(str(evaluation),), gradients=False, method="rds",
        exclude_similarity=1.0,
    )  # fmt: skip
    write_jsonl(evaluation, translation_rows()[5:7])
    selection = gdig.select(**options)
    assert read_record(folder / "run" / "run.json").config["candidates"] == [str(pool)]
    lines = [json.loads(line) for line in (folder / "run" / "excluded.jsonl").read_text("utf-8").splitlines()]
    assert [line["row"] for line in lines] == [5, 6] and "\udcfe.jsonl" in lines[0]["where"]
    assert gdig.select(run_path=folder / "run", method="rds").rows.tolist()  # with the options of the record
    assert verify(folder / "run").sound and len(selection.rows)


def test_a_row_of_half_a_character_can_be_printed(monkeypatch):
    """stdout of most terminals refuses it."""
    from gdig.cli import main as module

    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(module, "main", lambda: print('{"text": "\ud800"}') or 0)
    monkeypatch.setattr(module, "end_in_time", lambda: None)
    with pytest.raises(SystemExit, match="0"):
        module.run()
    out.flush()
    assert json.loads(out.buffer.getvalue()) == {"text": "\ud800"}


# The file of a selection.


def test_a_selection_that_was_changed_is_not_reported_in_silence(project, run, tmp_path):
    gdig.select(**project.options(run, method="top", output=run / "mine.jsonl"))
    assert verify(run).sound
    rows = [json.loads(line) for line in (run / "mine.jsonl").read_text().splitlines()]
    rows[0]["gdig"]["row"] += 1
    write_jsonl(run / "mine.jsonl", rows)
    states = {report.file: report.state for report in verify(run).files if report.state != "sound"}
    assert states == {"mine.jsonl": "damaged"}
    message = r"mine\.jsonl: expected a content with the hash .*name the file by the option selection"
    with pytest.raises(RunError, match=message):
        gdig.report(run_path=run, html=tmp_path / "a.html")
    with pytest.raises(RunError, match=message):
        gdig.explain(run_path=run, rows=[3], model_pass=False)
    gdig.report(run_path=run, html=tmp_path / "a.html", selection=str(run / "mine.jsonl"))


def test_an_output_of_a_forged_record_is_never_read(run):
    for output in ("\0.jsonl", "\ud800.jsonl", "/dev/zero", str(run / "none.jsonl")):

        def forge(state: dict, output: str = output) -> None:
            state["stages"]["select"].update(output=output)
            state["stages"]["select"]["config"]["output"] = output

        edit_record(run, forge)
        with within(2.0):
            states = {report.file: report.state for report in verify(run).files if report.state != "sound"}
        assert states == ({"none.jsonl": "missing"} if output.endswith("none.jsonl") else {}), output


def test_a_compressed_selection_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("gdig.selection.chosen_rows._LONGEST_LINE", 1 << 16)
    with gzip.open(tmp_path / "line.jsonl.gz", "wb") as file:
        file.write(b"0" * (1 << 26))
    with pytest.raises(CorpusError, match=r"line\.jsonl\.gz: .*a line of more than 65,536 bytes"):
        read_chosen_rows(tmp_path / "line.jsonl.gz", 3)
    for name, open_file in (("lines.jsonl.gz", gzip.open), ("lines.jsonl", open)):
        with open_file(tmp_path / name, "wb") as file:
            file.write(b'{"gdig": {"row": 1}}\n' * 10)
        with pytest.raises(CorpusError, match=r"expected at most the 3 rows of this pool, got more"):
            read_chosen_rows(tmp_path / name, 3)
        assert read_chosen_rows(tmp_path / name, 10).rows.tolist() == [1] * 10


# A merge that is killed.


@pytest.mark.parametrize("n", [2, 4])
def test_a_merge_that_was_killed_goes_on(whole, run, tmp_path, n):
    """Before this copy of the fit was whole, the directory was no run, so the same command refused it."""
    (out := tmp_path / "out").mkdir()
    edit_record(run, lambda state: state["stages"]["sweep"].update(state="running"))
    process = fork(_killed_merge, run, out, n)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL and (out / "run.json").exists()
    (line,) = gdig.merge([run], out)
    assert line.endswith(" are there") and verify(out).sound
    for folder in ("curvature", "seeds", "sweep"):
        assert sorted(p.name for p in (out / folder).iterdir()) == sorted(p.name for p in (whole / folder).iterdir())


def _killed_merge(run: Path, out: Path, n: int) -> None:
    SignalAt("gdig.run.merge:_copy_file", n).arm()
    gdig.merge([run], out)
