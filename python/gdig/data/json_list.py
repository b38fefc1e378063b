"""The items of a JSON list: where each starts in the file, found in one pass that checks every item.

`ijson` is not used here, for these reasons:

- It gives no byte offsets.
- It turns lone surrogates into question marks and refuses NaN.
- ijson 3.6 dies of a segmentation fault on an integer of more than 4,300 digits.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from gdig.errors import BadRowError, CorpusError

BOM = b"\xef\xbb\xbf"
_BLANKS = re.compile(r"[ \t\r\n]*")
_CONTINUATION_BYTES = bytes(range(0x80, 0xC0))  # every byte of a UTF-8 character but its first
MOST_NESTED = 500
"""How deep the values of a row lie at most. Deeper ones could be read at one place of the program and not at another,
because Python counts the calls that it is in."""
_decode = json.JSONDecoder().raw_decode


def item_starts(path: Path, shown: Path, chunk: int = 1 << 20) -> Iterator[int]:
    """Yield the byte offset of each object of a JSON list. Memory holds little more than one object at a time.

    Args:
        path: a file that holds one JSON list.
        shown: its name for messages.
        chunk: bytes read at a time.

    Raises:
        CorpusError: naming line and column of the first place that is not valid, or of the first byte not in UTF-8.
    """
    with cast(BinaryIO, path.open("rb")) as file:
        scanner = _ListScanner(path, shown, file, chunk)
        first = scanner.skip_blanks()
        if first != "[":
            raise scanner.error(
                f"expected a JSON list, got {first!r}" if first else "the file holds no rows, expected a JSON list"
            )
        scanner.position += 1
        items = 0
        while (character := scanner.skip_blanks()) != "]" or items:
            if character != "{":
                given = f"got {character!r}" if character else "the file ends in the middle of the list"
                raise scanner.error(f"item {items}: expected a JSON object, {given}")
            yield scanner.offset()
            scanner.skip_object(items)
            items += 1
            separator = scanner.skip_blanks()
            if separator not in (",", "]"):
                given = f"got {separator!r}" if separator else "the file ends (is it cut short?)"
                raise scanner.error(f"after item {items - 1}: expected ',' or ']', {given}")
            scanner.position += 1
            if separator == "]":
                break
        if items and scanner.skip_blanks():
            raise scanner.error("expected nothing after the list")


def is_too_deep(value: Any) -> bool:
    """Whether the values of a JSON value lie deeper than `MOST_NESTED`; found without recursion."""
    level, depth = [value], 0
    while level := [item for item in level if isinstance(item, (dict, list))]:
        depth += 1
        if depth > MOST_NESTED:
            return True
        level = [child for item in level for child in (item.values() if isinstance(item, dict) else item)]
    return False


def not_utf8(error: UnicodeDecodeError) -> str:
    """Say which byte is not UTF-8, and what to do."""
    return f"not UTF-8: byte 0x{error.object[error.start]:02x} ({error.reason}); convert the file to UTF-8"


class _ListScanner:
    """A window of decoded text over a file, and a position in the window."""

    def __init__(self, path: Path, shown: Path, file: BinaryIO, chunk: int) -> None:
        self.path, self.shown, self.file, self.chunk = path, shown, file, chunk
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.text, self.position, self.ended = "", 0, False
        # The first `counted` characters of the text end at byte `counted_bytes` of the file.
        self.counted, self.counted_bytes = 0, 0
        if file.read(len(BOM)) == BOM:
            self.counted_bytes = len(BOM)
        else:
            file.seek(0)

    def offset(self) -> int:
        """Return the position in bytes from the file's start."""
        self.counted_bytes += len(self.text[self.counted : self.position].encode())
        self.counted = self.position
        return self.counted_bytes

    def skip_blanks(self) -> str:
        """Go to the next character that is not blank, and return that character. Return '' at the end of the file."""
        while True:
            self.position = cast("re.Match[str]", _BLANKS.match(self.text, self.position)).end()
            if self.position < len(self.text):
                return self.text[self.position]
            if not self.read(self.chunk):
                return ""

    def skip_object(self, item: int) -> None:
        """Check the object at the position, and go to its end."""
        while True:
            try:
                value, end = _decode(self.text, self.position)
                if end - self.position > 2 * MOST_NESTED and is_too_deep(value):
                    raise ValueError(f"expected values at most {MOST_NESTED} deep, got deeper ones")
                self.position = end
                return
            except json.JSONDecodeError as error:
                # The window's end may have cut the object: the error is near that end, or a string has no end.
                at_end = error.pos >= len(self.text) - 16 or error.msg.startswith("Unterminated string")
                distance = error.pos - self.position
                # The window doubles, so the repeated parses of one long object stay linear in its length.
                if not (at_end and self.read(max(self.chunk, len(self.text)))):
                    self.position += distance
                    raise self.error(f"item {item}: not valid JSON: {error.msg}") from None
            except (ValueError, RecursionError) as error:
                raise self.error(f"item {item}: not readable JSON: {error}") from None

    def read(self, size: int) -> bool:
        """Drop the text before the position and add about `size` bytes. Return False at the end of the file."""
        if self.ended:
            return False
        data = self.file.read(size)
        self.ended = not data
        self.offset()
        self.text = self.text[self.position :]
        self.position = self.counted = 0
        try:
            self.text += self.decoder.decode(data, final=self.ended)
        except UnicodeDecodeError as error:
            self.text += error.object[: error.start].decode()
            self.position = len(self.text)
            raise self.error(not_utf8(error)) from None
        return not self.ended

    def error(self, message: str) -> CorpusError:
        """Return an error at the position. Line and column are counted only now, from the file's start."""
        line, column, remaining = 1, 1, self.offset()
        with self.path.open("rb") as file:
            while remaining and (block := file.read(min(remaining, 1 << 20))):
                line += block.count(b"\n")
                tail = block.rpartition(b"\n")
                column = (1 if tail[1] else column) + len(tail[2].translate(None, _CONTINUATION_BYTES))
                remaining -= len(block)
        return BadRowError(f"{self.shown}, line {line}, column {column}: {message}")
