"""Methods, budgets and outputs over one finished run; stages by themselves; the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import load_file

import gdig
from gdig.errors import CorpusError, GdigError
from tests.support.project_fixtures import (
    N_ROWS,
    N_SEEDS,
    Command,
    check_selection,
    flags,
    labels_of,
    read_jsonl,
    stages,
    steady,
    stored,
    translation_rows,
    without_variable,
    write_jsonl,
)


def test_the_published_choice_draws_evenly_from_the_clusters_of_those_that_agree(project, finished):
    selection = read_jsonl(finished / "selection.jsonl")
    chosen = check_selection(selection, finished, project.rows)
    influence = stored(finished)["influence"]
    agree = (influence > 0).all(1)
    assert 12 <= agree.sum() < N_ROWS, "some rows must not reach tau, or nothing is tested"
    assert agree[chosen].all()
    labels, _ = labels_of(finished)
    sizes = np.bincount(labels[agree], minlength=5)
    drawn = np.bincount(labels[chosen], minlength=5)
    assert drawn.sum() == 12
    # Equal quotas: no cluster that still has rows gives two fewer than another.
    for cluster in range(5):
        assert drawn[cluster] == sizes[cluster] or drawn[cluster] >= drawn.max() - 1
    scores = [row["gdig"]["score"] for row in selection]
    assert scores == sorted(scores, reverse=True)


def test_the_default_choice_is_by_turns_and_says_why(project, swept_copy):
    options = {name: value for name, value in project.options(swept_copy).items() if name not in ("method", "tau")}
    selection = gdig.select(**options)
    sweep = stored(swept_copy)
    length = np.linalg.norm(sweep["sketch"].astype(np.float64), axis=1)[:, None]
    c = sweep["influence"][:] / np.where(length > 0, length, np.inf)
    valid = sweep["valid"] == 1
    r = (c - c[valid].mean(0)) / c[valid].std(0, ddof=1)
    helps = int((r[selection.rows].mean(1) > 0).sum())
    assert selection.summary[1].startswith("by turns, because the pool's mean influence on a seed is ")
    assert selection.summary[2] == f"{helps} of the 12 rows help the seeds more than an average row of the pool"
    reasons = [row["gdig"] for row in read_jsonl(selection.output)]
    assert [row["for_seed"] for row in reasons] == [turn % N_SEEDS for turn in range(12)]
    assert reasons[0]["seed_rank"] == 1 and all(row["relevance"] > -5 for row in reasons)
    assert len({row["cluster"] for row in reasons}) > 1


def test_tau_is_kept_when_enough_rows_reach_it_and_lowered_and_said_when_not(project, swept_copy):
    influence = stored(swept_copy)["influence"]
    votes = (influence > 0).sum(1)
    counts = {v: int((votes >= v).sum()) for v in range(N_SEEDS + 1)}
    enough = gdig.select(**project.options(swept_copy, budget=str(counts[5])))
    assert enough.summary[1] == f"{counts[5]} rows reach agreement 1 (help at least 5 of 5 seeds)"
    assert (votes[enough.rows] == 5).all()
    more = gdig.select(**project.options(swept_copy, budget=str(counts[5] + 1)))
    assert more.summary[1] == (
        f"only {counts[5]} rows reach agreement 1, too few for the budget: lowered to 0.8 (at least 4 of 5 seeds), "
        f"which {counts[4]} rows reach"
    )
    assert (votes[more.rows] >= 4).all() and len(more.rows) == counts[5] + 1
    assert stages(swept_copy)["select"]["notes"] == more.summary[1:2]
    lower = gdig.select(**project.options(swept_copy, tau=0.7))
    assert lower.summary[1] == f"{counts[4]} rows reach agreement 0.7 (help at least 4 of 5 seeds)"
    everything = gdig.select(**project.options(swept_copy, budget=str(N_ROWS)))
    assert sorted(everything.rows) == list(range(N_ROWS))


@pytest.mark.parametrize("method", ["top", "loss", "random", "diverse"])
def test_baselines(project, swept_copy, method):
    result = gdig.select(**project.options(swept_copy, method=method))
    selection = read_jsonl(result.output)
    chosen = check_selection(selection, swept_copy, project.rows, clustered=method == "diverse")
    sweep = stored(swept_copy)
    score = steady(sweep["influence"])
    assert len(chosen) == 12
    if method == "top":
        assert chosen.tolist() == np.lexsort((np.arange(N_ROWS), -score))[:12].tolist()
    elif method == "loss":
        assert chosen.tolist() == np.lexsort((np.arange(N_ROWS), sweep["loss"]))[:12].tolist()
    elif method == "random":
        other = gdig.select(**project.options(swept_copy, method=method, budget="30"))
        assert set(chosen) < set(other.rows), "a larger budget draws the same rows and more"
        assert set(chosen) != set(gdig.select(**project.options(swept_copy, method="top")).rows)
    else:
        drawn = np.bincount(labels_of(swept_copy)[0][chosen], minlength=5)
        assert (drawn > 0).all() and drawn.sum() == 12


def test_draw_by_score_takes_the_best_of_each_cluster(project, swept_copy):
    result = gdig.select(**project.options(swept_copy, method="diverse", draw="score"))
    labels, _ = labels_of(swept_copy)
    score = steady(stored(swept_copy)["influence"])
    for cluster in range(5):
        members = np.flatnonzero(labels == cluster)
        chosen = set(result.rows) & set(members)
        best = members[np.argsort(-score[members], kind="stable")][: len(chosen)]
        assert chosen == set(best)


def test_budgets_as_rows_share_and_tokens(project, swept_copy):
    tokens = stored(swept_copy)["tokens"]
    for budget, rows in (("7", 7), ("10%", 6), ("0.1%", 1), ("100%", N_ROWS)):
        assert len(gdig.select(**project.options(swept_copy, budget=budget)).rows) == rows
    for method in ("gdig", "top", "random", "loss", "diverse"):
        chosen = gdig.select(**project.options(swept_copy, budget="500t", method=method)).rows
        # The draw ends before the first row too many, so what is left is less than one row.
        assert 500 - tokens.max() < tokens[chosen].sum() <= 500


@pytest.mark.parametrize("budget", ["60", "61"])
def test_a_budget_larger_than_the_pool_is_refused(project, swept_copy, budget):
    options = project.options(swept_copy, budget=budget)
    if budget == "60":
        assert len(gdig.select(**options).rows) == 60
        return
    with pytest.raises(gdig.GdigError, match="budget=61 rows: expected at most 60, because the pool holds no more"):
        gdig.select(**options)


def test_output_by_its_ending(project, run_copy, tmp_path):
    lines = gdig.select(**project.options(run_copy, output=tmp_path / "new" / "out.jsonl"))
    table = gdig.select(**project.options(run_copy, output=tmp_path / "out.parquet"))
    assert (lines.output, table.output) == (tmp_path / "new" / "out.jsonl", tmp_path / "out.parquet")
    assert pq.read_table(table.output).to_pylist() == read_jsonl(lines.output)
    assert (tmp_path / "new" / "out.jsonl").read_bytes() == (run_copy / "selection.jsonl").read_bytes()


def test_the_answer_does_not_depend_on_shards_or_batches(project, finished, tmp_path):
    """Rows cut into other shards: the same tokens, so numbers that differ by rounding at most, and the same choice by
    what does not hang on them."""
    run_path = tmp_path / "run"
    options = {"rows_per_shard": 7, "token_batch_size": 10_000, "method": "random"}
    selection = read_jsonl(gdig.select(**project.options(run_path, **options)).output)
    check_selection(selection, run_path, project.rows, clustered=False)
    again, other = stored(finished), stored(run_path)
    for name in ("tokens", "valid", "hash", "cut"):
        np.testing.assert_array_equal(again[name], other[name])
    whole = gdig.select(**project.options(tmp_path / "again", method="random"))
    assert set(whole.rows) == {row["gdig"]["row"] for row in selection}


# Stages by themselves, and the other doors.


def test_stages_one_by_one_equal_select_alone(project, finished, tmp_path):
    options = project.options(tmp_path / "run")
    run_path = tmp_path / "run"
    for stage, folder in ((gdig.fit, "seeds"), (gdig.sweep, "sweep"), (gdig.cluster, "clusters")):
        assert not (run_path / folder).exists()
        assert stage(**options) == run_path
        assert (run_path / folder).is_dir()
    gdig.select(**options)
    files = sorted(p.relative_to(finished) for p in finished.rglob("*") if p.is_file())
    assert files == sorted(p.relative_to(run_path) for p in run_path.rglob("*") if p.is_file())
    for file in files:
        if file.name != "run.json":
            assert (run_path / file).read_bytes() == (finished / file).read_bytes(), file


def test_an_object_of_options_is_as_good_as_options(project, finished, tmp_path):
    config = gdig.Config.build(project.options(tmp_path / "run"))
    result = gdig.select(config, budget="5")
    assert len(result.rows) == 5
    gdig.select(config)
    assert (tmp_path / "run" / "selection.jsonl").read_bytes() == (finished / "selection.jsonl").read_bytes()


def test_kmeans_reads_the_store_of_a_run(finished):
    sweep = finished / "sweep"
    model = gdig.KMeans(5, random_state=0, train_rows="all", unit_normalize=run_config(finished)["unit_normalize"])
    labels = model.fit(sweep).predict(sweep)
    np.testing.assert_array_equal(labels, labels_of(finished)[0])
    np.testing.assert_array_equal(gdig.KMeans(5).fit(str(sweep)).predict(gdig.SketchStore.open(sweep)).shape, (N_ROWS,))


def run_config(run_path: Path) -> dict:
    return json.loads((run_path / "run.json").read_text())["config"]


def test_what_run_json_keeps(project, finished):
    state = json.loads((finished / "run.json").read_text())
    assert {name: stage["state"] for name, stage in state["stages"].items()} == dict.fromkeys(
        ("fit", "sweep", "cluster", "select"), "done"
    )
    assert state["config"] == json.loads(json.dumps(gdig.Config.build(project.options(finished)).to_dict()))
    assert set(state["inputs"]) == {"model", "candidates", "seeds"}
    fit, sweep = state["stages"]["fit"], state["stages"]["sweep"]
    assert fit["curvature"]["examples"] == 24 and fit["curvature"]["invalid"] == 0
    report = fit["seeds"]
    assert len(report["losses"]) == N_SEEDS and report["probe_rows"] == 4
    assert 0.99 <= report["least_energy"] <= 1 and report["relative_error"] < 0.2 and report["correlation"] > 0.9
    assert sweep["rows"] == N_ROWS and sweep["counts"]["tokens"] == stored(finished)["tokens"].sum()
    assert set(state["versions"]) == {"gdig", "torch", "transformers", "numpy", "python"}


def test_preview(project, tmp_path):
    mixed = write_jsonl(tmp_path / "mixed.jsonl", [{"text": "All of it."}, {"text": ""}, {"text": "Yes."}])
    options = {"model": project.model, "candidates": (project.pool, mixed), "seeds": (project.seeds,)}
    preview = gdig.preview(**options, rows=2)
    legend, *texts = map(str, preview.texts)
    assert "enclose the target" in legend
    for row, text in zip(project.rows[:2], texts, strict=False):
        assert f"⟦{row['trg_text']}</s>⟧" in text and row["src_text"] in text
    assert "<s>⟦All of it.</s>⟧" in texts[2] and "row 1 (line 2): field 'text' is empty" in texts[3]
    assert f"{project.pool}: 60 rows, translation (src_text to trg_text), by plain text; " in texts[4]
    assert f"{mixed}: 3 rows, text, by whole text; " in texts[5] and texts[5].endswith("1 row cannot be used")
    assert texts[6].startswith("candidates: 2 files, 63 rows (60 translation, 3 text), ")
    assert "seeds.jsonl, row 0" in texts[7] and texts[-1].startswith("seeds: 5 rows (5 translation), ")
    # What would stop a run: the row, unless bad rows are skipped.
    assert "mixed.jsonl, row 1 (line 2): field 'text' is empty (1 of 63 rows of candidates" in str(preview.error)
    assert gdig.preview(**options, bad_rows="skip").error is None
    whole = gdig.preview(model=project.model, candidates=(project.pool,), rows=1000)
    assert len(whole.texts) == 1 + N_ROWS + 2 and whole.error is None and "seeds" not in whole.reports
    for bad, skip in (
        (options["candidates"], "error"),
        ((write_jsonl(tmp_path / "b.jsonl", [{"text": " "}]),), "skip"),
    ):
        preview = gdig.preview(**{**options, "candidates": bad}, bad_rows=skip)
        with pytest.raises(CorpusError, match="field 'text' is empty"):
            gdig.select(**project.options(tmp_path / "run", candidates=bad, bad_rows=skip, budget="1", n_clusters=1))
        assert preview.error is not None


def test_lengths_and_targets_of_a_preview_are_those_of_the_sweep(project, finished):
    """The tokens as the sweep counts them, and the targets as a tokenizer counts the text after the prompt."""
    from transformers import AutoTokenizer

    (report,) = gdig.preview(model=project.model, candidates=(project.pool,)).reports["candidates"]
    tokens = stored(finished)["tokens"]
    assert report.tokens == tokens.sum() and report.longest == tokens.max() and report.rows == len(tokens)
    assert report.length_of(0.5) == sorted(tokens)[len(tokens) // 2 - 1] and report.length_of(1) == tokens.max()
    tokenizer = AutoTokenizer.from_pretrained(project.model)
    targets = 0
    for row in project.rows:
        prompt = f'Render the following Chinese text faithfully in English.\nChinese: "{row["src_text"]}"\nEnglish:\n'
        whole = tokenizer(prompt + row["trg_text"])["input_ids"]
        n_prompt = next(n for n in range(len(whole)) if len(tokenizer.decode(whole[1 : n + 1])) > len(prompt))
        targets += len(whole) - n_prompt + 1  # and EOS
    assert report.targets == targets


def test_every_row_is_checked_before_a_model_is_loaded(project, tmp_path, monkeypatch):
    """The last row of the pool is bad, and no sample holds it. The model's weights are not read."""
    pool = write_jsonl(tmp_path / "pool.jsonl", [*project.rows, {"src_lang": "Chinese"}])
    monkeypatch.setattr("gdig.model.load.load_model", None)
    options = project.options(tmp_path / "run", candidates=(pool,), fit_tokens=140, probe_rows=1)
    with pytest.raises(CorpusError, match=r"row 60 \(line 61\): field 'trg_lang' is missing"):
        gdig.select(**options)
    seeds = write_jsonl(tmp_path / "seeds.jsonl", [project.rows[0], {"src_lang": "Chinese"}])
    with pytest.raises(CorpusError, match=r"seeds\.jsonl, row 1 \(line 2\): field 'trg_lang' is missing"):
        gdig.select(**{**options, "candidates": (project.pool,), "seeds": (seeds,)})


