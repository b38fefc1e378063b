"""Bad input: a clear error that names file, row and field; exit status 2, no traceback, nothing half-written."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

import gdig
from gdig.cli.main import main
from gdig.errors import ConfigError
from tests.support.project_fixtures import (
    N_ROWS,
    flags,
    llama_module,
    read_jsonl,
    save_model,
    stages,
    stored,
    translation_rows,
    write_jsonl,
)

# Rows.

BAD_ROWS = {
    "missing field": ({"trg_text": ...}, "field 'trg_text' is missing"),
    "null": ({"src_text": None}, "field 'src_text': expected text, got null"),
    "number": ({"trg_text": 7}, "field 'trg_text': expected text, got int"),
    "empty text": ({"trg_text": "  "}, "field 'trg_text' is empty"),
    "half a surrogate": ({"trg_text": "a\ud800"}, "field 'trg_text': U+D800 at character 1"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_candidate_is_named(project, tmp_path, failing, case):
    changes, expected = BAD_ROWS[case]
    pool = tmp_path / "pool.jsonl"
    rows = [dict(row) for row in project.rows]
    rows[17] = {key: value for key, value in {**rows[17], **changes}.items() if value is not ...}
    pool.write_text("".join(json.dumps(row) + "\n" for row in rows))
    message = failing(candidates=(pool,))
    assert f"{pool}, row 17 (line 18): {expected}" in message


def test_an_output_without_a_place_for_a_field_is_refused_before_a_model_is_loaded(project, tmp_path, failing):
    pool = tmp_path / "pool.parquet"
    table = pa.Table.from_pylist([{**row, "photo": b"\xff"} for row in project.rows])
    pq.write_table(table, pool)
    message = failing(candidates=(pool,), model=tmp_path, tokenizer=project.model)
    assert f"{pool}, row 0: field 'photo': a value that JSON cannot hold" in message


def test_malformed_json_names_line_and_column(project, tmp_path, failing):
    lines = project.pool.read_text().splitlines()
    lines[17] = lines[17].replace('"trg_text":', '"trg_text"')
    (tmp_path / "pool.jsonl").write_text("\n".join(lines) + "\n")
    message = failing(candidates=(tmp_path / "pool.jsonl",))
    assert (
        f"{tmp_path}/pool.jsonl, line 18, column " in message and "not valid JSON: Expecting ':' delimiter" in message
    )
    (tmp_path / "pool.jsonl").write_text('["a"]\n')
    assert "line 1: expected a JSON object, got a list" in failing(candidates=(tmp_path / "pool.jsonl",))


def test_a_template_that_yields_no_target_token(project, tmp_path, failing):
    """An empty target, a field that is not there, and a window that the prompt fills."""
    templates = {"prompt_template": "{{ src_text }}", "target_template": "{{ trg_text if src_lang == 'x' else '' }}"}
    assert f"{project.seeds}, row 0 (line 1): target_template is empty" in failing(**templates)
    templates["target_template"] = "{{ target }}"
    message = failing(**templates)
    assert (
        "target_template: 'target' is undefined; the row has: src_lang, trg_lang, src_text, trg_text, meta" in message
    )
    message = failing(prompt_template="{{ src_text", target_template="x")
    assert "prompt_template" in message and "line 1" in message
    message = failing(max_length=1)
    assert (
        f"{project.seeds}, row 0 (line 1): nothing to learn: no token of the target follows another token within"
        in message
    )


def test_a_bad_seed_always_stops(project, tmp_path, failing):
    rows = translation_rows(4, random_seed=1)
    rows[2]["trg_text"] = ""
    seeds = write_jsonl(tmp_path / "seeds.jsonl", rows)
    message = failing(seeds=(seeds,), bad_rows="skip")
    assert f"{seeds}, row 2 (line 3): field 'trg_text' is empty" in message


def test_files_that_are_not_there_or_hold_nothing(project, tmp_path, failing):
    (tmp_path / "empty.jsonl").touch()
    (tmp_path / "pool.csv").write_text("a,b\n")
    (tmp_path / "pool.txt").write_text("a,b\n")
    assert f"candidates: {tmp_path}/no.jsonl: no such file" in failing(candidates=(tmp_path / "no.jsonl",))
    assert "the pattern matches no file" in failing(candidates=(f"{tmp_path}/*.json",))
    assert f"{tmp_path}/empty.jsonl: the file holds no rows" in failing(seeds=(tmp_path / "empty.jsonl",))
    assert f"{tmp_path}/pool.csv: the file holds a header alone" in failing(candidates=(tmp_path / "pool.csv",))
    assert "unknown kind of file '.txt'" in failing(candidates=(tmp_path / "pool.txt",))
    assert "is given twice" in failing(candidates=(project.pool, project.pool))
    write_jsonl(tmp_path / "odd.jsonl", [{"a": 1}])
    message = failing(candidates=(tmp_path / "odd.jsonl",))
    assert "row 0 (line 1): the fields (a) are those of no known row format" in message
    assert not (tmp_path / "run" / "sweep").exists()


def test_bad_rows_are_skipped_counted_and_never_chosen(project, tmp_path):
    rows = [dict(row) for row in project.rows]
    rows[0]["trg_text"] = ""
    del rows[20]["src_text"]
    rows[59]["trg_text"] = None
    pool = write_jsonl(tmp_path / "pool.jsonl", rows)
    options = project.options(tmp_path / "run", candidates=(pool,), bad_rows="skip", budget=str(N_ROWS))
    result = gdig.select(**options)
    bad = [0, 20, 59]
    assert sorted(result.rows) == [row for row in range(N_ROWS) if row not in bad]
    assert "only 57 of the 60 rows asked for: no more rows are valid" in result.summary
    sweep = stored(tmp_path / "run")
    assert np.flatnonzero(sweep["valid"] == 0).tolist() == bad
    assert (sweep["tokens"][bad] == 0).all() and np.isnan(sweep["loss"][bad]).all()
    assert not sweep["influence"][bad].any() and not sweep["sketch"][bad].any()
    assert stages(tmp_path / "run")["sweep"]["counts"]["not_usable"] == 3
    for method in ("top", "random", "loss", "diverse"):
        chosen = gdig.select(**{**options, "method": method}).rows
        assert len(chosen) == 57 and not set(chosen) & set(bad)
    # The first row of the pool is not what tells whether rows can be converted.
    assert len(gdig.select(**{**options, "format": "alpaca"})) == 57


def test_a_pool_without_one_usable_row(project, tmp_path, failing):
    pool = write_jsonl(tmp_path / "pool.jsonl", [{**row, "trg_text": ""} for row in project.rows])
    message = failing(candidates=(pool,), bad_rows="skip")
    assert "candidates: none of the 60 rows can be used; the first: " in message
    assert f"{pool}, row " in message and "field 'trg_text' is empty" in message


def test_what_is_longer_than_the_window_is_cut_and_counted(project, tmp_path):
    whole = gdig.select(**project.options(tmp_path / "whole"))
    tokens = stored(tmp_path / "whole")["tokens"]
    limit = int(np.median(tokens))
    assert len(whole.rows) == 12 and tokens.max() > limit > tokens.min()
    gdig.sweep(**project.options(tmp_path / "cut", max_length=limit))
    cut = stored(tmp_path / "cut")
    np.testing.assert_array_equal(cut["tokens"], np.minimum(tokens, limit))
    np.testing.assert_array_equal(cut["cut"], np.maximum(tokens - limit, 0))
    assert stages(tmp_path / "cut")["sweep"]["counts"]["cut"] == int((tokens > limit).sum())
    assert cut["valid"].all()


def test_duplicates_and_seeds_among_the_candidates_are_reported(project, tmp_path, capsys):
    seeds = read_jsonl(project.seeds)
    pool = write_jsonl(tmp_path / "pool.jsonl", [*project.rows, *project.rows[:3], project.rows[0], seeds[1], seeds[2]])
    gdig.sweep(**project.options(tmp_path / "run", candidates=(pool,), quiet=False))
    counts = stages(tmp_path / "run")["sweep"]["counts"]
    assert (counts["repeat_another"], counts["equal_to_a_seed"]) == (4, 2)
    assert "4 repeat another, 2 equal to a seed" in capsys.readouterr().err
    hashes = stored(tmp_path / "run")["hash"]
    assert len(np.unique(hashes)) == N_ROWS + 2
    influence = stored(tmp_path / "run")["influence"]
    # The copies lie in other batches: equal up to the order of sums, 2^-24 an operation over some 2^10 of them.
    assert np.allclose(influence[60:63], influence[:3], rtol=2.0**-12, atol=2.0**-12 * np.abs(influence).max())
    repeated = write_jsonl(tmp_path / "seeds.jsonl", [*seeds, seeds[0]])
    gdig.fit(**project.options(tmp_path / "other", seeds=(repeated,), quiet=False))
    assert "warning: seeds: 1 repeats another seed" in capsys.readouterr().err


# Numbers.


def model_with_nan(project, path: Path, token: int | None) -> Path:
    """The project's model with NaN for one token's embedding, or for all."""
    shutil.copytree(project.model, path)
    weights = load_file(path / "model.safetensors")
    weights["model.embed_tokens.weight"][slice(None) if token is None else token] = float("nan")
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})
    return path


def test_a_loss_that_is_not_finite_spoils_its_own_row_only(project, tmp_path, tiny_tokenizer):
    rows = [dict(row) for row in project.rows]
    rare = tiny_tokenizer("~", add_special_tokens=False)["input_ids"]
    assert len(rare) == 1
    bad = [5, 6, 40]
    for i in bad:
        rows[i]["src_text"] += "~"
    pool = write_jsonl(tmp_path / "pool.jsonl", rows)
    options = {"candidates": (pool,), "budget": str(N_ROWS), "token_batch_size": 10_000}
    model = model_with_nan(project, tmp_path / "model", rare[0])
    result = gdig.select(**project.options(tmp_path / "run", model=model, **options))
    assert sorted(result.rows) == [row for row in range(N_ROWS) if row not in bad]
    sweep = stored(tmp_path / "run")
    assert np.flatnonzero(sweep["valid"] == 0).tolist() == bad
    assert (sweep["tokens"][bad] > 0).all() and np.isnan(sweep["loss"][bad]).all()
    state = stages(tmp_path / "run")
    assert (state["sweep"]["counts"]["not_finite"], state["sweep"]["counts"]["not_usable"]) == (3, 0)
    # The same without these rows: a fit that left them out saw the same examples, so every other row has its numbers.
    gdig.sweep(
        **project.options(tmp_path / "sound", model=project.model, **options, fit_tokens=1, inversion="identity")
    )
    gdig.sweep(**project.options(tmp_path / "nan", model=model, **options, fit_tokens=1, inversion="identity"))
    sound, spoilt = stored(tmp_path / "sound"), stored(tmp_path / "nan")
    good = np.setdiff1d(np.arange(N_ROWS), bad)
    for name in ("influence", "loss"):
        np.testing.assert_array_equal(spoilt[name][good], sound[name][good])
    assert np.isfinite(sweep["influence"]).all() and np.isfinite(sweep["sketch"]).all()


def test_a_sample_with_rows_that_are_not_finite_is_fitted_on_the_others_and_counted(project, tmp_path, tiny_tokenizer):
    rows = [dict(row) for row in project.rows]
    for i in range(0, N_ROWS, 2):
        rows[i]["src_text"] += "~"
    pool = write_jsonl(tmp_path / "pool.jsonl", rows)
    (rare,) = tiny_tokenizer("~", add_special_tokens=False)["input_ids"]
    model = model_with_nan(project, tmp_path / "model", rare)
    gdig.sweep(**project.options(tmp_path / "run", model=model, candidates=(pool,), fit_tokens=10_000))
    report = stages(tmp_path / "run")["fit"]["curvature"]
    assert (report["examples"], report["invalid"]) == (30, 30)
    others = write_jsonl(tmp_path / "others.jsonl", rows[1::2])
    options = {"candidates": (others,), "fit_tokens": 10_000, "use_empirical_fisher": True}
    gdig.sweep(**project.options(tmp_path / "others", **options))
    gdig.sweep(**project.options(tmp_path / "mixed", **{**options, "candidates": (pool,)}, model=model))
    alone, mixed = stored(tmp_path / "others")["influence"], stored(tmp_path / "mixed")["influence"]
    # As between numbers of threads: other batches, so other orders of the sums.
    assert np.all(np.abs(mixed[1::2] - alone) <= 2.0**-10 * np.abs(alone).max(0))
    assert not mixed[::2].any()


def test_a_model_that_is_not_finite_anywhere(project, failing, tmp_path):
    model = model_with_nan(project, tmp_path / "model", None)
    message = failing(model=model)
    assert "none of the 24 rows of the sample has one; check the model's weights" in message
    message = failing(model=model, inversion="identity")
    assert "seeds.jsonl, row 0 (line 1): expected a finite loss, but its loss is nan" in message


def test_token_ids_beyond_the_vocabulary_are_named(project, tmp_path, failing, tiny_tokenizer):
    """A tokenizer of another model: a lookup past the embedding would end in the middle of the device's work."""
    model = save_model(tmp_path / "model", llama_module(200), tiny_tokenizer)
    message = failing(model=model)
    assert f"{project.seeds}, row 0 (line 1): " in message
    assert "token" in message and "0 to 199" in message
    rows = [{"input_ids": [3, 4, 5], "labels": [-100, 4, 5]}, {"input_ids": [3, 200], "labels": [-100, 200]}]
    pool = write_jsonl(tmp_path / "pool.jsonl", rows)
    message = failing(model=model, candidates=(pool,), seeds=(pool,), budget="2", n_clusters=2)
    assert f"{pool}, row 1 (line 2): field 'input_ids': 200 at position 1 is out of range (0 to 199)" in message


