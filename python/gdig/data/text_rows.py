"""Rows of prompt and completion, of an instruction, of a question, or of a text alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from gdig.data.row_forms import Conversation, Pair, Pairs, RowError, RowForm, Turn, WholeText, checked_text, value_at
from gdig.data.turns import from_json, read_turns, system_text, tools_of

Fields = Mapping[str, str]
"""The field of a row by its meaning: {"prompt": "query", "completion": "response"}."""


@dataclass(frozen=True)
class TextFormat:
    """A row format: the names that its fields may have, by meaning; the first name that a file has is taken."""

    read: Callable[..., RowForm]  # (row, fields, system_field)
    needed: Mapping[str, tuple[str, ...]]
    optional: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def fields_in(self, names: Collection[str]) -> Fields | None:
        """Return the fields of a file with fields of these `names`. None if a needed field is not among them."""
        fields = {}
        for meaning, aliases in (*self.needed.items(), *self.optional.items()):
            name = next((alias for alias in aliases if alias in names), None)
            if name is not None:
                fields[meaning] = name
            elif meaning in self.needed:
                return None
        return fields

    @property
    def first_names(self) -> Fields:
        """The fields by their first names."""
        return {meaning: aliases[0] for meaning, aliases in (*self.needed.items(), *self.optional.items())}


def read_completion(row: Mapping[str, Any], fields: Fields, system_field: str | None) -> RowForm:
    """Read a prompt and its completion: texts, or lists of turns of which those of the completion are trained on."""
    prompt, completion = (value_at(row, fields[meaning]) for meaning in ("prompt", "completion"))
    if isinstance(prompt, list) or isinstance(completion, list):
        given = _as_turns(prompt, "user", f"field {fields['prompt']!r}")
        trained = _as_turns(completion, "assistant", f"field {fields['completion']!r}")
        system = system_text(row, system_field)
        if system is not None and given[0]["role"] not in ("system", "developer"):
            given.insert(0, {"role": "system", "content": system})
        untrained = [{**turn, "train": False} if turn["role"] == "assistant" else turn for turn in given]
        return Conversation(untrained + trained, tools_of(row), fields["completion"])
    pair = Pair(_text(row, fields["prompt"], may_be_empty=True), _text(row, fields["completion"]))
    return Pairs((pair,), system_text(row, system_field))


def read_instruction(row: Mapping[str, Any], fields: Fields, system_field: str | None) -> RowForm:
    """Read a row of Alpaca: instruction, perhaps an input, output, perhaps a history of earlier pairs."""
    instruction = _text(row, fields["instruction"])
    material = _optional_text(row, fields.get("input"))
    output = _text(row, fields["output"])
    plain = f"Task:\n{instruction}\n\n" + (f"Material:\n{material}\n\n" if material else "") + "Answer:\n"
    prompt = f"{instruction}\n{material}" if material else instruction
    earlier = _history(row.get(fields.get("history", "")), fields.get("history", ""))
    return Pairs((*earlier, Pair(prompt, output, plain)), system_text(row, system_field))


def read_question(row: Mapping[str, Any], fields: Fields, system_field: str | None) -> RowForm:
    """Read a question and its answer, perhaps with a text that the question is about."""
    question, answer = _text(row, fields["question"]), _text(row, fields["answer"])
    context = _optional_text(row, fields.get("context"))
    plain = (f"Material:\n{context}\n\n" if context else "") + f"Question:\n{question}\n\nAnswer:\n"
    prompt = f"{context}\n\n{question}" if context else question
    return Pairs((Pair(prompt, answer, plain),), system_text(row, system_field))


def read_text(row: Mapping[str, Any], fields: Fields, system_field: str | None) -> RowForm:
    """Read a text. A text has no place for what the system says."""
    return WholeText(_text(row, fields["text"]))


FORMATS: dict[str, TextFormat] = {
    "completion": TextFormat(read_completion, {"prompt": ("prompt",), "completion": ("completion", "response")}),
    "instruction": TextFormat(
        read_instruction,
        {"instruction": ("instruction",), "output": ("output", "response")},
        {"input": ("input", "context"), "history": ("history",)},
    ),
    "question": TextFormat(
        read_question,
        {"question": ("question", "query"), "answer": ("answer", "response")},
        {"context": ("context",)},
    ),
    "text": TextFormat(read_text, {"text": ("text",)}),
}


def _text(row: Mapping[str, Any], name: str, *, may_be_empty: bool = False) -> str:
    return checked_text(value_at(row, name), f"field {name!r}", may_be_empty=may_be_empty)


def _optional_text(row: Mapping[str, Any], name: str | None) -> str:
    value = row.get(name) if name is not None else None
    return "" if value is None else checked_text(value, f"field {name!r}", may_be_empty=True)


def _as_turns(value: Any, role: str, what: str) -> list[Turn]:
    if isinstance(value, str):
        return [{"role": role, "content": value}]
    return read_turns(value, what)


def _history(history: Any, name: str) -> list[Pair]:
    history = from_json(history)  # as a cell of a table
    if history is None or history == "":
        return []
    if not isinstance(history, list):
        raise RowError(f"field {name!r}: expected a list of [prompt, answer], got {type(history).__name__}")
    pairs = []
    for i, item in enumerate(history):
        what = f"field {name!r}: pair {i}"
        if not isinstance(item, list) or len(item) != 2:
            raise RowError(f"{what}: expected [prompt, answer], got {item!r:.60}")
        prompt = checked_text(item[0], f"{what}: prompt", may_be_empty=False)
        answer = checked_text(item[1], f"{what}: answer", may_be_empty=False)
        pairs.append(Pair(prompt, answer, f"Task:\n{prompt}\n\nAnswer:\n"))
    return pairs
