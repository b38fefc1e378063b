"""What a row is once its fields are read: a conversation, pairs of prompt and completion, or a text.

:mod:`gdig.data.row_formats` makes these from the fields of a row. `chat` and `prompts` make text from them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

Turn = dict[str, Any]


class RowError(ValueError):
    """A row cannot be used. The message names the field; the caller adds file and row."""


@dataclass(frozen=True)
class Conversation:
    """A row that is a list of turns. Turns of the assistant are trained on."""

    turns: list[Turn]
    """Each turn has `role` (system, developer, user, assistant, tool) and mostly `content`. Other keys are as in the
    row: `tool_calls`, `name`, `tool_call_id`, `reasoning_content`, and the flags `weight`, `train` and `loss`. Keys
    whose value is null are left out. Turns of ShareGPT are converted. A turn that a row gives as its prompt has
    `train: False`."""
    tools: list[Any] | None = None
    """The tools that the assistant may call, as the chat template takes them."""
    field: str = "messages"
    """The field of the turns, for errors."""


@dataclass(frozen=True)
class Pair:
    """A prompt and what is trained on after it."""

    prompt: str
    """What the user says, for a chat template. It may be empty."""
    completion: str
    """What the assistant answers. It is not blank."""
    plain_prompt: str | None = None
    """The prompt where no chat template is used. None: `prompt`."""


@dataclass(frozen=True)
class Pairs:
    """A row that is one prompt and its completion, mostly; earlier ones (Alpaca's history) stand before it.

    Every completion is trained on, as LLaMA-Factory trains on the answers of a history.
    """

    pairs: tuple[Pair, ...]
    system: str | None = None
    """What the system says, where the row has it."""
    own_template: bool = False
    """Whether the user's templates made the text. No chat template is applied to it then."""


@dataclass(frozen=True)
class WholeText:
    """A row that is a text. All of it is trained on."""

    text: str


RowForm: TypeAlias = "Conversation | Pairs | WholeText"


def as_conversation(pairs: Pairs) -> Conversation:
    """Return pairs of prompt and completion as turns of user and assistant."""
    turns: list[Turn] = [{"role": "system", "content": pairs.system}] if pairs.system else []
    for pair in pairs.pairs:
        turns += ({"role": "user", "content": pair.prompt}, {"role": "assistant", "content": pair.completion})
    return Conversation(turns, field="")


def checked_text(value: Any, what: str, *, may_be_empty: bool) -> str:
    """Return `value` if it is text that can be tokenized.

    Raises:
        RowError: naming `what`, if `value` is not a string, is blank, or holds half of a surrogate pair. JSON can hold
            that half; UTF-8 cannot.
    """
    if not isinstance(value, str):
        raise RowError(f"{what}: expected text, got {'null' if value is None else type(value).__name__}")
    if not may_be_empty and not value.strip():
        raise RowError(f"{what} is empty")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            code = ord(value[error.start])
            raise RowError(f"{what}: U+{code:04X} at character {error.start} is half of a surrogate pair") from None
    return value


def value_at(row: Mapping[str, Any], path: str) -> Any:
    """Return the value of the field `path`. `a.b` also names the field b of the object in a.

    Raises:
        RowError: if there is none.
    """
    if path in row:
        return row[path]
    value: Any = row
    for name in path.split("."):
        if not isinstance(value, Mapping) or name not in value:
            raise missing(row, path)
        value = value[name]
    return value


def missing(row: Mapping[str, Any], field: str) -> RowError:
    """Return the error of a row without a field."""
    return RowError(f"field {field!r} is missing; the row has: {', '.join(row) or 'no field'}")