# Options.


def test_fewer_candidates_than_the_budget(failing):
    assert "budget=61 rows: expected at most 60, because the pool holds no more" in failing(budget="61")
    assert "budget=1000000 tokens: expected at most " in failing(budget="1Mt")


def test_more_clusters_than_rows(failing):
    assert "n_clusters=61: expected at most 60, because the pool has 60 rows" in failing(n_clusters=61)


def test_output_over_an_input_is_refused_before_anything_is_computed(project, tmp_path, failing):
    pool = Path(shutil.copy(project.pool, tmp_path / "pool.jsonl"))
    before = pool.read_bytes()
    message = failing(candidates=(pool,), output=tmp_path / "." / "pool.jsonl")
    assert "output: " in message and "pool.jsonl is one of the candidates" in message
    seeds = Path(shutil.copy(project.seeds, tmp_path / "seeds.jsonl"))
    assert "is one of the seeds" in failing(seeds=(seeds,), output=seeds)
    assert pool.read_bytes() == before
    assert not (tmp_path / "run" / "curvature").exists()


def test_values_that_no_option_has(project, tmp_path, capsys):
    for name, value, expected in (
        ("precision", "float16", "precision='float16': expected one of auto, float32, bfloat16"),
        ("sketch_dtype", "float8", "sketch_dtype='float8': expected one of float16, bfloat16, int8, float32"),
    ):
        with pytest.raises(ConfigError, match=expected):
            gdig.select(**project.options(tmp_path / "run", **{name: value}))
        assert main(["select", *flags(project.options(tmp_path / "run", **{name: value}))]) == 2
        error = " ".join(capsys.readouterr().err.replace("│", " ").split())
        assert value in error and "--" + name.replace("_", "-") in error
    assert not (tmp_path / "run").exists()


