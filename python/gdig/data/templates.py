"""Two Jinja templates of the user, which make prompt and target from the fields of a row.

Templates run in a sandbox, within limits. If a template names a field that a row does not have, that row has an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, meta

from gdig.data.render_limits import MOST_SIZE, measure
from gdig.data.row_forms import Pair, Pairs, RowError, checked_text
from gdig.data.sandbox import Sandbox
from gdig.errors import ConfigError


class OwnTemplates:
    """Reads rows by the options prompt_template and target_template.

    Raises:
        ConfigError: on a syntax error in a template, naming the template and the line.
    """

    def __init__(self, prompt: str, target: str) -> None:
        self._sandbox = Sandbox(undefined=StrictUndefined, keep_trailing_newline=True)
        self._templates = {}
        fields: set[str] = set()
        for name, source in (("prompt_template", prompt), ("target_template", target)):
            try:
                self._templates[name] = self._sandbox.compiled(source)
                fields |= meta.find_undeclared_variables(self._sandbox.parse(source))
            except TemplateSyntaxError as error:
                raise ConfigError(f"{name}, line {error.lineno}: {error.message}") from None
        self.fields = frozenset(fields)
        """The fields that the templates name."""

    def __call__(self, row: Mapping[str, Any]) -> Pairs:
        """Form the prompt and the target of a row.

        Raises:
            RowError: if a template fails, or if the target is empty.
        """
        prompt, target = (self._render(name, row) for name in self._templates)
        return Pairs((Pair(prompt, target),), own_template=True)

    def _render(self, name: str, row: Mapping[str, Any]) -> str:
        try:
            text, _ = self._sandbox.render(self._templates[name], row, measure(dict(row), MOST_SIZE))
        except TemplateError as error:
            raise RowError(f"{name}: {error.message}; the row has: {', '.join(row) or 'no field'}") from None
        except Exception as error:  # a template may call any filter or method of a value
            raise RowError(f"{name}: {type(error).__name__}: {error}") from None
        return checked_text(text, name, may_be_empty=name == "prompt_template")
