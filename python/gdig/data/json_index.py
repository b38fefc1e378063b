"""The index of a JSON file: one streaming pass that checks every row and notes where it starts."""

from __future__ import annotations

import codecs
import json
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from gdig.errors import CorpusError

_BOM = b"\xef\xbb\xbf"
_BLANK = b" \t\r\n"
_CONTINUATION_BYTES = bytes(range(0x80, 0xC0))  # all but the first byte of a UTF-8 character
_PEEK, _FLUSH = 1 << 16, 1 << 16
_decode_row = json.JSONDecoder().raw_decode


def json_kind(path: Path) -> str:
    """Return "lines" or "list". A .json file may hold one object a line as well, as many published ones do.

    Raises:
        CorpusError: if a .json file holds one object.
    """
    if path.suffix != ".json":
        return "lines"
    with path.open("rb") as file:
        # A list may be one line as long as the file, so its beginning is looked at first.
        if not file.read(_PEEK).removeprefix(_BOM).lstrip(_BLANK).startswith(b"{"):
            return "list"
        file.seek(0)
        contentful = (line for line in file if line.removeprefix(_BOM).strip(_BLANK))
        try:
            json.loads(next(contentful).removeprefix(_BOM))
            several = next(contentful, None) is not None
        except (ValueError, RecursionError):
            several = False
    if not several:
        raise CorpusError(
            f"{path}: holds one JSON object, expected a list of objects (or one object a line, in a .jsonl file)"
        )
    return "lines"


def build_index(path: Path, kind: str, folder: Path) -> None:
    """Check every row of a file, and write where each starts (`starts`) and which follow a blank line (`blanks`).

    Both are int64: [N + 1], the last being the file's size, and [number of blank lines].

    Raises:
        CorpusError: naming line and column, or item, of the first row that is not a JSON object in UTF-8.
    """
    rows = 0
    starts, blanks = array("q"), array("q")
    with (folder / "starts").open("wb") as starts_file, (folder / "blanks").open("wb") as blanks_file:
        for start, is_row in _line_starts(path) if kind == "lines" else _item_starts(path):
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
            raise CorpusError(f"{path}: the file holds no rows")
        starts.append(path.stat().st_size)
        starts.tofile(starts_file)
        blanks.tofile(blanks_file)


def _line_starts(path: Path) -> Iterator[tuple[int, bool]]:
    """Yield (byte offset, True) for each row and (offset, False) for each blank line, checking every row."""
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            body = line[len(_BOM) :] if number == 1 and line.startswith(_BOM) else line
            content = body.lstrip(_BLANK)
            if content:
                try:
                    row = json.loads(body.decode())
                except UnicodeDecodeError as error:
                    raise CorpusError(f"{path}, line {number}: {_not_utf8(error)}") from None
                except json.JSONDecodeError as error:
                    raise CorpusError(
                        f"{path}, line {number}, column {error.colno}: not valid JSON: {error.msg}; expected one object"
                        " a line"
                    ) from None
                except (ValueError, RecursionError) as error:
                    raise CorpusError(f"{path}, line {number}: not readable JSON: {error}") from None
                if type(row) is not dict:
                    raise CorpusError(f"{path}, line {number}: expected a JSON object, got {_json_type(row)}")
            yield offset + len(line) - len(content), bool(content)
            offset += len(line)