def test_devices_that_are_not_there(failing):
    if not torch.cuda.is_available():
        assert "device: 'cuda' asked for, but torch sees 0 CUDA devices" in failing(device="cuda")
    assert "device: 'cuda:99' asked for, but torch sees " in failing(device="cuda:99")
    assert "device: expected auto, cpu, cuda or cuda:N, got 'tpu'" in failing(device="tpu")
    assert "device: expected auto, cpu, cuda or cuda:N, got 'meta'" in failing(device="meta")


@pytest.mark.parametrize(
    "command",
    ["fit", "sweep", "cluster", "select", "plan", "preview", "compare", "explain", "report", "score-net", "verify"],
)
def test_a_command_that_goes_on_from_a_run_says_that_there_is_none(command, tmp_path, capsys):
    asked = ["--seed", "0"] if command == "explain" else []
    assert main([command, "--run-path", str(tmp_path / "none"), *asked]) == 2
    error = capsys.readouterr().err
    assert f"run_path: {tmp_path / 'none'} is no run directory (it holds no run.json)" in error
    assert error.endswith("[G105]\n") and not (tmp_path / "none").exists()


def test_a_new_run_without_a_pool_is_told_so(project, tmp_path, capsys):
    assert main(["select", "--run-path", str(tmp_path / "none"), "--model", str(project.model)]) == 2
    assert capsys.readouterr().err.startswith("gdig: error: candidates: required, but missing")
