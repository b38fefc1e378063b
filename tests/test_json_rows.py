"""JSON files: which lines and items are rows, against the json module, and what bad ones get."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gdig.data import json_index, json_list, json_rows
from gdig.data.corpus import open_corpus
from gdig.errors import CorpusError
from tests.support.profiles import examples


@pytest.fixture
def opened(tmp_path):
    return lambda *paths: open_corpus(paths, cache_dir=tmp_path / "cache")


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=examples(150), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.dictionaries(st.text(), JSON_VALUES, max_size=3), min_size=1, max_size=6),
    chunk=st.integers(1, 40),
    indent=st.sampled_from([None, 0, 2]),
    ascii_only=st.booleans(),
)
def test_a_list_is_found_whatever_the_window(tmp_path, rows, chunk, indent, ascii_only):
    """Oracle: json.loads of the whole file. The scanner's window is a few bytes, so every cut is met."""
    path = tmp_path / "list.json"
    text = json.dumps(rows, indent=indent, ensure_ascii=ascii_only)
    path.write_bytes(text.encode("utf-8", "surrogatepass") if ascii_only else text.encode("utf-8", "replace"))
    expected = json.loads(path.read_bytes())
    content = path.read_bytes()
    starts = list(json_list.item_starts(path, path, chunk))
    assert [json_rows._decode_row(content[start:].decode())[0] for start in starts] == expected


ODD_LINES = {
    "nan": b"NaN", "infinity": b"-Infinity", "beyond a double": b"1e400", "71 bits": b"1180591620717411303424",
    "310 digits": b"1" * 310, "4301 digits": b"1" * 4301, "long fraction": b"0." + b"1" * 5000,
    "lone surrogate": rb'"\ud83d"', "lone surrogate in a key": rb'{"\udc00": 1}', "repeated key": b'1, "a": 2',
    "control character": b'"\x01"', "delete": b'"\x7f"', "surrogate as UTF-8": b'"\xed\xa0\x80"',
    "two bytes for NUL": b'"\xc0\x80"', "NUL": b"1\0", "form feed": b"\x0c1", "leading zero": b"01",
    "no fraction": b"1.", "minus zero": b"-0",
    "trailing comma": b"1,", "no comma": b"[1 2]", "400 deep": b"[" * 400 + b"]" * 400,
    "1010 deep": b"[" * 1010 + b"]" * 1010, "braces in text": b'"' + b"{" * 2000 + b'"', "BOM": b"\xef\xbb\xbf1",
}  # fmt: skip
EDITS = st.lists(st.tuples(st.integers(0, 200), st.binary(max_size=2)), max_size=3)


def json_reads_an_object(line: bytes) -> bool:
    try:
        return type(json.loads(line.decode())) is dict
    except (ValueError, RecursionError):
        return False


def is_accepted(path: Path, line: bytes) -> bool:
    path.write_bytes(b"{}\n" + line + b"\n")
    try:
        return len(list(json_index._line_starts(path, path))) == 2
    except CorpusError:
        return False


@pytest.mark.parametrize("case", ODD_LINES)
def test_a_line_is_accepted_exactly_when_json_reads_an_object(tmp_path, case):
    """The rows are read by `json`, so the check must neither refuse nor accept anything else."""
    line = b'{"a": ' + ODD_LINES[case] + b"}"
    # How deep `json` reads is Python's limit, which other tests, or the libraries they load, may have raised.
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(1000)
    try:
        # 1010 deep is beyond gdig's own limit, MOST_NESTED, which Python's was below until 3.13.
        expected = json_reads_an_object(line) and case != "1010 deep"
        assert is_accepted(tmp_path / "a.jsonl", line) == expected
    finally:
        sys.setrecursionlimit(before)


