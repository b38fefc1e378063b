"""Rows in the formats of training programs: messages (TRL, transformers), alpaca and sharegpt (LLaMA-Factory).

A conversion that would lose something is an error: which turns are trained on, calls of tools, or turns that the format
has no place for. No turn is added either. So what is trained on is what gdig has scored.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

from gdig.data.chat_turns import bare_tool, is_trained
from gdig.data.row_forms import Conversation, Pairs, RowError, RowForm, Turn, as_conversation

TurnFormat = Literal["messages", "alpaca", "sharegpt"]
"""The output formats that hold turns."""

_AUTHORS = {"system": "system", "developer": "system", "user": "human", "assistant": "gpt", "tool": "observation"}


def convert(form: RowForm, output_format: TurnFormat) -> dict[str, Any]:
    """Return a row in another format.

    Args:
        form: what the row is.
        output_format: "messages": `messages`, a list of role and content, with `tools` where there are any. "alpaca":
            `instruction`, `input` (always empty), `output`, `system` and `history`, a list of pairs. "sharegpt":
            `conversations`, a list of from and value, with `system` and `tools` as texts.

    Raises:
        RowError: if the format has no place for what the row holds.
    """
    conversation = _as_conversation(form)
    if output_format == "messages":
        return _messages(conversation)
    for i, turn in enumerate(conversation.turns):
        if turn["role"] == "assistant" and not is_trained(turn, f"turn {i}"):
            raise RowError(
                f"turn {i} of the assistant has no loss, but {output_format} trains on all; choose the format messages"
            )
    return _alpaca(conversation) if output_format == "alpaca" else _sharegpt(conversation)


def has_tools(row: Mapping[str, Any]) -> bool:
    """Whether a row of the format messages has tools, calls of tools or their results."""
    return "tools" in row or any("tool_calls" in turn or turn["role"] == "tool" for turn in row["messages"])


def has_silent_turns(row: Mapping[str, Any]) -> bool:
    """Whether a row of the format messages has turns of the assistant without a loss."""
    return any(turn["role"] == "assistant" and not is_trained(turn, "") for turn in row["messages"])


def alternates(row: Mapping[str, Any]) -> bool:
    """Whether the turns of a converted row alternate, from the user or a tool to the assistant, who ends the row.

    LLaMA-Factory skips other rows.
    """
    if "messages" in row:
        speakers = [turn["role"] for turn in row["messages"]]
        speakers = speakers[1:] if speakers[0] == "system" else speakers
    else:
        speakers = [turn["from"] for turn in row["conversations"]]
    asks, answers = ("user", "tool", "human", "observation"), ("assistant", "gpt", "function_call")
    in_turn = all(speaker in (answers if i % 2 else asks) for i, speaker in enumerate(speakers))
    return in_turn and len(speakers) % 2 == 0


def _as_conversation(form: RowForm) -> Conversation:
    if isinstance(form, Conversation):
        return form
    if isinstance(form, Pairs) and form.own_template:
        raise RowError(
            "the row goes through templates of your own, which no other format has; choose the format tokens"
        )
    if not isinstance(form, Pairs):
        raise RowError("the row is a text without turns, which no other format holds; choose the format tokens")
    return as_conversation(form)


def _messages(conversation: Conversation) -> dict[str, Any]:
    row: dict[str, Any] = {"messages": conversation.turns}
    return row | ({"tools": conversation.tools} if conversation.tools else {})


def _alpaca(conversation: Conversation) -> dict[str, Any]:
    turns = conversation.turns
    if conversation.tools or any("tool_calls" in turn or turn["role"] == "tool" for turn in turns):
        raise RowError("alpaca has no place for tools; choose the format messages or sharegpt")
    system, pairs = _split(turns)
    if any(role != ("user", "assistant")[i % 2] for i, (role, _) in enumerate(pairs)):
        roles = ", ".join(turn["role"] for turn in turns)
        raise RowError(f"alpaca takes turns of user and assistant in alternation, got {roles}; choose messages")
    if len(pairs) % 2:
        raise RowError("alpaca ends with a turn of the assistant, but the row does not; choose the format messages")
    texts = [text for _, text in pairs]
    return {
        "instruction": texts[-2],
        "input": "",
        "output": texts[-1],
        "system": system,
        "history": [texts[i : i + 2] for i in range(0, len(texts) - 2, 2)],
    }


def _split(turns: list[Turn]) -> tuple[str, list[tuple[str, str]]]:
    """Return the text of the system, or an empty one, and role and text of the turns after it."""
    first = 1 if turns[0]["role"] in ("system", "developer") else 0
    system = _text(turns[0]) if first else ""
    return system, [(turn["role"], _text(turn)) for turn in turns[first:]]


def _sharegpt(conversation: Conversation) -> dict[str, Any]:
    turns, system = conversation.turns, ""
    if turns[0]["role"] in ("system", "developer"):
        system, turns = _text(turns[0]), turns[1:]
    # As LLaMA-Factory documents them: the JSON of a list of functions.
    tools = [bare_tool(tool) for tool in conversation.tools or ()]
    return {
        "conversations": [_sharegpt_turn(turn) for turn in turns],
        "system": system,
        "tools": json.dumps(tools, ensure_ascii=False) if tools else "",
    }


def _sharegpt_turn(turn: Turn) -> dict[str, str]:
    if turn["role"] not in _AUTHORS or turn["role"] in ("system", "developer"):
        raise RowError(f"sharegpt has no place for a turn of the role {turn['role']!r}; choose the format messages")
    calls = turn.get("tool_calls")
    if not calls:
        return {"from": _AUTHORS[turn["role"]], "value": _text(turn)}
    if turn.get("content"):
        raise RowError("sharegpt has no place for a text beside a call of a tool; choose the format messages")
    values = [_call(call) for call in calls]
    return {"from": "function_call", "value": json.dumps(values if len(values) > 1 else values[0], ensure_ascii=False)}


def _call(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function", call)
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except ValueError:
            raise RowError(f"the arguments of a call are no JSON: {arguments[:60]!r}") from None
    return {"name": function["name"], "arguments": arguments}


def _text(turn: Turn) -> str:
    text = turn.get("content")
    if not isinstance(text, str):
        raise RowError(f"a turn of {turn['role']} holds {type(text).__name__}, not text; choose the format messages")
    if turn.get("reasoning_content"):
        raise RowError("only the format messages has a place for reasoning_content")
    return text
