"""Conversations through the tokenizer's chat template, with the assistant's turns found in the rendered text."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gdig.data.prompts import Prompted, RowError, checked_text
from gdig.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_SENTINEL = "\ue000gdig\ue001"

Messages = list[dict[str, Any]]


class ChatPrompter:
    """Prompts of the format `messages`: the loss is on the assistant's turns.

    A template that marks them ({% generation %}) is believed. Otherwise a turn begins where the rendered turns before
    it, with the generation prompt, end, and ends where the rendering of the turns up to it ends. Where a template does
    not render a conversation as a prefix of a longer one (some drop the reasoning of earlier turns), the turn is found
    by rendering once more with a sentinel in its place.

    Raises:
        ModelError: if the tokenizer has no chat template.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        try:
            self._template = tokenizer.get_chat_template()
        except ValueError:
            raise ModelError(
                f"{tokenizer.name_or_path}: the tokenizer has no chat template, which rows with messages need; give"
                " prompt_template and target_template, or another tokenizer"
            ) from None
        self._marked = _GENERATION.search(self._template) is not None
        self._special_tokens = dict(tokenizer.special_tokens_map)
        added = tokenizer.added_tokens_decoder.values()
        self._specials = tuple({*tokenizer.all_special_tokens, *(str(token) for token in added if token.special)})

    def __call__(self, row: Mapping[str, Any]) -> Prompted:
        """Form the text of a conversation, up to the end of the assistant's last turn (what follows it has no loss).

        Raises:
            RowError: if `messages` is not a list of turns with role and content, has no assistant's turn, or the
                template refuses it or hides where a turn lies.
        """
        messages = _checked(row)
        text, marked = self._render(messages)
        if self._marked:
            spans = [(start, end) for start, end in marked if end > start]
            if not spans:
                raise RowError("field 'messages': the chat template marks no text of the assistant")
        else:
            turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
            spans = [self._turn(messages, i, text) for i in turns]
        return Prompted(text[: self._past_special(text, spans[-1][1])], tuple(spans), is_chat=True)

    def _render(self, messages: Messages, *, prompt: bool = False) -> tuple[str, list[tuple[int, int]]]:
        # The public apply_chat_template returns token masks, which are wrong where a turn begins or ends with a blank
        # that belongs to no token's offsets; the character spans behind them are right.
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            options: dict[str, Any] = {**self._special_tokens, "add_generation_prompt": prompt}
            rendered: Any = render_jinja_template(
                conversations=[messages],
                chat_template=self._template,
                return_assistant_tokens_mask=self._marked,
                **options,
            )
        except Exception as error:  # a template raises what it likes
            raise RowError(f"field 'messages': the chat template refuses the conversation: {error}") from None
        (text,), spans = rendered
        return text, [tuple(span) for span in spans[0]] if self._marked else []

    def _turn(self, messages: Messages, i: int, text: str) -> tuple[int, int]:
        try:
            before, opened = self._render(messages[:i])[0], self._render(messages[:i], prompt=True)[0]
            closed = self._render(messages[: i + 1])[0]
        except RowError:  # no turn before it, or a template that wants whole pairs of turns
            return self._turn_by_sentinel(messages, i, text)
        if not (text.startswith(closed) and closed.startswith(opened) and len(opened) > len(before)):
            return self._turn_by_sentinel(messages, i, text)
        # A line break after the token that ends the turn is layout, not something to learn.
        return len(opened), max(len(closed.rstrip()), len(opened) + 1)

    def _turn_by_sentinel(self, messages: Messages, i: int, text: str) -> tuple[int, int]:
        replaced = [*messages[:i], {**messages[i], "content": _SENTINEL}, *messages[i + 1 :]]
        head, found, tail = self._render(replaced)[0].partition(_SENTINEL)
        end = len(text) - len(tail)
        if not (found and text.startswith(head) and text.endswith(tail) and len(head) < end):
            raise RowError(
                f"field 'messages': turn {i} cannot be found in what the chat template makes of it; use a template that"
                " marks the assistant's turns with {% generation %}"
            )
        return len(head), self._past_special(text, end)

    def _past_special(self, text: str, end: int) -> int:
        """Return the end of the special token that begins at `end`, or `end`."""
        return end + max((len(token) for token in self._specials if token and text.startswith(token, end)), default=0)


def _checked(row: Mapping[str, Any]) -> Messages:
    if "messages" not in row:
        raise RowError(f"field 'messages' is missing; the row has: {', '.join(row) or 'no field'}")
    messages = row["messages"]
    if not isinstance(messages, list) or not messages:
        kind = "an empty list" if messages == [] else "null" if messages is None else type(messages).__name__
        raise RowError(f"field 'messages': expected a list of turns, got {kind}")
    checked: Messages = []
    for i, message in enumerate(messages):
        if not isinstance(message, dict):
            raise RowError(f"field 'messages': turn {i}: expected an object with role and content")
        # Arrow fills in nulls for keys that other rows have; templates take a missing key better.
        turn = {key: value for key, value in message.items() if value is not None}
        if not isinstance(turn.get("role"), str):
            raise RowError(f"field 'messages': turn {i}: role: expected text, got {turn.get('role')!r}")
        if "tool_calls" not in turn:
            is_target = turn["role"] == "assistant"
            checked_text(message.get("content"), f"field 'messages': turn {i}: content", may_be_empty=not is_target)
        checked.append(turn)
    if all(turn["role"] != "assistant" for turn in checked):
        roles = ", ".join(dict.fromkeys(turn["role"] for turn in checked))
        raise RowError(f"field 'messages': no turn of the assistant to train on (roles: {roles})")
    return checked
