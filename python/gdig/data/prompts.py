"""From what a row is to the text that the model sees, with the targets marked. Here: without a chat template."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from gdig.data.row_forms import Conversation, RowError, RowForm, WholeText


@dataclass(frozen=True)
class Prompted:
    """A row as text. `targets` are the character spans [start, end) with a loss, in order and not empty."""

    text: str
    targets: tuple[tuple[int, int], ...]
    is_chat: bool = False
    """Whether a chat template has placed the special tokens. Otherwise the tokenizer adds its own."""
    is_whole: bool = True
    """Whether the text of every turn is in it. A chat template may leave out what the system says, for instance."""


class Prompter(Protocol):
    """Turns what a row is into a text, or raises RowError."""

    def __call__(self, form: RowForm) -> Prompted:  # noqa: D102
        ...


def plain_prompt(form: RowForm) -> Prompted:
    """Form the text of a row without a chat template.

    Raises:
        RowError: if the row is a conversation, which only a chat template makes a text.
    """
    if isinstance(form, Conversation):
        raise RowError(
            f"field {form.field!r}: a conversation needs the tokenizer's chat template; give a tokenizer that has one,"
            " chat_template_file, or prompt_template and target_template"
        )
    if isinstance(form, WholeText):
        return Prompted(form.text, ((0, len(form.text)),))
    text, targets = form.system + "\n\n" if form.system else "", []
    for i, pair in enumerate(form.pairs):
        separator = "\n\n" if i else ""
        text += separator + (pair.prompt if pair.plain_prompt is None else pair.plain_prompt)
        targets.append((len(text), len(text) + len(pair.completion)))
        text += pair.completion
    return Prompted(text, tuple(targets))
