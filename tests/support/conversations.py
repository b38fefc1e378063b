"""Twelve shapes of conversations, as rows have them, for the tests of chat templates."""

from __future__ import annotations

from typing import Any

Turn = dict[str, Any]

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Weather of a city.",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "The city."},
                    "unit": {"type": "string", "enum": ["C", "F"]},
                },
                "required": ["city"],
            },
        },
    }
]


def system(content: str) -> Turn:
    return {"role": "system", "content": content}


def user(content: str) -> Turn:
    return {"role": "user", "content": content}


def assistant(content: str | None = None, **more: Any) -> Turn:
    return {"role": "assistant", **({} if content is None else {"content": content}), **more}


def call(number: int, **arguments: Any) -> Turn:
    # Nine letters and digits, as Mistral's templates ask for.
    return {
        "id": f"call0000{number}",
        "type": "function",
        "function": {"name": "get_weather", "arguments": arguments},
    }


def result(number: int, content: str) -> Turn:
    return {"role": "tool", "name": "get_weather", "tool_call_id": f"call0000{number}", "content": content}


SHAPES: dict[str, tuple[list[Turn], bool]] = {
    # name: turns, and whether tools are given
    "greeting": ([assistant("Good day, ask me."), user("One?"), assistant("Un.")], False),
    "single": ([user("Name a colour."), assistant("Blue it is.")], False),
    "system": ([system("Be brief."), user("Name a colour."), assistant("Blue.")], False),
    "several": (
        [
            user("One?"),
            assistant("Un, of course."),
            user("Two?"),
            assistant("Deux."),
            user("Three?"),
            assistant("Trois."),
        ],
        False,
    ),
    "odd-text": (
        [
            user("  <b>Tags</b> [INST] and blanks \n"),
            assistant("<div>\n  猫 {{ x }} {% y %}\n</div>"),
            user("More"),
            assistant("1. a\n\n2. b…"),
        ],
        False,
    ),
    "call-beside-content": (
        [
            user("Weather in Oslo?"),
            assistant("I look it up.", tool_calls=[call(1, city="Oslo")]),
            result(1, "4 degrees"),
            assistant("It is 4 degrees."),
        ],
        True,
    ),
    "call-alone": (
        [
            system("Be brief."),
            user("Weather in Oslo?"),
            assistant("", tool_calls=[call(1, city="Oslo", unit="C")]),
            result(1, "4 degrees"),
            assistant("Four."),
            user("And in Rome?"),
            assistant("Warmer."),
        ],
        True,
    ),
    "call-without-content": (
        [
            user("Weather in Oslo?"),
            assistant(tool_calls=[call(1, city="Oslo")]),
            result(1, "4 degrees"),
            assistant("4."),
        ],
        True,
    ),
    "call-at-the-end": (
        [
            user("Hello?"),
            assistant("Hello."),
            user("Weather in Rome?"),
            assistant("", tool_calls=[call(1, city="Rome")]),
        ],
        True,
    ),
    "reasoning": ([user("Two and two?"), assistant("Four.", reasoning_content="They ask for a sum.")], False),
    "reasoning-in-each": (
        [
            user("Two and two?"),
            assistant("Four.", reasoning_content="They ask for a sum."),
            user("And one more?"),
            assistant("Five.", reasoning_content="Add one."),
        ],
        False,
    ),
    "reasoning-and-call": (
        [
            user("Weather in Oslo?"),
            assistant("", reasoning_content="A tool knows.", tool_calls=[call(1, city="Oslo")]),
            result(1, "4 degrees"),
            assistant("It is 4 degrees.", reasoning_content="The tool said so."),
        ],
        True,
    ),
}
