"""How the rows of a file become text: by the chat template, or without one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from gdig.config.options import DataOptions
from gdig.data.chat import ChatPrompter
from gdig.data.prompts import Prompted, Prompter, plain_prompt
from gdig.data.row_formats import RowReader
from gdig.data.row_forms import Conversation, Pairs, RowForm, WholeText, as_conversation
from gdig.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_CONVERSATIONS = ("messages", "sharegpt")
_WITHOUT_CHAT = {"tokens": "tokens", "template": "own templates", "text": "whole text"}


def make_prompter(
    options: DataOptions, tokenizer: PreTrainedTokenizerBase, readers: Sequence[RowReader], today: date | None = None
) -> Prompter:
    """Return what turns the rows of these readers into text.

    Conversations always go through the chat template, pairs of prompt and completion where the tokenizer has one and
    the option chat_template is on. Then they are turns of user and assistant.

    Args:
        options: chat_template.
        tokenizer: perhaps with a chat template.
        readers: of all files.
        today: the date that the chat template sees. None: that of the machine.

    Raises:
        ModelError: if a file holds conversations and the tokenizer has no chat template, or if the template cannot be
            compiled.
        ConfigError: if a file holds conversations and the option chat_template is off.
    """
    conversations = next((reader.format for reader in readers if reader.format in _CONVERSATIONS), None)
    if conversations is not None and not options.chat_template:
        raise ConfigError(
            f"chat_template: rows of the format {conversations} need it; leave the option on, or give prompt_template"
            " and target_template"
        )
    wanted = any(_uses_chat(reader, tokenizer, options) for reader in readers)
    chat = ChatPrompter(tokenizer, today) if wanted else None

    def prompt(form: RowForm) -> Prompted:
        if chat is None or isinstance(form, WholeText) or (isinstance(form, Pairs) and form.own_template):
            return plain_prompt(form)
        return chat(form if isinstance(form, Conversation) else as_conversation(form))

    return prompt


def rendering_of(options: DataOptions, tokenizer: PreTrainedTokenizerBase, reader: RowReader) -> str:
    """Return how the rows of a reader become text.

    It is "chat template", "plain text" (the built-in prompt of the format), "own templates", "whole text" or "tokens".
    Where the chat template is the user's, the name of its file follows.
    """
    if _uses_chat(reader, tokenizer, options):
        return f"chat template {Path(file).name}" if (file := options.chat_template_file) else "chat template"
    return _WITHOUT_CHAT.get(reader.format, "plain text")


def rendered_otherwise(renderings: Mapping[str, Sequence[str]]) -> str | None:
    """Return a warning of seeds that become text in a way in which no row of the pool does. None without such seeds.

    Args:
        renderings: of each file of `candidates` and of `seeds`.
    """
    pool = dict.fromkeys(renderings["candidates"])
    others = [rendering for rendering in dict.fromkeys(renderings["seeds"]) if rendering not in pool]
    if not others:
        return None
    return (
        f"seeds: rendered as {' and '.join(others)}, the pool as {' and '.join(pool)}; the layout of the text counts in"
        " the influence, so give both in the form that you train on"
    )


def _uses_chat(reader: RowReader, tokenizer: PreTrainedTokenizerBase, options: DataOptions) -> bool:
    if reader.format in _CONVERSATIONS:
        return True
    return reader.format not in _WITHOUT_CHAT and options.chat_template and tokenizer.chat_template is not None
