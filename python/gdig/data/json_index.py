"""The index of a JSON file: one streaming pass checks every row and writes where each row starts."""

from __future__ import annotations

import json
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from gdig.data.json_list import BOM, MOST_NESTED, is_too_deep, item_starts, not_utf8
from gdig.errors import BadRowError, CorpusError

_BLANK = b" \t\r\n"
_PEEK, _FLUSH = 1 << 16, 1 << 16
_MAX_BRACKETS = MOST_NESTED
"""A line with more opening brackets is checked by `json`, and how deep its values lie."""


def json_kind(path: Path, shown: Path) -> str:
    """Return "lines" or "list". A .json file may also hold one object a line, as many published files do.

    Args:
        path: the file.
        shown: its name for messages.

    Raises:
        CorpusError: if a .json file holds one object.
    """
    if path.suffix.lower() != ".json":
        return "lines"
    with path.open("rb") as file:
        # A list may be one line as long as the file, so only the beginning of the file is read here.
        if not file.read(_PEEK).removeprefix(BOM).lstrip(_BLANK).startswith(b"{"):
            return "list"
        file.seek(0)
        lines = (line for line in file if line.removeprefix(BOM).strip(_BLANK))
        try:
            json.loads(next(lines).removeprefix(BOM))
            has_second_line = next(lines, None) is not None
        except (ValueError, RecursionError):
            has_second_line = False
    if not has_second_line:
        raise CorpusError(
            f"{shown}: holds one JSON object, expected a list of objects (or one object a line, in a .jsonl file)"
        )
    return "lines"


def build_index(path: Path, shown: Path, kind: str, folder: Path) -> None:
    """Check every row of a file. Write where each row starts (`starts`) and which rows follow a blank line (`blanks`).

    Both files hold int64: `starts` [N + 1], whose last value is the file's size; `blanks` [number of blank lines].

    Raises:
        CorpusError: naming line and column, or item, of the first row that is not a JSON object in UTF-8.
    """
    rows = 0
    starts, blanks = array("q"), array("q")
    offsets = _line_starts(path, shown) if kind == "lines" else ((start, True) for start in item_starts(path, shown))
    with (folder / "starts").open("wb") as starts_file, (folder / "blanks").open("wb") as blanks_file:
        for start, is_row in offsets:
            if is_row:
                starts.append(start)
                rows += 1
            else:
                blanks.append(rows)
            if len(starts) + len(blanks) >= _FLUSH:
                starts.tofile(starts_file)
                blanks.tofile(blanks_file)
                starts, blanks = array("q"), array("q")
        if rows == 0:
            raise CorpusError(f"{shown}: the file holds no rows, expected at least one")
        starts.append(path.stat().st_size)
        starts.tofile(starts_file)
        blanks.tofile(blanks_file)


def _line_starts(path: Path, shown: Path) -> Iterator[tuple[int, bool]]:
    """Yield (byte offset, True) for each row and (offset, False) for each blank line. Check every row."""
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            body = line[len(BOM) :] if number == 1 and line.startswith(BOM) else line
            content = body.lstrip(_BLANK)
            if content and not _is_object(content):
                _check_line(body, shown, number)
            yield offset + len(line) - len(content), bool(content)
            offset += len(line)


def _is_object(content: bytes) -> bool:
    """Whether orjson reads the line as an object. On False, the line has to be checked by `json`.

    `json` reads every line that orjson accepts. `json` also reads lines that orjson refuses: NaN and Infinity, lone
    surrogates, and numbers beyond a double. orjson only checks: it would turn integers beyond 64 bits into floats.
    """
    if len(content) > 2 * _MAX_BRACKETS and content.count(b"[") + content.count(b"{") > _MAX_BRACKETS:
        return False
    try:
        return type(orjson.loads(content)) is dict
    except orjson.JSONDecodeError:
        return False


def _check_line(body: bytes, path: Path, number: int) -> None:
    """Check a line by `json`.

    Raises:
        CorpusError: naming line and column, if the line is not one JSON object in UTF-8.
    """
    try:
        row = json.loads(body.decode())
    except UnicodeDecodeError as error:
        raise BadRowError(f"{path}, line {number}: {not_utf8(error)}") from None
    except json.JSONDecodeError as error:
        raise BadRowError(
            f"{path}, line {number}, column {error.colno}: not valid JSON: {error.msg}; expected one object a line"
        ) from None
    except (ValueError, RecursionError) as error:
        raise BadRowError(f"{path}, line {number}: not readable JSON: {error}") from None
    if is_too_deep(row):
        raise BadRowError(f"{path}, line {number}: expected values at most {MOST_NESTED} deep, got deeper ones")
    if type(row) is not dict:
        raise BadRowError(f"{path}, line {number}: expected a JSON object, got {_json_type(row)}")


def _json_type(value: Any) -> str:
    if value is None:
        return "null"
    names = ((bool, "true or false"), (str, "a string"), ((int, float), "a number"), (list, "a list"))
    return next(name for kind, name in names if isinstance(value, kind))
