"""The turns of a conversation, as OpenAI or as ShareGPT writes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from gdig.data.row_forms import Conversation, RowError, Turn, value_at

CONVERSATION_FIELDS = ("messages", "conversations", "conversation")
SYSTEM_FIELDS = ("system", "system_prompt")

_NAMES = {
    "system": ("system",),
    "developer": ("developer",),
    "user": ("user", "human"),
    "assistant": ("assistant", "gpt", "chatgpt", "model", "bot", "chatbot", "ai", "bing", "bard"),
    "tool": ("tool", "observation", "function", "function_response", "tool_response"),
}
_ROLES = {name: role for role, names in _NAMES.items() for name in names}
_CALLS = ("function_call", "function-call", "tool_call")


def read_conversation(row: Mapping[str, Any], field: str, system_field: str | None = None) -> Conversation:
    """Read the conversation in `field`, with the row's `tools` and system text.

    Args:
        row: the fields of the row.
        field: the name, or the path, of the field with the turns.
        system_field: the field of the system text. None: `system` or `system_prompt`, where the row has them.

    Raises:
        RowError: if the field is missing, or is no list of turns.
    """
    turns = read_turns(value_at(row, field), f"field {field!r}")
    system = system_text(row, system_field)
    if system is not None and turns[0]["role"] not in ("system", "developer"):
        turns.insert(0, {"role": "system", "content": system})
    return Conversation(turns, tools_of(row), field)


def tools_of(row: Mapping[str, Any]) -> list[Any] | None:
    """Return the list of tools in the row's field `tools`, which may be JSON text. None where there is no tool.

    Raises:
        RowError: if the field holds something else.
    """
    tools = from_json(row.get("tools"))
    if tools is not None and tools != "" and not isinstance(tools, list):
        raise RowError(f"field 'tools': expected a list of tools, got {type(tools).__name__}")
    return tools or None


def system_text(row: Mapping[str, Any], field: str | None = None) -> str | None:
    """Return the text of the system. None where the row has none, or a blank text.

    Raises:
        RowError: if the named field is missing, or holds no text.
    """
    names = SYSTEM_FIELDS if field is None else (field,)
    for name in names:
        value = row.get(name) if field is None else value_at(row, name)
        if value is not None and not isinstance(value, str):
            raise RowError(f"field {name!r}: expected text, got {type(value).__name__}")
        if value is not None and value.strip():
            return value
    return None


def read_turns(value: Any, what: str) -> list[Turn]:
    """Return the turns of a list, or of a list in JSON text. `what` names it in errors.

    Raises:
        RowError: if there is no turn, or if a turn has neither `role` (and mostly `content`) nor `from` and `value`.
    """
    turns = from_json(value)
    if not isinstance(turns, list) or not turns:
        kind = "an empty list" if turns == [] else "null" if turns is None else type(turns).__name__
        kind += ", whose text is no JSON of a list" if kind == "str" else ""
        raise RowError(f"{what}: expected a list of turns, got {kind}")
    return [_turn(turn, f"{what}: turn {i}") for i, turn in enumerate(turns)]


def from_json(value: Any) -> Any:
    """Return what a JSON text holds, where `value` is the text of a list. Return other values as they are."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value
    return value


def is_sharegpt(value: Any) -> bool:
    """Whether the turns have `from` and `value`."""
    turns = from_json(value)
    return (
        isinstance(turns, list) and bool(turns) and isinstance(turns[0], Mapping) and turns[0].get("from") is not None
    )


def _turn(message: Any, what: str) -> Turn:
    if not isinstance(message, dict):
        raise RowError(f"{what}: expected an object with role and content, got {type(message).__name__}")
    # Arrow gives null for keys that only other rows have. Templates expect such keys to be missing.
    turn: Turn = {key: value for key, value in message.items() if value is not None}
    if "role" not in turn and "from" in turn:
        turn = _with_role(turn, what)
    elif "content" not in turn and isinstance(turn.get("value"), str):
        turn["content"] = turn.pop("value")
    role = turn.get("role")
    if not isinstance(role, str):
        raise RowError(f"{what}: role: expected text, got {role!r}")
    if role.lower() in _CALLS:
        return {**turn, "role": "assistant", "content": "", "tool_calls": _calls(turn.get("content"), what)}
    turn["role"] = _ROLES.get(role.lower(), role)
    if isinstance(call := turn.get("function_call"), dict):  # OpenAI's older form of a call
        del turn["function_call"]
        turn.setdefault("tool_calls", [{"type": "function", "function": call}])
    return turn


def _with_role(turn: Turn, what: str) -> Turn:
    """Return a turn of ShareGPT with role and content in place of from and value."""
    author, text = turn["from"], turn.get("value", turn.get("content"))
    if not isinstance(author, str):
        raise RowError(f"{what}: from: expected text, got {author!r}")
    if not isinstance(text, str):
        raise RowError(f"{what}: value: expected text, got {'null' if text is None else type(text).__name__}")
    others = {key: value for key, value in turn.items() if key not in ("from", "value", "content")}
    return {"role": author, "content": text, **others}


def _calls(text: Any, what: str) -> list[Any]:
    """Return the calls of a turn `function_call`: JSON of one {name, arguments} or of a list of them."""
    try:
        calls = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        calls = None
    calls = [calls] if isinstance(calls, dict) else calls
    if not isinstance(calls, list) or not calls or not all(isinstance(c, dict) and "name" in c for c in calls):
        raise RowError(f"{what}: expected the JSON of a call with name and arguments, got {text!r:.60}")
    return [{"type": "function", "function": call} for call in calls]
