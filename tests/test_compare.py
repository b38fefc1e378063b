"""Methods side by side over one swept run."""

from __future__ import annotations

import json

import numpy as np
import pytest

import gdig
from gdig import _native
from gdig.api import compare
from gdig.cli.main import main
from gdig.errors import ConfigError
from gdig.selection.methods import METHODS
from tests.support.project_fixtures import N_ROWS, labels_of, stages, steady, stored, translation_rows, write_jsonl
from tests.support.swept_run import make_swept


def test_every_figure_is_that_of_the_choice(project, swept_copy):
    before = {name: facts["seconds"] for name, facts in stages(swept_copy).items() if name != "select"}
    found = compare(**project.options(swept_copy))
    assert [one.method for one in found.summaries] == [name for name, one in METHODS.items() if not one.checkpoints]
    sweep, (labels, _) = stored(swept_copy), labels_of(swept_copy)
    picks = {}
    for one in found.summaries:
        rows = gdig.select(**project.options(swept_copy, method=one.method)).rows
        picks[one.method] = set(rows.tolist())
        assert (one.rows, one.tokens) == (len(rows), sweep["tokens"][rows].sum())
        assert one.score == pytest.approx(steady(sweep["influence"])[rows].mean(dtype=np.float64), rel=1e-6)
        assert one.agreement == pytest.approx((sweep["influence"][rows] > 0).mean())
        assert one.loss == pytest.approx(sweep["loss"][rows].mean(dtype=np.float64), rel=1e-6)
        assert one.clusters == len(set(labels[rows].tolist())) and found.n_clusters == len(set(labels.tolist()))
        assert one.repeated == 0 and one.tasks == {}
    for a, first in enumerate(picks):
        for b, second in enumerate(picks):
            assert found.overlap[a, b] == len(picks[first] & picks[second]) / len(picks[first])
    assert {name: facts["seconds"] for name, facts in stages(swept_copy).items() if name != "select"} == before


def test_neighbours_are_found_once(project, swept_copy, monkeypatch, tmp_path):
    """So many that each method finds its own among them."""
    asked, find = [], _native.neighbours
    monkeypatch.setattr(_native, "neighbours", lambda x, k, **options: asked.append(k) or find(x, k, **options))
    compare(**project.options(swept_copy))
    assert asked == [40]
    compare(**project.options(swept_copy), methods=["self-filter", "loss", "g2is"])
    assert asked == [40, 40]
    compare(**project.options(swept_copy), methods=["g2is"])
    compare(**project.options(swept_copy, n_neighbours=20), methods=["g2is", "self-filter"])
    assert asked == [40, 40, 10, N_ROWS - 1]
    np.save(tmp_path / "x.npy", np.eye(N_ROWS, dtype=np.float32))
    compare(**project.options(swept_copy, features=str(tmp_path / "x.npy")), methods=["g2is", "self-filter"])
    assert asked[4:] == [10, 40]


def test_repeated_rows_and_tasks(project, tmp_path):
    rows = translation_rows(8) * 2
    seeds = [{**row, "task": "ab"[place % 2]} for place, row in enumerate(translation_rows(4, random_seed=1))]
    files = {
        "candidates": (str(write_jsonl(tmp_path / "pool.jsonl", rows)),),
        "seeds": (str(write_jsonl(tmp_path / "seeds.jsonl", seeds)),),
    }
    options = project.options(tmp_path / "run", **files, task_field="task", budget="100%", n_clusters=2)
    make_swept(options)
    (one,) = compare(**options, methods=["top"]).summaries
    assert (one.rows, one.repeated) == (16, 8)
    influence = stored(tmp_path / "run")["influence"].astype(np.float64)
    assert one.tasks == pytest.approx({"a": influence[:, 0::2].mean(), "b": influence[:, 1::2].mean()}, rel=1e-6)


def test_the_command_prints_a_table_or_json_and_writes_no_selection(swept_copy, capsys):
    assert main(["compare", str(swept_copy), "--budget", "6", "--methods", "top", "loss"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"6 rows of {N_ROWS} rows, by each method")
    figures = ["rows", "tokens", "score", "agreement", "loss", "clusters", "repeated"]
    assert lines[1].split() == ["method", *figures, "seconds"]
    assert [line.split()[:2] for line in lines[2:4]] == [["top", "6"], ["loss", "6"]]
    assert main(["compare", str(swept_copy), "--budget", "6", "--methods", "top", "loss", "--json"]) == 0
    read = json.loads(capsys.readouterr().out)
    assert read["budget"] == {"unit": "rows", "amount": 6} and read["rows"] == N_ROWS
    assert list(read["methods"]) == ["top", "loss"] and read["overlap"]["top"]["top"] == 1.0
    assert not (swept_copy / "selection.jsonl").exists()


def test_what_cannot_be_compared(project, swept_copy, tmp_path, capsys):
    with pytest.raises(ConfigError, match=r"methods: expected one of gdig, turns, agreement, .*got 'best'"):
        compare(**project.options(swept_copy), methods=["best"])
    assert main(["compare", str(swept_copy), "--run-path", str(tmp_path)]) == 2
    assert "because RUN names that directory" in capsys.readouterr().err
    assert main(["compare", str(tmp_path / "none"), "--budget", "6"]) == 2
    assert "gdig: error: " in capsys.readouterr().err