@settings(max_examples=examples(300), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(row=st.dictionaries(st.text(), JSON_VALUES, max_size=3), edits=EDITS, ascii_only=st.booleans())
def test_a_damaged_line_is_accepted_exactly_when_json_reads_an_object(tmp_path, row, edits, ascii_only):
    line = json.dumps(row, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    for place, piece in edits:
        place %= len(line) + 1
        line = line[:place] + piece.replace(b"\n", b"") + line[place + (len(piece) > 1) :]
    assert is_accepted(tmp_path / "a.jsonl", line) == (json_reads_an_object(line) or not line.strip(b" \t\r"))


BAD_LINES = {
    "cut short": (b'{"a": "1"}\n{"a": "2', "line 2, column 7: not valid JSON: Unterminated string"),
    "single quotes": (b"\n{'a': 1}\n", "line 2, column 2: not valid JSON: Expecting property name"),
    "two on a line": (b'{"a": 1} {"a": 2}\n', "line 1, column 10: not valid JSON: Extra data"),
    "a list": (b'[{"a": 1}]\n', "line 1: expected a JSON object, got a list"),
    "a string": (b'{"a": 1}\n"x"\n', "line 2: expected a JSON object, got a string"),
    "a number": (b"{}\n12\n", "line 2: expected a JSON object, got a number"),
    "null": (b"null\n", "line 1: expected a JSON object, got null"),
    "true": (b"true\n", "line 1: expected a JSON object, got true or false"),
    "latin-1": (b'{"a": "1"}\n{"a": "\xe9t\xe9"}\n', "line 2: not UTF-8: byte 0xe9"),
    "deep": (b"[" * 100_000 + b"\n", "line 1: not readable JSON"),
    "endless number": (b'{"a": ' + b"1" * 5000 + b"}\n", "line 1: not readable JSON"),
    "empty": (b"", "holds no rows"),
    "blank": (b"\n \r\n", "holds no rows"),
}  # fmt: skip


BAD_LISTS = {
    "object": (b'{"a": 1}', "holds one JSON object, expected a list"),
    "object over lines": (b'{\n "rows": []\n}\n', "holds one JSON object, expected a list"),
    "empty file": (b"", "holds no rows"),
    "empty list": (b" [ ]\n", "holds no rows"),
    "a string": (b'"x"', "line 1, column 1: expected a JSON list"),
    "item": (b'[{"a": 1},\n 7]', "line 2, column 2: item 1: expected a JSON object, got '7'"),
    "trailing comma": (b'[{"a": 1},]', "line 1, column 11: item 1: expected a JSON object, got ']'"),
    "no comma": (b'[{"a": 1}\n{"a": 2}]', "line 2, column 1: after item 0: expected ',' or ']', got '{'"),
    "cut between": (b'[{"a": 1}', "after item 0: expected ',' or ']', the file ends"),
    "cut after comma": (b'[{"a": 1},', "item 1: expected a JSON object, the file ends"),
    "cut inside": (b'[{"a": 1},\n{"a": "x', "line 2, column 7: item 1: not valid JSON: Unterminated string"),
    "bad value": ('[{"a": "é"},\n{"é": nil}, {"b": "ok ok ok ok ok"}]'.encode(), "line 2, column 7: item 1: not valid"),
    "after it": (b'[{"a": 1}]\n[]', "line 2, column 1: expected nothing after the list"),
    "latin-1": (b'[{"a": 1},\n{"a": "\xe9"}]', "line 2, column 8: not UTF-8: byte 0xe9"),
}  # fmt: skip


BAD_FILES = {("bad.jsonl", case): bad for case, bad in BAD_LINES.items()}
BAD_FILES |= {("bad.json", case): bad for case, bad in BAD_LISTS.items()}
if not hasattr(sys, "set_int_max_str_digits"):  # Python before 3.10.7 reads a number of any length
    del BAD_FILES["bad.jsonl", "endless number"]


@pytest.mark.parametrize(("name", "case"), BAD_FILES)
def test_a_bad_file_is_named_with_the_place(tmp_path, opened, name, case):
    content, message = BAD_FILES[name, case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CorpusError, match=re.escape(name)) as error:
        opened(tmp_path / name)
    assert message in str(error.value)
    assert not list((tmp_path / "cache").glob("*"))  # nothing half-written
