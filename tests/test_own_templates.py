"""Two Jinja templates of the user's own, which make prompt and target of a row."""

from __future__ import annotations

import pytest

from gdig.config.options import DataOptions
from gdig.data.row_formats import make_reader
from gdig.data.row_forms import RowError
from gdig.errors import ConfigError
from tests.test_row_formats import pairs


def templates(prompt, target):
    return make_reader("template", DataOptions(prompt_template=prompt, target_template=target))


def test_templates_take_the_place_of_the_built_in_prompts():
    read = templates("{{ tags | join(',') }}: {{ q }}\n", "{{ a.best }}\n")
    row = {"q": "Why?", "a": {"best": "Because."}, "tags": ["x", "y"]}
    assert read(row) == pairs("x,y: Why?\n", "Because.\n", own_template=True)
    assert read.columns == {"tags", "q", "a"}


@pytest.mark.parametrize(
    "prompt, target, message",
    [
        ("{{ q }}", "{{ answer }}", "target_template: 'answer' is undefined; the row has: q, a"),
        ("{{ a.c }}", "{{ q }}", "prompt_template: 'dict object' has no attribute 'c'"),
        ("{{ q }}", "{{ a.b }}", "target_template is empty"),
        ("{{ q }}", "{{ q / 2 }}", "target_template: TypeError"),
        ("{{ q.__class__.__mro__ }}", "{{ q }}", "prompt_template: access to attribute '__class__' of 'str'"),
        ("{% for i in range(10**9) %}{% endfor %}", "{{ q }}", "prompt_template: OverflowError"),
    ],
)  # fmt: skip
def test_templates_that_fail_on_a_row(prompt, target, message):
    with pytest.raises(RowError, match=message):
        templates(prompt, target)({"q": "Why?", "a": {"b": ""}})


def test_a_syntax_error_in_a_template_names_the_line():
    with pytest.raises(ConfigError, match="target_template, line 2: unexpected"):
        templates("{{ q }}", "a\n{{ q }")
