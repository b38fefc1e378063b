"""Conversations as text, by the tokenizer's chat template. The assistant's turns are located in the text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from gdig.data.prompts import Prompted, Prompter, plain_prompt
from gdig.data.row_formats import RowReader
from gdig.data.row_forms import Conversation, RowError, RowForm, checked_text
from gdig.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_GENERATION = re.compile(r"\{%-?\s*generation\s*-?%\}")
_SENTINEL = "\ue000gdig\ue001"

Messages = list[dict[str, Any]]


def make_prompter(tokenizer: PreTrainedTokenizerBase, readers: Sequence[RowReader]) -> Prompter:
    """Return what turns the rows of these readers into text.

    Raises:
        ModelError: if a file holds conversations, and the tokenizer has no chat template.
    """
    needed = any(reader.format in ("messages", "sharegpt") for reader in readers)
    chat = ChatPrompter(tokenizer) if needed or tokenizer.chat_template is not None else None

    def prompt(form: RowForm) -> Prompted:
        return chat(form) if chat is not None and isinstance(form, Conversation) else plain_prompt(form)

    return prompt


class ChatPrompter:
    """Forms the text of conversations. The assistant's turns have the loss.

    The first of these ways that works gives the span of a turn:

    1. The template marks the assistant's turns ({% generation %}).
    2. The turns before it, rendered with the generation prompt, end where the turn begins. The turns up to it, rendered
       alone, end where the turn ends. The template must render a conversation as a prefix of a longer one.
    3. The conversation is rendered once more with a sentinel in place of the turn. Templates that drop the reasoning of
       earlier turns need this way.

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
        self._marks_turns = _GENERATION.search(self._template) is not None
        self._special_tokens = dict(tokenizer.special_tokens_map)
        added = tokenizer.added_tokens_decoder.values()
        self._specials = tuple({*tokenizer.all_special_tokens, *(str(token) for token in added if token.special)})

    def __call__(self, conversation: Conversation) -> Prompted:
        """Form the text of a conversation, up to the end of the assistant's last turn. Later text has no loss.

        Raises:
            RowError: if a turn has no text, or no turn is the assistant's; if the template refuses the conversation, or
                the place of a turn in the text cannot be determined.
        """
        messages = _checked_messages(conversation)
        text, marked_spans = self._render(messages)
        if self._marks_turns:
            spans = [(start, end) for start, end in marked_spans if end > start]
            if not spans:
                raise RowError(
                    "field 'messages': the chat template marks no text of the assistant, expected at least one turn"
                )
        else:
            turns = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
            spans = [self._turn(messages, i, text) for i in turns]
        return Prompted(text[: self._past_special(text, spans[-1][1])], tuple(spans), is_chat=True)

    def _render(self, messages: Messages, *, prompt: bool = False) -> tuple[str, list[tuple[int, int]]]:
        # The public apply_chat_template returns token masks. They are wrong if a turn begins or ends with a blank that
        # lies in the offsets of no token. The character spans of render_jinja_template are right.
        from transformers.utils.chat_template_utils import render_jinja_template

        try:
            options: dict[str, Any] = {**self._special_tokens, "add_generation_prompt": prompt}
            rendered: Any = render_jinja_template(
                conversations=[messages],
                chat_template=self._template,
                return_assistant_tokens_mask=self._marks_turns,
                **options,
            )
        except Exception as error:  # a template may raise any error
            raise RowError(f"field 'messages': the chat template refuses the conversation: {error}") from None
        (text,), spans = rendered
        return text, [tuple(span) for span in spans[0]] if self._marks_turns else []

    def _turn(self, messages: Messages, i: int, text: str) -> tuple[int, int]:
        try:
            before, with_prompt = self._render(messages[:i])[0], self._render(messages[:i], prompt=True)[0]
            with_turn = self._render(messages[: i + 1])[0]
        except RowError:  # there is no turn before, or the template needs whole pairs of turns
            return self._turn_by_sentinel(messages, i, text)
        is_prefix = text.startswith(with_turn) and with_turn.startswith(with_prompt)
        if not (is_prefix and len(with_prompt) > len(before)):
            return self._turn_by_sentinel(messages, i, text)
        # A line break after the token that ends the turn is layout. The model does not learn it.
        return len(with_prompt), max(len(with_turn.rstrip()), len(with_prompt) + 1)

    def _turn_by_sentinel(self, messages: Messages, i: int, text: str) -> tuple[int, int]:
        replaced = [*messages[:i], {**messages[i], "content": _SENTINEL}, *messages[i + 1 :]]
        head, sentinel, tail = self._render(replaced)[0].partition(_SENTINEL)
        end = len(text) - len(tail)
        if not (sentinel and text.startswith(head) and text.endswith(tail) and len(head) < end):
            raise RowError(
                f"field 'messages': turn {i} cannot be found in the text that the chat template gives; use a template"
                " that marks the assistant's turns with {% generation %}"
            )
        return len(head), self._past_special(text, end)

    def _past_special(self, text: str, end: int) -> int:
        """Return the end of the special token that begins at `end`. Return `end` if none begins there."""
        return end + max((len(token) for token in self._specials if token and text.startswith(token, end)), default=0)


def _checked_messages(conversation: Conversation) -> Messages:
    field = f"field {conversation.field!r}"
    for i, turn in enumerate(conversation.turns):
        if "tool_calls" not in turn:
            is_target = turn["role"] == "assistant"
            checked_text(turn.get("content"), f"{field}: turn {i}: content", may_be_empty=not is_target)
    if all(turn["role"] != "assistant" for turn in conversation.turns):
        roles = ", ".join(dict.fromkeys(turn["role"] for turn in conversation.turns))
        raise RowError(f"{field}: no turn of the assistant to train on (roles: {roles})")
    return conversation.turns
