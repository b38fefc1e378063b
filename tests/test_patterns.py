"""Regular expressions of strangers: they match as in `re`, and what would take the machine is refused in time."""

from __future__ import annotations

import json
import re

import pytest

from gdig.config.config import Config
from gdig.errors import ConfigError, LayerError, ModelError
from gdig.model.adapter import check_patterns
from gdig.patterns import search
from tests.support.tiny_models import llama, wrapped

NAMES = ["model.layers.0.mlp.down_proj", "model.layers.1.self_attn.q_proj", "lm_head", "\ud800", ""]
WITHOUT_END = r"(?:[a-z_.0-9]+)+$."
"""More ways to match a name of 27 letters than a machine tries in a minute."""


@pytest.mark.parametrize(
    "pattern", ["mlp", r"\.[01]\.", "^(?!lm)", "q_proj$|head", "(?i)LM", "", "\ud800", r"(?P<a>l)\1"]
)
def test_names_are_those_that_re_matches(pattern):
    assert search([pattern], NAMES) == [[name for name in NAMES if re.search(pattern, name)]]


def test_each_pattern_has_its_names():
    assert search(["mlp", "nothing", "head"], NAMES) == [NAMES[:1], [], ["lm_head"]] and search([], NAMES) == []


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", "unterminated subpattern"),
        ("a{99999999999999999999}", "repetition number is too large"),
        ("(" * 4000 + ")" * 4000, "recursion"),
        ("a" * 10_001, "10,001 characters, expected at most 10,000"),
        ("(?i)" + "[\\0-\U0010ffff]" * 900, "to compile it takes more than 2 s"),
    ],
    ids=["open", "number", "depth", "length", "classes"],
)
def test_what_is_no_pattern_is_an_error_of_the_option(pattern, message):
    with pytest.raises(ConfigError, match=f"filter_modules=.*: expected a regular expression, but .*{message}"):
        Config.build({"filter_modules": pattern})


def test_a_search_without_an_end_is_ended():
    with pytest.raises(LayerError, match=r"filter_modules=.*: its search in \d+ names takes more than 2 s; leave out"):
        wrapped(llama(), filter_modules=WITHOUT_END)


def write_options(folder, **options):
    (folder / "adapter_config.json").write_text(json.dumps(options))


def test_a_pattern_of_an_adapter_is_searched_for_within_the_limit(tmp_path):
    write_options(tmp_path, alpha_pattern={"q_proj": 1, WITHOUT_END: 3})
    with pytest.raises(ModelError, match=r"adapter_config\.json: a pattern in alpha_pattern: its search in \d+ names"):
        check_patterns(tmp_path, llama())


PATTERNS = {"target_modules": "(", "exclude_modules": "(", "rank_pattern": {"(": 3}, "alpha_pattern": {"(": 3},
            "layers_pattern": ["layers", "("], "modules_to_save": ["("]}  # fmt: skip


@pytest.mark.parametrize("option", PATTERNS)
def test_each_option_of_an_adapter_that_holds_patterns_is_looked_at(tmp_path, option):
    write_options(tmp_path, **{option: PATTERNS[option]})
    with pytest.raises(ModelError, match=rf"adapter_config\.json: a pattern in {option}: .*unterminated subpattern"):
        check_patterns(tmp_path, llama())


def test_usual_options_of_an_adapter_pass(tmp_path):
    usual = {"target_modules": ["q_proj", "(a+)+$"], "exclude_modules": None, "rank_pattern": {}, "r": 8}
    usual |= {"alpha_pattern": {r"layers\.0\.mlp": 4}, "modules_to_save": ["lm_head"], "layers_pattern": "layers"}
    write_options(tmp_path, **usual)
    check_patterns(tmp_path, llama())
    (tmp_path / "adapter_config.json").write_text("[1]")
    with pytest.raises(ModelError, match="expected a JSON object"):
        check_patterns(tmp_path, llama())