def _item_starts(path: Path, chunk: int = 1 << 20) -> Iterator[tuple[int, bool]]:
    """Yield (byte offset, True) for each object of a JSON list, holding little more than one object at a time."""
    scanner = _ListScanner(path, chunk)
    with scanner.file:
        if scanner.skip_blanks() != "[":
            raise scanner.error(f"expected a JSON list, got {scanner.peek()!r}" if scanner.peek() else "holds no rows")
        scanner.advance(1)
        items = 0
        while (character := scanner.skip_blanks()) != "]" or items:
            if character != "{":
                kind = f"got {character!r}" if character else "the file ends in the middle of the list"
                raise scanner.error(f"item {items}: expected a JSON object, {kind}")
            yield scanner.offset(), True
            scanner.pass_object(items)
            items += 1
            separator = scanner.skip_blanks()
            if separator not in (",", "]"):
                got = f"got {separator!r}" if separator else "the file ends (is it cut short?)"
                raise scanner.error(f"after item {items - 1}: expected ',' or ']', {got}")
            scanner.advance(1)
            if separator == "]":
                break
        if items and scanner.skip_blanks():
            raise scanner.error("expected nothing after the list")


class _ListScanner:
    """A window of decoded text over a file, with a position in it."""

    def __init__(self, path: Path, chunk: int) -> None:
        self.path = path
        self.file = cast(BinaryIO, path.open("rb"))
        self.chunk = chunk
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.text, self.at, self.ended = "", 0, False
        self.text_offset = 0  # of self.text[0], in bytes
        if self.file.read(len(_BOM)) == _BOM:
            self.text_offset = len(_BOM)
        else:
            self.file.seek(0)

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def advance(self, characters: int) -> None:
        self.at += characters

    def offset(self) -> int:
        """Return the position in bytes, and drop the text before it."""
        self.text_offset += len(self.text[: self.at].encode())
        self.text, self.at = self.text[self.at :], 0
        return self.text_offset

    def skip_blanks(self) -> str:
        """Go to the next character that is no blank and return it; '' at the end of the file."""
        while True:
            while self.at < len(self.text):
                if self.text[self.at] not in " \t\r\n":
                    return self.text[self.at]
                self.at += 1
            if not self.more(self.chunk):
                return ""

    def pass_object(self, item: int) -> None:
        """Check the object at the position and go past it."""
        while True:
            try:
                _, self.at = _decode_row(self.text, self.at)
                return
            except json.JSONDecodeError as error:
                # Cut off by the window's edge: any error there, and a string without an end.
                at_edge = error.pos >= len(self.text) - 16 or error.msg.startswith("Unterminated string")
                # Doubling keeps the repeated parses of one long object linear in its length.
                if not (at_edge and self.more(max(self.chunk, len(self.text)))):
                    self.at = error.pos
                    raise self.error(f"item {item}: not valid JSON: {error.msg}") from None
            except (ValueError, RecursionError) as error:
                raise self.error(f"item {item}: not readable JSON: {error}") from None

    def more(self, size: int) -> bool:
        """Add about `size` bytes to the window; False at the end of the file."""
        if self.ended:
            return False
        data = self.file.read(size)
        self.ended = not data
        self.offset()
        try:
            self.text += self.decoder.decode(data, final=self.ended)
        except UnicodeDecodeError as error:
            self.text += error.object[: error.start].decode()
            self.at = len(self.text)
            raise self.error(_not_utf8(error)) from None
        return not self.ended

    def error(self, message: str) -> CorpusError:
        """Return an error at the position; its line and column are counted now, from the file's start."""
        line, column, left = 1, 1, self.offset()
        with self.path.open("rb") as file:
            while left and (block := file.read(min(left, 1 << 20))):
                line += block.count(b"\n")
                tail = block.rpartition(b"\n")
                column = (1 if tail[1] else column) + len(tail[2].translate(None, _CONTINUATION_BYTES))
                left -= len(block)
        return CorpusError(f"{self.path}, line {line}, column {column}: {message}")


def _not_utf8(error: UnicodeDecodeError) -> str:
    return f"not UTF-8: byte 0x{error.object[error.start]:02x} ({error.reason}); convert the file to UTF-8"


def _json_type(value: Any) -> str:
    if value is None:
        return "null"
    kinds = ((bool, "true or false"), (str, "a string"), ((int, float), "a number"), (list, "a list"))
    return next(name for kind, name in kinds if isinstance(value, kind))
