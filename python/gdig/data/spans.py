"""Where the turns of the assistant stand in the text that a chat template gives.

A span is what the model has to say: it begins where the prompt ends that the model gets at inference, and ends where
the template ends the turn. Calls of tools, reasoning and the end mark are in it, as the template has them.

- The end is known from the rendering itself, which notes what each turn gives (`chat_template`). A template that writes
  its text in another way than by a loop over the turns is rendered once more without the later turns.
- The beginning is known from the turns before it, rendered with the generation prompt. Earlier turns may differ in that
  text, because templates leave out what earlier turns thought. So only the text behind the turn before is compared.
- {% generation %} in a template decides alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from typing import Any

from gdig.data.chat_template import Rendered

Span = tuple[int, int]
Turns = Sequence[dict[str, Any]]
Render = Callable[[Turns, bool], Rendered]
"""Renders turns, with or without the generation prompt."""

_ATOM = re.compile(r"<[^<>]*>|\[[^\[\]]*\]|\w+|.", re.DOTALL)
_PROBE_ANSWERS = "\ue000", "\ue001"


class SpanError(ValueError):
    """The place of a turn in the text cannot be told. The argument is the turn's number."""


class SpanFinder:
    """Finds the spans of turns in the text of one conversation.

    Args:
        render: renders turns as the conversation is rendered.
        turns: all of them.
        rendered: all of them, rendered.
        end_marks: special tokens of the tokenizer.
        header: of :func:`find_header`.
    """

    def __init__(
        self,
        render: Render,
        turns: Turns,
        rendered: Rendered,
        end_marks: Collection[str],
        header: Callable[[], tuple[str, bool]],
    ) -> None:
        self._render = render
        self._turns = turns
        self._text = rendered.text
        self._stretches = dict(rendered.turns)
        self._has_loop = bool(rendered.turns)
        self._end_marks = end_marks
        self._header = header

    def stretch(self, i: int) -> Span:
        """Return where the text of turn i stands, with its header and the blanks behind it.

        Raises:
            SpanError: if it cannot be told.
        """
        if i not in self._stretches:
            before, with_turn = (self._rendered(n, prompt=False) for n in (i, i + 1))
            if before is None and i > 0:  # a template of whole pairs may give the prompt alone
                before = self._rendered(i, prompt=True)
            start = 0 if before is None else len(before.text)
            if with_turn is None or not self._text.startswith(with_turn.text) or start >= len(with_turn.text):
                raise SpanError(i)
            if before is None and i > 0:  # the turns before would be a part of the stretch
                raise SpanError(i)
            if before is not None and not with_turn.text.startswith(before.text):
                raise SpanError(i)
            self._stretches[i] = (start, len(with_turn.text))
        return self._stretches[i]

    def spans(self, i: int) -> list[Span]:
        """Return where what the assistant says in turn i stands: [start, end), not empty. Mostly it is one span.

        Raises:
            SpanError: if it cannot be told.
        """
        (first, last), *rest = self._own_parts(i)
        start = max(first, self._start(i, first))
        if start == first:
            start += self._header_at(first)
        spans = [(start, last), *rest]
        # A line break behind the token that ends the turn is layout. The model does not learn it.
        spans[-1] = (spans[-1][0], spans[-1][0] + len(self._text[slice(*spans[-1])].rstrip()))
        spans = [(start, end) for start, end in spans if end > start]
        if not spans:
            raise SpanError(i)
        return [*spans[:-1], (spans[-1][0], self._past_end_mark(*spans[-1], last))]

    def _own_parts(self, i: int) -> list[Span]:
        """Return the stretch of turn i, without results of tools that the template writes into it."""
        first, last = self.stretch(i)
        inside = [(a, b) for j, (a, b) in self._stretches.items() if j > i and first <= a and b <= last]
        if inside:
            edges = [first, *(edge for stretch in sorted(inside) for edge in stretch), last]
            return list(zip(edges[::2], edges[1::2], strict=True))
        following = self._turns[i + 1] if i + 1 < len(self._turns) else {}
        if following.get("role") != "tool" or i + 1 in self._stretches or not self._has_loop:
            return [(first, last)]
        alone = self._rendered(i + 1, prompt=False)
        if alone is None or i not in alone.turns:
            raise SpanError(i)
        text = alone.text[slice(*alone.turns[i])]
        before = _common_atoms(text, self._text[first:last])
        behind = _common_atoms(text[before:][::-1], self._text[first + before : last][::-1])
        return [(first, first + before), (last - behind, last)]

    def _start(self, i: int, first: int) -> int:
        prompt = self._rendered(i, prompt=True)
        if prompt is None:
            return first
        if self._text.startswith(prompt.text):
            return len(prompt.text)
        if i == 0 or i - 1 not in prompt.turns or i - 1 not in self._stretches:
            return first
        # The prompt may be a part of the turn before, or stand behind it. The turn before may differ in the prompt.
        (begin, behind), (prompt_begin, prompt_behind) = self._stretches[i - 1], prompt.turns[i - 1]
        return max(
            begin + _common_atoms(prompt.text[prompt_begin:], self._text[begin:]),
            behind + _common_atoms(prompt.text[prompt_behind:], self._text[behind:]),
        )

    def _header_at(self, first: int) -> int:
        """Return how long the header is that stands at the beginning of a turn. Mostly it belongs to the prompt, which
        ends behind it; a template may refuse the prompt, as that of a conversation that the assistant begins."""
        header, is_prompt = self._header()
        if is_prompt:  # it may add a beginning of the answer that this answer does not have, such as <think>
            return _common_atoms(header, self._text[first:])
        return len(header) if self._text.startswith(header, first) else 0

    def _rendered(self, n: int, *, prompt: bool) -> Rendered | None:
        """Render the first n turns. Return None if the template refuses them."""
        if n == 0 and not prompt:
            return None
        try:
            return self._render(self._turns[:n], prompt)
        except Exception:  # a template may raise any error: some want whole pairs of turns, or a user's turn
            return None

    def _past_end_mark(self, start: int, end: int, last: int) -> int:
        """Return the end of a turn with the mark that ends it, where the next turn brings the mark."""
        if end < last or any(self._text.endswith(mark, start, end) for mark in self._end_marks):
            return end
        return past_mark(self._text, end, self._end_marks)


def past_mark(text: str, at: int, marks: Collection[str]) -> int:
    """Return the end of the special token that begins at `at`. Return `at` if none begins there."""
    return at + max((len(mark) for mark in marks if text.startswith(mark, at)), default=0)


def find_header(render: Render) -> tuple[str, bool]:
    """Return what stands before each answer, and whether it is the generation prompt. Empty if it cannot be told."""
    question = {"role": "user", "content": "?"}
    try:
        asked, prompted = (render([question], prompt).text for prompt in (False, True))
        if prompted != asked:
            return prompted.removeprefix(asked) if prompted.startswith(asked) else "", True
        answers = [render([question, {"role": "assistant", "content": answer}], False) for answer in _PROBE_ANSWERS]
    except Exception:  # a template may raise any error
        return "", False
    stretches = [answer.text[slice(*answer.turns.get(1, (0, 0)))] for answer in answers]
    header = stretches[0].partition(_PROBE_ANSWERS[0])[0]
    return header if header.strip() and all(text.startswith(header) for text in stretches) else "", False


def _common_atoms(prompt: str, text: str) -> int:
    """Return how far both texts are equal, in whole tags and words of `prompt`."""
    at = 0
    for atom in _ATOM.findall(prompt):
        if not text.startswith(atom, at):
            break
        at += len(atom)
    return at