def test_verify_reads_every_file(finished):
    from gdig.run.verify import verify

    report = verify(finished)
    files = {path.relative_to(finished).as_posix() for path in finished.rglob("[!.]*") if path.is_file()}
    assert {file.file for file in report.files} == files and report.sound
    lines = report.lines()
    kinds = ["run", "curvature", "seeds", "sweep", "features", "clusters", "clusters/labels", str(finished)]
    assert [line.split(":")[0] for line in lines] == kinds
    assert lines[1].startswith("curvature: 6 sound, ") and lines[1].endswith(" bytes")
    assert lines[3].startswith("sweep: 5 sound, ") and lines[-1].endswith(f": {len(files)} sound")


def test_verify_reads_what_selections_leave(project, swept_copy):
    from gdig.run.verify import verify

    gdig.select(**project.options(swept_copy, method="top", max_similarity=0.9, similarity_of="hidden"))
    file = swept_copy / "features" / "hidden_mean.safetensors"
    assert verify(swept_copy).sound
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    (damaged,) = [report for report in verify(swept_copy).files if report.state != "sound"]
    assert (damaged.file, damaged.state) == ("features/hidden_mean.safetensors", "damaged")


# The command line.


@pytest.mark.slow
def test_the_command_as_it_is_installed_gives_the_same_bytes_and_quiet_prints_nothing(project, finished, tmp_path):
    """With all imports of its own, and without the variable by which these tests silence the bars of transformers."""
    args = [sys.executable, "-m", "gdig", "select", *flags(project.options(tmp_path / "run"))]
    with without_variable("HF_HUB_DISABLE_PROGRESS_BARS"):
        done = subprocess.run(args, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "run" / "selection.jsonl").read_bytes() == (finished / "selection.jsonl").read_bytes()


