"""Rows that cannot be read: the error names the field, what was given and what was expected."""

from __future__ import annotations

import pytest

from gdig.data.row_formats import make_reader
from gdig.data.row_forms import RowError
from tests.test_row_formats import TRANSLATION, TURNS

BAD_ROWS = {
    "empty": ({"trg_text": ""}, "field 'trg_text' is empty"),
    "blank": ({"trg_text": " \n\u3000"}, "field 'trg_text' is empty"),
    "empty source": ({"src_text": ""}, "field 'src_text' is empty"),
    "null": ({"trg_text": None}, "field 'trg_text': expected text, got null"),
    "number": ({"trg_text": 7}, "field 'trg_text': expected text, got int"),
    "list": ({"src_text": ["a"]}, "field 'src_text': expected text, got list"),
    "half a pair": ({"trg_text": "a\ud83d"}, r"field 'trg_text': U\+D83D at character 1 is half of a surrogate pair"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_fields(case):
    change, message = BAD_ROWS[case]
    with pytest.raises(RowError, match=message):
        make_reader("translation")({**TRANSLATION, **change})


@pytest.mark.parametrize("field", TRANSLATION)
def test_missing_fields(field):
    row = {key: value for key, value in TRANSLATION.items() if key != field}
    with pytest.raises(RowError, match=f"field '{field}' is missing; the row has: {', '.join(row)}"):
        make_reader("translation")(row)


@pytest.mark.parametrize(
    "row_format, row, message",
    [
        ("messages", {"messages": []}, "field 'messages': expected a list of turns, got an empty list"),
        ("messages", {"messages": None}, "field 'messages': expected a list of turns, got null"),
        ("messages", {"messages": "Hello"}, "expected a list of turns, got str, whose text is no JSON of a list"),
        ("messages", {"messages": "[{'role': 'user'}]"}, "whose text is no JSON of a list"),
        ("messages", {"messages": [{"role": "tool_call", "content": [1]}]}, "expected the JSON of a call"),
        ("messages", {"messages": ["Hello"]}, "turn 0: expected an object with role and content, got str"),
        ("messages", {"messages": [{"content": "x"}]}, "turn 0: role: expected text, got None"),
        ("messages", {"text": "x"}, "'messages' is missing; the row has: text. The row looks like the format text"),
        ("messages", {"messages": TURNS, "tools": {"a": 1}}, "field 'tools': expected a list of tools, got dict"),
        ("sharegpt", {"messages": [{"from": "gpt"}]}, "turn 0: value: expected text, got null"),
        ("sharegpt", {"messages": [{"from": 1, "value": "x"}]}, "turn 0: from: expected text, got 1"),
        ("sharegpt", {"messages": [{"from": "function_call", "value": "x"}]}, "expected the JSON of a call"),
        (
            "instruction",
            {"instruction": "a", "output": "b", "history": [["a"]]},
            r"pair 0: expected \[prompt, ",
        ),
        ("instruction", {"instruction": "a", "output": "b", "history": "a"}, r"expected a list of \[prompt, answer\]"),
        ("instruction", {"instruction": "a", "output": "b", "system": 3}, "field 'system': expected text, got int"),
        ("completion", {"prompt": 3, "completion": TURNS}, "field 'prompt': expected a list of turns, got int"),
        ("translation", {"lp": "de", "source": "a", "target": "b"}, "field 'lp': the second language is empty"),
    ],
)
def test_bad_rows(row_format, row, message):
    with pytest.raises(RowError, match=message):
        make_reader(row_format, None, row)(row)
