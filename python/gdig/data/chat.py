"""Conversations as text, by the tokenizer's chat template. The assistant's turns are located in the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from gdig.data.chat_template import ChatTemplate, Rendered
from gdig.data.chat_turns import check_turns, has_python_arguments, left_out, left_out_turns, template_forms
from gdig.data.prompts import Prompted
from gdig.data.render_limits import LimitError
from gdig.data.row_forms import Conversation, RowError, Turn
from gdig.data.spans import Span, SpanError, SpanFinder, find_header, past_mark
from gdig.errors import ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_COMMON = ("system", "user", "tool")
"""Roles that a template may leave out in some places. Mistral's write the system's text only before a last question."""


@dataclass(frozen=True)
class _Attempt:
    """A conversation in one of the forms that templates expect."""

    turns: list[Turn]
    tools: list[Any] | None
    trained: list[int]
    where: str


class ChatPrompter:
    """Forms the text of conversations. The assistant's turns have the loss (:mod:`gdig.data.spans` finds them).

    Args:
        tokenizer: with a chat template.
        today: the date that the chat template sees.

    Raises:
        ModelError: if the tokenizer has no chat template, or one that cannot be compiled.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, today: date | None = None) -> None:
        self._special_tokens = dict(tokenizer.special_tokens_map)
        self._today = today or date.today()
        added = tokenizer.added_tokens_decoder.values()
        self._marks = tuple({*tokenizer.all_special_tokens, *(str(token) for token in added if token.special)} - {""})
        name = str(tokenizer.name_or_path)
        try:
            sources = [tokenizer.get_chat_template(), tokenizer.get_chat_template(tools=[{}])]
        except ValueError:
            raise ModelError(
                f"{name}: the tokenizer has no chat template, which rows with messages need; give chat_template_file,"
                " prompt_template and target_template, or another tokenizer"
            ) from None
        templates = {source: self._template(source, name) for source in sources}
        self._without_tools, self._with_tools = (templates[source] for source in sources)
        self._header = cache(lambda template: find_header(partial(_render, template, None)))

    def __call__(self, conversation: Conversation) -> Prompted:
        """Form the text of a conversation, up to the end of the last turn that is trained on. Later text has no loss.

        Raises:
            RowError: if a turn has no text, or no turn is trained on; if the template refuses the conversation or
                leaves out an answer or a call; or if the place of a turn in the text cannot be told.
        """
        where = f"field {conversation.field!r}" if conversation.field else "the row"
        trained = check_turns(conversation.turns, where)
        refusals = []
        try:
            for turns, tools in template_forms(conversation, where):
                try:
                    return self._prompt(_Attempt(turns, tools, trained, where))
                except RowError as error:
                    refusals.append(error)
        except LimitError as error:
            raise RowError(f"{where}: the chat template: {error.message}") from None
        # The usual form comes first. What a template leaves out tells more than that it refuses another form.
        raise next((error for error in refusals if "refuses" not in str(error)), refusals[0])

    def _prompt(self, attempt: _Attempt) -> Prompted:
        template = self._with_tools if attempt.tools else self._without_tools
        render = partial(_render, template, attempt.tools)
        try:
            rendered = render(attempt.turns, False)
        except LimitError:
            raise
        except Exception as error:  # a template may raise any error
            reason = str(error).replace(f"{ChatTemplate.TURN_TYPE} object", "dict object")
            raise RowError(f"{attempt.where}: the chat template refuses the conversation: {reason}") from None
        finder = SpanFinder(render, attempt.turns, rendered, self._marks, lambda: self._header(template))
        try:
            spans = self._spans(attempt, rendered, finder, template.marks_turns)
        except SpanError as error:
            raise RowError(
                f"{attempt.where}: turn {error} cannot be found in what the chat template gives; use a template"
                " that marks the assistant's turns with {% generation %}"
            ) from None
        lost = left_out_turns(attempt.turns, rendered.text)
        if (i := next((i for i in lost if attempt.turns[i]["role"] not in _COMMON), None)) is not None:
            role = attempt.turns[i]["role"]
            raise RowError(
                f"{attempt.where}: turn {i}: the chat template has no role {role!r}, and leaves the turn out"
            )
        text = rendered.text[: past_mark(rendered.text, spans[-1][1], self._marks)]
        return Prompted(text, tuple(spans), is_chat=True, is_whole=not lost)

    def _spans(self, attempt: _Attempt, rendered: Rendered, finder: SpanFinder, is_marked: bool) -> list[Span]:
        where, trained = attempt.where, attempt.trained
        if has_python_arguments(attempt.turns, rendered.text):
            raise RowError(f"{where}: the chat template writes the arguments of a call as Python writes an object")
        if is_marked:
            assistant = [i for i, turn in enumerate(attempt.turns) if turn["role"] == "assistant"]
            stretches = [finder.stretch(i) for i in trained] if trained != assistant else [(0, len(rendered.text))]
            spans = [(a, b) for a, b in rendered.marked if any(start <= a and b <= end for start, end in stretches)]
            if not spans:
                raise RowError(f"{where}: the chat template marks no text of the assistant, expected at least one turn")
            return spans
        for i in trained:
            what = left_out(attempt.turns[i], rendered.text[slice(*finder.stretch(i))])
            if what is not None:
                raise RowError(f"{where}: turn {i}: the chat template leaves out its {what}")
        return [span for i in trained for span in finder.spans(i)]

    def _template(self, source: str, name: str) -> ChatTemplate:
        return ChatTemplate(source, self._special_tokens, self._today, name)


def _render(template: ChatTemplate, tools: list[Any] | None, turns: Sequence[Turn], prompt: bool) -> Rendered:
    return template.render(turns, tools=tools, prompt=prompt)