def test_the_command_line_gives_the_same_bytes(project, finished, tmp_path):
    options = project.options(tmp_path / "run", output=str(tmp_path / "out.jsonl"))
    del options["quiet"]
    command = Command.start(["select", *flags(options)], tmp_path)
    assert command.wait() == 0, command.error
    assert (tmp_path / "out.jsonl").read_bytes() == (finished / "selection.jsonl").read_bytes()
    assert command.output.startswith(
        f"12 of 60 rows ({stages(finished)['select']['tokens']:,} tokens): {tmp_path}/out.jsonl\n"
    )
    said = command.error
    for text in ("model: LlamaForCausalLM, float32 on cpu", "factored against exact", "sweep: 60 rows", "k-means: "):
        assert text in said
    assert "Traceback" not in said and "Loading weights" not in said and "\r" not in said


def test_a_run_goes_on_from_the_command_line_without_its_inputs(project, run_copy, capsys, monkeypatch):
    """The options of the run are in run.json. In this process, for the seconds that imports take."""
    from gdig.cli.main import main

    assert main(["select", "--run-path", str(run_copy), "--method", "top", "--budget", "3"]) == 0
    assert capsys.readouterr().out.startswith("3 of 60 rows (")
    assert main(["cluster", "--run-path", str(run_copy)]) == 0
    assert capsys.readouterr().out == f"cluster: done, in {run_copy}\nnext: gdig select --run-path {run_copy}\n"
    assert main(["verify", "--run-path", str(run_copy)]) == 0
    assert capsys.readouterr().out.endswith(" sound\n")
    assert main(["preview", "--model", str(project.model), "--candidates", str(project.pool), "--rows", "1"]) == 0
    out = capsys.readouterr().out
    assert f"⟦{project.rows[0]['trg_text']}</s>⟧" in out
    assert main(["select", "--run-path", str(run_copy), "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")


def test_tasks_of_the_seeds(project, tmp_path):
    rows = [
        {**row, "task": ("short", 7)[place % 2]} for place, row in enumerate(translation_rows(N_SEEDS, random_seed=1))
    ]
    seeds = str(write_jsonl(tmp_path / "seeds.jsonl", rows))
    options = project.options(tmp_path / "run", seeds=(seeds,), task_field="task")
    result = gdig.select(**options, agreement="tasks")
    influence = stored(tmp_path / "run")["influence"].astype(np.float64)
    means = np.stack([influence[:, 0::2].mean(1), influence[:, 1::2].mean(1)], 1)
    assert "help at least 2 of 2 tasks" in result.summary[1] or "of 2 tasks)" in result.summary[1]
    for row in result.columns:
        assert list(row["tasks"]) == ["short", "7"]
        assert list(row["tasks"].values()) == pytest.approx(means[row["row"]], rel=1e-9)
        assert row["agreement"] == (means[row["row"]] > 0).mean()
    assert any(line.startswith("mean influence by task: short ") for line in result.summary)
    # The same run, without another pass, by seeds; and the names of tasks that are not there.
    assert all(row["agreement"] in np.arange(6) / 5 for row in gdig.select(**options).columns)
    with pytest.raises(GdigError, match=r"seeds\.jsonl, row 0 \(line 1\): kind: expected the seed's task"):
        gdig.select(**{**options, "task_field": "kind"})
    with pytest.raises(GdigError, match="all 5 seeds are of one task, 'English'"):
        gdig.select(**{**options, "task_field": "trg_lang"})
    with pytest.raises(GdigError, match="agreement='tasks': expected seeds without task_field"):
        gdig.select(**{**options, "task_field": None}, agreement="tasks")


def test_the_seeds_own_features_are_their_sketches_as_rows_of_a_pool(project, tmp_path):
    """A run over the seeds themselves as the pool, with the same projections, differs by the scale alone."""
    first = gdig.sweep(**project.options(tmp_path / "pool", sketch_space="raw"))
    seeds = load_file(first / "features" / "seeds.safetensors")["sketch"]
    files = {"candidates": (str(project.seeds),), "sketch_dtype": "float32", "fit_tokens": 250}
    gdig.sweep(**project.options(tmp_path / "run", **files, sketch_space="raw"))
    as_rows = stored(tmp_path / "run")["sketch"]
    ratio = stages(first)["sweep"]["scale"] / stages(tmp_path / "run")["sweep"]["scale"]
    # The pass is float32: of another batch a sum may round otherwise, 2^-24 of its terms a few hundred times.
    assert np.abs(seeds - ratio * as_rows).max() <= 1e-4 * np.abs(seeds).max()
    # Their influence on one another is that of those rows on the seeds.
    products = load_file(tmp_path / "run" / "features" / "seeds.safetensors")["influence"]
    assert np.abs(products - stored(tmp_path / "run")["influence"]).max() <= 1e-4 * np.abs(products).max()


def test_turns_by_cosine_need_sketches_in_the_metric_of_the_influence(project, tmp_path):
    """Rows are the seeds: each seed's best row is itself, though others have longer gradients."""
    files = {"candidates": (str(project.seeds),), "fit_tokens": 250, "method": "round-robin", "relevance": "cosine"}
    raw = project.options(tmp_path / "raw", **files, budget="5", n_clusters=None, sketch_space="raw")
    with pytest.raises(GdigError, match="relevance='cosine': expected sketches in the metric of the influence"):
        gdig.select(**raw)
    # A damping that outweighs the curvature leaves a metric in which different rows are hardly alike.
    wide = {"projection_dim": 512, "projection_side": 32, "damping_factor": 100.0, "seed_energy": 1.0}
    for name, metric in (("fisher", {}), ("identity", {"inversion": "identity"})):
        options = project.options(tmp_path / name, **{**files, **wide, **metric}, budget="5", n_clusters=None)
        result = gdig.select(**options)
        assert [column["for_seed"] for column in result.columns] == [0, 1, 2, 3, 4]
        assert result.rows.tolist() == [0, 1, 2, 3, 4] and all(column["seed_rank"] == 1 for column in result.columns)
        # A row's length comes from 512 random columns, of 32 random rows and columns a layer: off by some tenths.
        assert all(0.5 < column["relevance"] < 2 for column in result.columns)
