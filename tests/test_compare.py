"""Methods side by side over one swept run."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import gdig
from gdig import _native
from gdig.api import compare
from gdig.cli.main import main
from gdig.data.corpus import open_corpus
from gdig.errors import ConfigError, GdigError
from gdig.progress import Progress
from gdig.run.session import Workspace
from gdig.selection.methods import METHODS
from tests.support.project_fixtures import N_ROWS, labels_of, stages, steady, stored, translation_rows, write_jsonl
from tests.support.swept_run import make_swept


def test_every_figure_is_that_of_the_choice(project, swept_copy):
    before = {name: facts["seconds"] for name, facts in stages(swept_copy).items() if name != "select"}
    comparison = compare(**project.options(swept_copy))
    assert [summary.method for summary in comparison.summaries] == [
        name for name, method in METHODS.items() if not method.checkpoints
    ]
    sweep, (labels, _) = stored(swept_copy), labels_of(swept_copy)
    picks = {}
    for summary in comparison.summaries:
        rows = gdig.select(**project.options(swept_copy, method=summary.method)).rows
        picks[summary.method] = set(rows.tolist())
        assert (summary.rows, summary.tokens) == (len(rows), sweep["tokens"][rows].sum())
        assert summary.score == pytest.approx(steady(sweep["influence"])[rows].mean(dtype=np.float64), rel=1e-6)
        assert summary.agreement == pytest.approx((sweep["influence"][rows] > 0).mean())
        assert summary.loss == pytest.approx(sweep["loss"][rows].mean(dtype=np.float64), rel=1e-6)
        assert summary.clusters == len(set(labels[rows].tolist()))
        assert comparison.n_clusters == len(set(labels.tolist()))
        assert summary.repeated == 0 and summary.tasks == {}
    for a, first in enumerate(picks):
        for b, second in enumerate(picks):
            assert comparison.overlap[a, b] == len(picks[first] & picks[second]) / len(picks[first])
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
    (summary,) = compare(**options, methods=["top"]).summaries
    assert (summary.rows, summary.repeated) == (8, 0)
    assert "8 rows repeat an earlier row and were left out" in summary.notes[0]
    (summary,) = compare(**options, methods=["top"], repeats="keep").summaries
    assert (summary.rows, summary.repeated) == (16, 8)
    influence = stored(tmp_path / "run")["influence"].astype(np.float64)
    assert summary.tasks == pytest.approx({"a": influence[:, 0::2].mean(), "b": influence[:, 1::2].mean()}, rel=1e-6)


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


def test_a_training_on_each_selection_is_that_of_a_plain_loop(project, finished, tmp_path):
    """All weights, AdamW without decay, the rate falling to 0 as a line."""
    held = write_jsonl(tmp_path / "held.jsonl", translation_rows(6, random_seed=7))
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    trial = {"held_out": str(held), "train_steps": 3, "train_batch_size": 2, "learning_rate": 1e-3, "lora_rank": 0}
    options = project.options(run, budget="2")
    comparison = compare(**options, methods=["top", "random"], train=True, **trial)
    result = comparison.held_out
    assert (result.rows, result.steps, result.trainings) == (6, 3, 1) and list(result.loss) == ["top", "random"]
    with Workspace(gdig.Config.build(options), Progress(quiet=True)) as work:
        judged = work.read_examples(open_corpus([held]))
        for summary, rows in zip(comparison.summaries, comparison.rows, strict=True):
            examples = work.encoder.encode(work.candidates, rows)
            module = AutoModelForCausalLM.from_pretrained(options["model"], dtype=torch.float32)
            assert result.before == pytest.approx(plain_loss(module, judged), rel=1e-5)
            optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, weight_decay=0.0)
            for step in range(3):  # two rows in a batch of two: every order gives the same step
                optimizer.param_groups[0]["lr"] = 1e-3 * (1 - step / 3)
                module.train()
                loss = sum(nll(module, e) for e in examples) / sum(e.n_target for e in examples)
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
                optimizer.step()
            assert result.loss[summary.method] == pytest.approx(plain_loss(module, judged), rel=1e-4)
    assert result.loss["top"] != pytest.approx(result.before, rel=1e-3)


def nll(module, example):
    ids, labels = (torch.from_numpy(x.astype(np.int64))[None] for x in (example.input_ids, example.labels))
    logits = module.eval()(input_ids=ids).logits[0, :-1]
    return torch.nn.functional.cross_entropy(logits, labels[0, 1:], reduction="sum", ignore_index=-100)


@torch.no_grad()
def plain_loss(module, examples):
    return float(sum(nll(module, e) for e in examples)) / sum(e.n_target for e in examples)


@pytest.mark.filterwarnings("error:`is_gradient_checkpointing`:FutureWarning")
def test_an_adapter_is_trained_and_the_table_shows_the_losses(project, swept_copy, tmp_path, capsys):
    pytest.importorskip("peft")
    held = write_jsonl(tmp_path / "held.jsonl", translation_rows(5, random_seed=7))
    command = [
        "compare",
        str(swept_copy),
        "--budget",
        "6",
        "--methods",
        "random",
        "top",
        "--train",
        "--held-out",
        str(held),
    ]
    assert main([*command, "--train-steps", "2", "--trainings", "2", "--learning-rate", "0.01", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)["held_out"]
    assert facts["rows"] == 5 and facts["trainings"] == 2 and set(facts["loss"]) == {"random", "top"}
    low, high = facts["beside_first"]["top"]
    assert low <= facts["loss"]["top"] - facts["loss"]["random"] <= high
    assert all(loss != facts["before"] for loss in facts["loss"].values())
    again = compare(**project.options(swept_copy, budget="6"), methods=["random", "top"], train=True,
                    held_out=str(held), train_steps=2, trainings=2, learning_rate=0.01)  # fmt: skip
    assert again.held_out.loss == facts["loss"]
    lines = again.held_out.lines()
    assert lines[0].startswith("loss on 5 held-out rows") and lines[1].split()[:2] == ["method", "loss"]
    assert [line.split()[0] for line in lines[2:]] == sorted(facts["loss"], key=facts["loss"].get)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"train": True}, "held_out: required"),
        ({"train": True, "held_out": "SEEDS"}, "also seeds"),
        ({"train": True, "held_out": "HELD", "train_steps": 0}, "train_steps=0"),
        ({"train": True, "held_out": "HELD", "learning_rate": 1e9, "lora_rank": 0}, "diverged"),
        ({"held_out": "HELD"}, "without train"),
    ],
)
def test_trainings_that_cannot_be(project, swept_copy, tmp_path, given, message):
    options = project.options(swept_copy, budget="6")
    held = write_jsonl(tmp_path / "held.jsonl", translation_rows(5, random_seed=7))
    places = {"SEEDS": options["seeds"][0], "HELD": str(held)}
    given = {name: places.get(value, value) if isinstance(value, str) else value for name, value in given.items()}
    with pytest.raises(GdigError, match=message):
        compare(**options, methods=["top"], **given)


@pytest.mark.parametrize("given", [{"held_out": "none.jsonl"}, {"held_out": "SEEDS"}])
def test_held_out_rows_are_read_before_a_sweep(project, tmp_path, given):
    """A sweep takes hours; a held-out file that cannot be used is named before."""
    options = project.options(tmp_path / "run", budget="6")
    given = {name: options["seeds"][0] if value == "SEEDS" else str(tmp_path / value) for name, value in given.items()}
    with pytest.raises(GdigError, match="held_out"):
        compare(**options, methods=["top"], train=True, **given)
    assert not list((tmp_path / "run").glob("sweep/*")) and not list((tmp_path / "run").glob("curvature/*"))
