"""Selections side by side as a page: of several methods, and of two runs."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import gdig
from gdig.cli.main import main
from gdig.errors import RunError
from gdig.run.stored_options import config_of_start
from gdig.selection.compare import HeldOut
from gdig.showing import compare_page, compare_runs
from tests.support.project_fixtures import read_jsonl, translation_rows, write_jsonl
from tests.support.swept_run import make_swept


def data_of(page: Path) -> dict:
    return json.loads(re.search(r'id="facts">(.*?)</script>', page.read_text(encoding="utf-8"), re.S)[1])


def test_a_page_of_methods_has_the_rows_that_one_alone_chose(project, swept_copy, tmp_path):
    options = project.options(swept_copy)
    comparison = gdig.compare(**options, methods=["top", "loss", "random"])
    page = tmp_path / "methods.html"
    compare_page(config_of_start(None, options), comparison, page)
    data = data_of(page)
    sets = [set(rows.tolist()) for rows in comparison.rows]
    for i, side in enumerate(data["sides"]):
        others = set().union(*(rows for j, rows in enumerate(sets) if j != i))
        assert side["name"] == ["top", "loss", "random"][i] and side["rows"] == len(sets[i])
        assert set(side["shown"]) == sets[i] - others and side["alone"] == len(side["shown"])
        assert all(data["rows"][str(row)]["text"] for row in side["shown"])
    assert data["everywhere"] == len(set.intersection(*sets))
    assert data["overlap"]["shares"] == comparison.overlap.tolist()


def test_a_page_of_methods_has_what_holds_for_all_once_and_the_trainings(project, swept_copy, tmp_path):
    options = project.options(swept_copy)
    comparison = gdig.compare(**options, methods=["top", "loss"])
    for summary, own in zip(comparison.summaries, ("of top", "of loss"), strict=True):
        summary.notes[:] = ["of both", own]
    loss = {"top": 2.5, "loss": 2.25}
    beside = {"top": (0.0, 0.0), "loss": (-0.5, -0.125)}
    comparison = replace(comparison, held_out=HeldOut(7, 1234, 3, 20, 3.0, loss, beside))
    page = tmp_path / "methods.html"
    compare_page(config_of_start(None, options), comparison, page)
    text = page.read_text(encoding="utf-8").partition('id="facts"')[0]
    assert [text.count(note) for note in ("of both", "of top", "of loss")] == [1, 1, 1]
    words = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text))
    assert "7 rows (1,234 target tokens), 20 steps, 3 trainings of each" in words
    assert "before any training 3.0000" in words
    assert "loss 2.2500 -0.7500 -0.5000 to -0.1250 top 2.5000 -0.5000" in words  # the lowest loss first
    lines = comparison.lines()
    assert [lines.count(line) for line in ("of both", "top: of top", "loss: of loss")] == [1, 1, 1]


def test_two_runs_side_by_side(project, swept, tmp_path, capsys):
    paths = [Path(shutil.copytree(swept, tmp_path / name)) for name in "ab"]
    for path, method in zip(paths, ("top", "loss"), strict=True):
        gdig.select(**project.options(path, method=method))
    page = tmp_path / "runs.html"
    assert main(["compare", str(paths[0]), "--other", str(paths[1]), "--html", str(page)]) == 0
    lines = capsys.readouterr().out.splitlines()
    first, second = ({row["gdig"]["row"] for row in read_jsonl(path / "selection.jsonl")} for path in paths)
    share = f"{len(first & second) / len(first):.0%}"
    assert lines[0].startswith(f"{paths[0]}: {len(first)} rows") and f"{share} of them in {paths[1]}" in lines[0]
    assert lines[-1] == f"page: {page}"
    sides = data_of(page)["sides"]
    assert [set(side["shown"]) for side in sides] == [first - second, second - first]
    for args, name in ((["--methods", "top"], "methods"), (["--train"], "train"), (["--json"], "json")):
        assert main(["compare", str(paths[0]), "--other", str(paths[1]), *args]) == 2
        assert f"error: {name}=" in capsys.readouterr().err
    (paths[1] / "selection.jsonl").unlink()
    with pytest.raises(RunError, match=r"expected a selection, but it has none; run gdig select"):
        compare_runs(config_of_start(None, {"run_path": str(paths[0])}), str(paths[1]))


def test_runs_over_other_pools_are_refused(project, swept, tmp_path):
    own = Path(shutil.copytree(swept, tmp_path / "a"))
    gdig.select(**project.options(own))
    other = write_jsonl(tmp_path / "other.jsonl", translation_rows(20, random_seed=5))
    options = project.options(tmp_path / "b", candidates=(str(other),), method="top", budget="4")
    make_swept(options)
    gdig.select(**options)
    with pytest.raises(RunError, match="expected a run over the same files of candidates"):
        compare_runs(config_of_start(None, {"run_path": str(own)}), str(tmp_path / "b"))
