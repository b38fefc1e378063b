"""A chat template: it is rendered as transformers renders it, and notes which text comes of which turn."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from types import MappingProxyType
from typing import Any, ClassVar

from jinja2.exceptions import SecurityError, TemplateError, TemplateSyntaxError
from jinja2.utils import Namespace

from gdig.data.render_limits import MOST_SIZE, Noted, Rendering, measure
from gdig.data.sandbox import Sandbox
from gdig.errors import ModelError

_MOST_FORMAT = 1000


@dataclass(frozen=True)
class Rendered:
    """A conversation as text.

    turns: the stretches [start, end) of the text that come of each turn, by the turn's number. A turn is absent if the
    template does not go over the turns in a loop of its own. marked: the stretches in {% generation %}.
    """

    text: str
    turns: Mapping[int, tuple[int, int]]
    marked: tuple[tuple[int, int], ...]


class ChatTemplate:
    """The chat template of a tokenizer, or another one.

    Args:
        source: the template.
        special_tokens: variables of the template, such as bos_token.
        today: the date that the template sees.
        name: of the tokenizer, for errors.

    Raises:
        ModelError: if the template cannot be compiled.
    """

    TURN_TYPE: ClassVar[str] = f"{Noted.__module__}.{Noted.__name__}"
    """How Jinja names the type of a turn in its errors."""

    def __init__(self, source: str, special_tokens: Mapping[str, Any], today: date, name: str = "tokenizer") -> None:
        self._special_tokens = dict(special_tokens)
        self._today = datetime.combine(today, time())
        self._sandbox = Sandbox(trim_blocks=True, lstrip_blocks=True)
        self._sandbox.add_filter("tojson", _tojson)
        self._sandbox.globals |= {
            "raise_exception": _raise_exception,
            "strftime_now": self._strftime_now,
            "dict": _Dict(),
            "namespace": _Namespace,
        }
        try:
            self._template = self._sandbox.compiled(source)
        except TemplateSyntaxError as error:
            raise ModelError(f"{name}: the chat template, line {error.lineno}: {error.message}") from None
        self.marks_turns = re.search(r"\{%[-+]?\s*generation\s*[-+]?%\}", source) is not None

    def render(
        self,
        turns: Sequence[dict[str, Any]],
        *,
        tools: Sequence[Any] | None,
        prompt: bool,
        variables: Mapping[str, Any] = MappingProxyType({}),
    ) -> Rendered:
        """Render turns.

        Args:
            turns: role, content and so on.
            tools: the tools of the conversation.
            prompt: whether the text ends with the prompt for the assistant's next turn.
            variables: further variables of the template.

        Raises:
            Exception: whatever the template raises; LimitError if it exceeds its limits.
        """
        noted = [Noted(turn) for turn in turns]
        for number, turn in enumerate(noted):
            turn.number = number
        values = {
            **self._special_tokens,
            "tools": tools,
            "documents": None,
            **variables,
            "messages": noted,
            "add_generation_prompt": prompt,
        }
        text, rendering = self._sandbox.render(
            self._template, values, measure([turns, tools, dict(variables)], MOST_SIZE)
        )
        return Rendered(text, _turns(rendering, len(turns)), _marked(rendering, text))

    def _strftime_now(self, pattern: str) -> str:
        if len(pattern) > _MOST_FORMAT or re.search(r"%[^a-zA-Z%]*\d", pattern):
            raise SecurityError(f"strftime_now: expected a short format without widths, got {pattern[:60]!r}")
        return self._today.strftime(pattern)


def _turns(rendering: Rendering, n: int) -> dict[int, tuple[int, int]]:
    """Return the stretch of each turn: what a loop over the turns gives while it is at the turn.

    A template may go over the turns in several loops, of which most look for something and give no text. The loop that
    gives most of a turn's text counts. Loops over numbers count where they cover more turns than loops over the turns.
    A single turn without a stretch has what lies between those of its neighbours.
    """
    stretches = max((_iterations(rendering, n, is_index) for is_index in (False, True)), key=len)
    for turn in range(n):
        if turn not in stretches:
            start = stretches[turn - 1][1] if turn - 1 in stretches else None
            end = stretches[turn + 1][0] if turn + 1 in stretches else rendering.length if turn == n - 1 else None
            if start is not None and end is not None and end > start:
                stretches[turn] = (start, end)
    return stretches


def _iterations(rendering: Rendering, n: int, is_index: bool) -> dict[int, tuple[int, int]]:
    stretches: dict[int, tuple[int, int]] = {}
    begun: dict[int, tuple[int, int]] = {}
    for offset, loop, number, over_numbers in rendering.iterations:
        if loop in begun:
            turn, start = begun.pop(loop)
            longest = stretches.get(turn, (0, 0))
            if turn < n and offset - start > longest[1] - longest[0]:
                stretches[turn] = (start, offset)
        if number >= 0 and over_numbers == is_index:
            begun[loop] = (number, offset)
    return stretches


def _marked(rendering: Rendering, text: str) -> tuple[tuple[int, int], ...]:
    """Return the stretches in {% generation %}.

    Raises:
        TemplateError: if a tag stands in a macro or in a block, where its place in the text is not known.
    """
    stretches = []
    for start, marked in rendering.marked:
        if not text.startswith(marked, start):
            raise TemplateError("{% generation %} stands in a macro or a block, expected it outside of them")
        if marked:
            stretches.append((start, start + len(marked)))
    return tuple(stretches)


# As transformers (utils/chat_template_utils.py) has them.


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> None:
    raise TemplateError(message)


class _Dict:
    """`dict`, without the attributes of a class."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Namespace(Namespace):
    """`namespace`, without attributes that begin with an underscore. As text it does not show what it holds."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, args = args[0], args[1:]
        attributes = dict(*args, **kwargs)
        for name in attributes:
            _check_name(name)
        Namespace.__init__(self, attributes)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)

    def __repr__(self) -> str:
        return "<Namespace>"


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"namespace: expected no name that begins with an underscore, got {name!r}")
