"""The turns of a conversation as chat templates expect them, and which of them are trained on."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

from gdig.data.render_limits import MOST_SIZE, measure
from gdig.data.row_forms import Conversation, RowError, Turn, checked_text

FLAGS = ("weight", "train", "loss")
"""Keys of a turn that say whether it is trained on."""

# Names of a turn's reasoning. Templates read the first one; that of gpt-oss reads the second.
_REASONING = ("reasoning_content", "thinking", "reasoning")


def check_turns(turns: Sequence[Turn], where: str) -> list[int]:
    """Return the numbers of the turns that are trained on: the assistant's, less those with a flag of 0 or false.

    Args:
        turns: of a conversation.
        where: names the conversation in errors.

    Raises:
        RowError: if there is none, if a flag is neither 0 nor 1, or if a turn's content is no text.
    """
    assistant = [i for i, turn in enumerate(turns) if turn["role"] == "assistant"]
    trained = [i for i in assistant if is_trained(turns[i], f"{where}: turn {i}")]
    for i, turn in enumerate(turns):
        is_silent = "tool_calls" in turn or any(turn.get(name) for name in _REASONING)
        content = _joined(turn.get("content"), f"{where}: turn {i}: content")
        if content is not None or not is_silent:
            may_be_empty = i not in trained or is_silent
            checked_text(content, f"{where}: turn {i}: content", may_be_empty=may_be_empty)
    if not assistant:
        roles = ", ".join(dict.fromkeys(turn["role"] for turn in turns))
        raise RowError(f"{where}: no turn of the assistant to train on (roles: {roles}); give it the role assistant")
    if not trained:
        raise RowError(
            f"{where}: no turn to train on: {' or '.join(FLAGS)} is 0 in each of the assistant's turns; set it to 1 in "
            "those to learn"
        )
    return trained


def is_trained(turn: Turn, what: str) -> bool:
    """Whether the flags of a turn of the assistant leave it its loss. `what` names the turn in errors.

    Raises:
        RowError: if a flag is neither 0 nor 1.
    """
    for flag in FLAGS:
        value = turn.get(flag)
        if value is None:
            continue
        if value not in (0, 1):
            raise RowError(f"{what}: {flag}: expected 0 or 1, false or true; got {value!r:.60}")
        if not value:
            return False
    return True


def template_forms(conversation: Conversation, where: str) -> Iterator[tuple[list[Turn], list[Any] | None]]:
    """Yield turns and tools in the forms that templates expect, the usual form first.

    Templates differ in three things: whether the arguments of a call are an object or its JSON; what a turn with calls
    and no content has as its content; and whether content is text or a list of parts, as in image-text models.
    """
    measure([conversation.turns, conversation.tools], MOST_SIZE)  # nothing below goes deeper than this allows
    turns = [_plain(turn, f"{where}: turn {i}") for i, turn in enumerate(conversation.turns)]
    tools = [_tool(tool) for tool in conversation.tools] if conversation.tools else None
    arguments = (False, True) if any("tool_calls" in turn for turn in turns) else (False,)
    contents: Sequence[dict[str, Any]] = ({},)
    if any(not turn.get("content") for turn in turns):
        contents = ({}, {"content": ""}, {"content": None})
    for as_parts, empty, as_json in product((False, True), contents, arguments):
        yield [_formed(turn, empty, as_json, as_parts) for turn in turns], tools


def left_out(turn: Turn, text: str) -> str | None:
    """Return what of the assistant's turn is not in its text: "content" or "calls". None if all is there.

    Only the first word is looked for, because templates may trim and change white space. They may leave out reasoning:
    what stands before `</think>`, and the content beside a call.
    """
    words = re.search(r"\w+", _text_of(turn).rpartition("</think>")[2])
    if words and words[0] not in text and not turn.get("tool_calls"):
        return "content"
    if any(call["function"].get("name", "") not in text for call in turn.get("tool_calls", ()) if "function" in call):
        return "calls"
    return None


def left_out_turns(turns: Sequence[Turn], text: str) -> list[int]:
    """Return the numbers of the turns, without the assistant's, whose text a template has left out.

    Only the first word is looked for.
    """
    words = ((i, re.search(r"\w+", _text_of(turn))) for i, turn in enumerate(turns) if turn["role"] != "assistant")
    return [i for i, word in words if word is not None and word[0] not in text]


def has_python_arguments(turns: Sequence[Turn], text: str) -> bool:
    """Whether a template has written the arguments of a call as Python writes an object."""
    arguments = (
        call["function"].get("arguments") for turn in turns for call in turn.get("tool_calls", ()) if "function" in call
    )
    return any(
        isinstance(value, dict)
        and value
        and repr(value) in text
        and repr(value) != json.dumps(value, ensure_ascii=False)
        for value in arguments
    )


def _text_of(turn: Turn) -> str:
    content = turn.get("content") or ""
    return content if isinstance(content, str) else "".join(piece.get("text", "") for piece in content)


def _joined(content: Any, what: str) -> Any:
    """Return the text of a list of parts. Return other content as it is."""
    if not isinstance(content, list) or not content:
        return content
    for piece in content:
        if not isinstance(piece, dict) or not isinstance(piece.get("text"), str) or piece.get("type", "text") != "text":
            kind = piece.get("type") if isinstance(piece, dict) else type(piece).__name__
            raise RowError(f"{what}: expected text, or a list of parts with text alone; got a part of type {kind}")
    return "".join(piece["text"] for piece in content)


def _plain(turn: Turn, what: str) -> Turn:
    """Return a turn without flags and nulls, with calls and reasoning under the names that templates read."""
    plain = {key: value for key, value in turn.items() if key not in FLAGS and value is not None}
    if "content" in plain:
        plain["content"] = _joined(plain["content"], f"{what}: content")
    reasoning = next((plain[name] for name in _REASONING if isinstance(plain.get(name), str)), None)
    if reasoning is not None:
        plain = {"thinking": reasoning, **plain, "reasoning_content": reasoning}
    calls = plain.pop("tool_calls", None)
    if calls is not None and not isinstance(calls, list):
        raise RowError(f"{what}: tool_calls: expected a list of calls, got {type(calls).__name__}")
    if calls:
        plain["tool_calls"] = [_call(call, what) for call in calls]
    return plain


def _call(call: Any, what: str) -> dict[str, Any]:
    if not isinstance(call, dict):
        raise RowError(f"{what}: tool_calls: expected objects with a function, got {type(call).__name__}")
    call = without_nulls(call)
    if "function" not in call:
        keys = ("name", "arguments")
        function = {key: call[key] for key in keys if key in call}
        call = {"type": "function", **{key: call[key] for key in call if key not in keys}, "function": function}
    function = call["function"]
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RowError(f"{what}: tool_calls: expected a function with a name, got {function!r:.60}")
    return {**call, "function": {**function, "arguments": _parsed(function.get("arguments", {}))}}


def _parsed(arguments: Any) -> Any:
    if isinstance(arguments, str):
        try:
            value = json.loads(arguments)
        except (ValueError, RecursionError):
            return arguments
        return value if isinstance(value, dict) else arguments
    return arguments


def bare_tool(tool: Any) -> Any:
    """Return the function of a tool, without the object around it: {name, description, parameters}."""
    tool = _tool(tool)
    return tool["function"] if isinstance(tool, dict) and isinstance(tool.get("function"), dict) else tool


def _tool(tool: Any) -> Any:
    if isinstance(tool, str):
        tool = _parsed(tool)
    tool = without_nulls(tool)
    is_bare = isinstance(tool, dict) and "function" not in tool and isinstance(tool.get("name"), str)
    return {"type": "function", "function": tool} if is_bare else tool


def without_nulls(value: Any) -> Any:
    """Return a value without the keys whose value is null. Arrow adds them for the keys of other rows."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return [without_nulls(item) for item in value] if isinstance(value, list) else value


def _formed(turn: Turn, empty: dict[str, Any], as_json: bool, as_parts: bool) -> Turn:
    formed = turn if turn.get("content") else {**turn, **empty}
    if as_json and "tool_calls" in turn:
        calls = [
            {**call, "function": {**call["function"], "arguments": _as_json(call["function"]["arguments"])}}
            for call in turn["tool_calls"]
        ]
        formed = {**formed, "tool_calls": calls}
    if as_parts and isinstance(formed.get("content"), str):
        formed = {**formed, "content": [{"type": "text", "text": formed["content"]}]}
    return formed


def _as_json(arguments: Any) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
