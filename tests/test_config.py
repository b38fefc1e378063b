"""Options: every value is checked at the door, by name, with what was expected."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gdig.config.budget import Budget, Limit, parse_budget
from gdig.config.config import Config
from gdig.config.options import GROUPS, PRESETS, STAGE_GROUPS, STAGES, RunOptions
from gdig.errors import ConfigError

NAN, INFINITY = float("nan"), float("inf")


def test_the_defaults_are_good_and_the_presets_too():
    assert Config() == Config.build({})
    for name, values in PRESETS.items():
        config = Config.build({"preset": name})
        assert config.preset == name
        assert {key: getattr(config, key) for key in values} == values


def test_an_option_wins_over_its_preset():
    config = Config.build({"preset": "paper", "seed_rank": 8})
    assert (config.seed_rank, config.inversion) == (8, "kfac")


def test_every_option_belongs_to_one_group_and_every_group_to_one_stage():
    names = [f.name for group in GROUPS for f in fields(group)]
    assert len(names) == len(set(names))
    assert set(names) | {"preset"} == {f.name for f in fields(Config)}
    of_stages = [group for stage in STAGES for group in STAGE_GROUPS[stage]]
    assert sorted([*of_stages, RunOptions], key=str) == sorted(GROUPS, key=str)


BAD = {
    "row_format": ["csv", None, 1],
    "precision": ["float16", "half"],
    "loss_reduction": ["none"],
    "inversion": ["svd", None],
    "damping_mode": ["none"],
    "kfac_approx": ["sum"],
    "sketch_dtype": ["float64"],
    "method": ["best", ["top"]],
    "quotas": ["even", None],
    "draw": ["best"],
    "cg_tolerance": [-1e-9, NAN, INFINITY, "small", None, True],
    "bad_rows": ["drop"],
    "damping_factor": [-1e-9, NAN, INFINITY, "much", None, True],
    "seed_energy": [0, -0.5, 1.0001, NAN, "all", None, True],
    "tau": [0, 1.5, NAN, "high", None, True],
    "kmeans_tol": [-1e-9, NAN, INFINITY, "small", None, True],
    "train_rows": [0, -1, 1.5, "some", True, NAN],
    "random_seed": [-1, 2**63, 1.0, "0", None, True],
    "projection_seed": [-1, 2**63, 0.5, "0", None, True],
    "budget": ["", "0", "-1", "1.5", "0%", "101%", "1.5%%", "ten", "5 kg", "0t", "1e3", None, "9" * 400],
    "filter_modules": ["(", "[a", ["a"]],
    "layers": ["", "upper", "upper:0", "upper:2", "mlp:0.5", 3],
    "output": ["selection.txt", "selection", ""],
    "candidates": [None, True, ("a", None)],
    "seeds": [None, {"a": 4}],
    "model": [["a"], False],
    "base_model": [["a"], False],
    "tokenizer": [b"t"],
    "run_path": [["a"]],
    "prompt_template": [["a"]],
    "prompt_column": [["a"]],
    "completion_column": [["a"], True],
    "conversation_column": [["a"]],
    "system_column": [["a"]],
    "target_template": [{}],
    "use_empirical_fisher": ["no", 0, None],
    "trust_remote_code": ["false", 1, None],
    "unit_normalize": ["yes", None],
    "overwrite": ["no", 1],
    "quiet": ["no", None],
    "device": [None, ("cpu",)],
    "gradient_checkpointing": ["yes", 1],
    "task_field": [["a"], True],
    "agreement": ["rows", None],
    "over_seeds": ["median", None],
    "knn_features": ["tokens", None],
    "knn_density": ["no", 1, None],
    "source_field": [["a"], True],
    "source_quotas": [["equal"], True],
    "repeats": ["no", None, True],
    "max_similarity": [0, -0.5, 1.1, NAN, None, "much", True],
    "similarity_of": ["tokens", None],
    "exclude": [None, True, ("a", None)],
    "exclude_similarity": [0, 1.5, NAN, None, True],
    "grown_clusters": ["drop", None, True],
    "gradients": ["yes", 1, None],
    "chat_template": ["yes", 1, None],
    "chat_template_file": [["a"], True],
    "hidden_layers": [0, -1, 1.5, "two", None, True, 513],
    "score": ["median", None],
    "relative_to": ["mean", None],
    "relevance": ["loss", None],
    "format": ["csv", "Alpaca", True, 1],
    "plain": ["yes", 1, None],
    "report": ["yes", 1, None],
    "neighbour_search": ["hnsw", None],
    "difficulty": [["a"], True],
    "features": [["a"], True],
    "torch_compile": ["yes", 1, None],
    "quantization": ["3bit", 4, None],
    "matmul_precision": ["low", None],
    "device_map": ["cuda", None],
    "sketch_space": ["hessian", None],
    "cluster_discount": [-0.1, NAN, INFINITY, None, "much", True],
    "checkpoints": [None, True, ("a", None)],
    "checkpoint_weights": [[-1.0], [NAN], [INFINITY], None, [True], "much"],
    "workers": [-1, 129, 1.5, "2", True], "threads": [0, -3, 1.5, "5", True, 1025, 10**6],
    "sweep_part": ["0/4", "5/4", "1", "a/b", "1/0", 3, ("1/2",)],
    **{
        name: [0, -3, 1.5, "5", True]
        for name in (
            "fit_tokens", "cg_rows", "cg_iterations", "seed_rank", "probe_rows", "projection_dim", "projection_side",
            "rows_per_shard", "kmeans_max_iter", "token_batch_size", "max_length", "n_clusters", "n_neighbours",
            "feature_side", "n_probe",
        )
    },
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_a_value_that_cannot_be_used_is_refused_by_name(name, value):
    options = {name: value}
    if name.endswith("_template"):
        options = {"prompt_template": "a", "target_template": "b", **options}
    for make in (Config.build, lambda options: Config(**options), lambda options: Config().with_options(**options)):
        with pytest.raises(ConfigError) as refused:
            make(options)
        message = str(refused.value)
        assert message.startswith(f"{name}=") and ": expected " in message
        if not (isinstance(value, str) and len(value) > 100):
            assert repr(value) in message or str(value) in message


def test_every_option_is_checked():
    """An option without a bad value above can hold anything, or has been forgotten."""
    assert set(BAD) | {"preset"} == {f.name for f in fields(Config)}
    with pytest.raises(ConfigError, match="preset='best': expected one of default, paper"):
        Config.build({"preset": "best"})


GOOD = {
    "damping_factor": [0, 0.1, 1], "seed_energy": [1, 0.5], "tau": [1, 0.01], "kmeans_tol": [0, 1e-3],
    "train_rows": [None, "all", 7], "random_seed": [0, 2**63 - 1], "n_clusters": [None, 1], "threads": [None, 2, 1024],
    "token_batch_size": ["auto", 1], "workers": [None, 0, 3, 128],
    "max_length": [None, 1], "budget": [500, "500", "10%", "1.5Mt"],
    "output": ["a.jsonl", "A.JSONL.GZ", Path("b.parquet"), None],
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in GOOD.items() for value in values])
def test_good_values(name, value):
    converted = getattr(Config.build({name: value}), name)
    assert converted == (str(value) if name == "budget" or isinstance(value, Path) else value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"damping_mode": "factored_tikhonov"}, "damping_mode='factored_tikhonov': expected relative or absolute with"),
        ({"kfac_approx": "reduce"}, "kfac_approx='reduce': expected expand with inversion=ekfac"),
        ({"kfac_approx": "reduce", "inversion": "cg"}, "kfac_approx='reduce': expected expand with inversion=cg"),
        ({"sketch_space": "fisher", "inversion": "identity"}, "sketch_space='fisher': expected auto or raw with inv"),
        ({"prompt_template": "a"}, "target_template=None: expected a template, because prompt_template is"),
        ({"target_template": "a"}, "prompt_template=None: expected a template, because target_template is"),
        ({"row_format": "template"}, "row_format='template': expected another format, or prompt_template and"),
        ({"n_clusters": 8, "train_rows": 7}, "train_rows=7: expected all or a whole number of at least 8, because"),
    ],
)  # fmt: skip
def test_options_that_do_not_go_together(options, message):
    with pytest.raises(ConfigError) as refused:
        Config.build(options)
    assert str(refused.value).startswith(message)


def test_an_unknown_option_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="unknown option 'damping_facter'; did you mean 'damping_factor'"):
        Config.build({"damping_facter": 1})
    with pytest.raises(ConfigError, match=r"unknown option 'xyzzy'$"):
        Config.build({"xyzzy": 1})


def test_paths_and_lists_are_made_plain():
    config = Config.build({"model": Path("m"), "candidates": Path("a.jsonl"), "seeds": ["s", Path("t")], "budget": 5})
    assert (config.model, config.candidates, config.seeds, config.budget) == ("m", ("a.jsonl",), ("s", "t"), "5")
    plain = config.to_dict()
    assert plain["candidates"] == ["a.jsonl"] and set(plain) == {f.name for f in fields(Config)}
    assert Config.build(plain) == config


def test_require_names_the_option_and_its_flag():
    with pytest.raises(ConfigError, match="run_path: required, but missing; give the flag --run-path"):
        Config(model="m").require("model", "run_path")
    with pytest.raises(ConfigError, match="candidates: required"):
        Config().require("candidates")


# Budgets.


@given(st.integers(1, 10**15))
def test_budget_in_rows(n):
    for text in (str(n), f" {n} ", f"{n} rows", f"{n:_}", n):
        assert parse_budget(text) == Budget("rows", n)
    for text in (f"{n}t", f"{n} tok", f"{n}tokens", f"{n} t"):
        assert parse_budget(text) == Budget("tokens", n)


@given(st.integers(1, 10**6), st.sampled_from([("k", 10**3), ("M", 10**6), ("G", 10**9)]))
def test_budget_with_a_scale(n, scale):
    letter, factor = scale
    for text in (f"{n}{letter}", f"{n}{letter.lower()} rows", f"{n}{letter}rows"):
        assert parse_budget(text) == Budget("rows", n * factor)
    assert parse_budget(f"{n}.5{letter}t") == Budget("tokens", n * factor + factor // 2)


@given(st.integers(1, 10_000), st.integers(1, 10**6))
def test_budget_as_a_share(hundredths, n):
    share = parse_budget(f"{hundredths / 100}%")
    assert share.unit == "share"
    rows = share.limit(n, 0).amount
    assert 1 <= rows <= n
    assert abs(rows - n * hundredths / 10_000) <= 1 or rows == 1


EXPECTED = ": expected rows (500), a share (10%) or tokens (200000t, 1.5Mt)"


@given(st.text(max_size=12))
@example("9" * 400)
@example("1" * 310 + "k")
@example("٣")
@example("1__0")
def test_any_text_is_a_budget_or_an_error_that_says_what_was_expected(text):
    try:
        budget = parse_budget(text)
    except ConfigError as error:
        assert str(error).startswith("budget=") and str(error).endswith(EXPECTED)
        return
    assert 0 < budget.amount < float("inf")
    assert (budget.unit == "share" and budget.amount <= 1) or budget.amount == int(budget.amount) >= 1
    assert all(character in "0123456789._%kKmMgGtokensrw \t\n\x0b\x0c\r\x1c\x1d\x1e\x1f\x85\xa0" or character.isspace()
               for character in text)  # fmt: skip


def test_a_scaled_amount_is_exact():
    """1.1 thousand is 1100, though 1.1 * 1000 in floating point is a little more."""
    for text, amount in (("1.1k", 1100), ("2.3k", 2300), ("1.001k", 1001), ("4.35Mt", 4_350_000), ("0.29k", 290)):
        assert parse_budget(text).amount == amount
    with pytest.raises(ConfigError):
        parse_budget("1.0001k")


@given(st.integers(1, 10_000), st.integers(1, 10**6), st.integers(0, 10**9))
def test_a_budget_becomes_a_limit_once(hundredths, rows, tokens):
    assert parse_budget(rows).limit(rows, tokens) == Limit("rows", rows)
    assert parse_budget(f"{hundredths / 100}%").limit(rows, tokens).unit == "rows"
    if tokens:
        assert parse_budget(f"{tokens}t").limit(rows, tokens) == Limit("tokens", tokens)
    with pytest.raises(ConfigError, match=f"budget={rows + 1} rows: expected at most {rows}, because the pool"):
        parse_budget(rows + 1).limit(rows, tokens)
    with pytest.raises(ConfigError, match=f"budget={tokens + 1} tokens: expected at most {tokens}, because the pool"):
        parse_budget(f"{tokens + 1}t").limit(rows, tokens)
