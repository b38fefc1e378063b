"""The limits of one rendering of a template: its steps, the size of its values, its output.

Steps are counted, not seconds, so a row is refused on every machine or on none. The limits grow with the row: no
template that goes over a row some hundred times reaches them.
"""

from __future__ import annotations

import re
from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from contextvars import ContextVar
from typing import Any, cast

from jinja2 import Undefined
from jinja2.exceptions import SecurityError

MOST_SIZE = 1 << 28
"""Largest size of what a template is given, as :func:`measure` counts it."""

_STEPS, _STEPS_OF_SIZE = 50_000, 20
_LARGEST, _LARGEST_OF_SIZE = 1 << 20, 16
_LARGEST_LIST = 1 << 18
_TOTAL, _TOTAL_OF_SIZE = 1 << 26, 256
_MOST_DEPTH = 64
_MOST_BITS = 1 << 13
_MOST_WIDTH = 10_000

_MOST_RANGE = 1 << 60
"""Numbers that are further apart may have one hash. A table of them takes time that grows with its square."""

_CONVERSION = re.compile(r"[-#0 +]*(\d+|\*)?(?:\.(\d+|\*))?[hlL]?")
"""What follows `%`, or its key, in a format: flags, width, precision and a length. One letter ends it."""
_PARENTHESIS = re.compile(r"[()]")
_LEAVES = (type(None), float, Undefined)
_NESTED = (list, tuple, set, frozenset, dict, KeysView, ValuesView, ItemsView)


class LimitError(SecurityError):
    """A template exceeds the limits of one rendering."""


class Noted(dict[str, Any]):
    """An object of a row, with a number. A loop over such objects notes where in the output each iteration begins."""

    number: int = 0


class Rendering:
    """One rendering: what it may still use, and the places in its text that were noted.

    Args:
        size: of the values that the template is given, as :func:`measure` counts it.

    Attributes:
        largest: most characters of one text, and of the output.
        largest_list: largest size of one list or object, as :func:`measure` counts it.
        length: characters of the output so far.
        iterations: of the loops over :class:`Noted` values and over whole numbers: where in the output an iteration
            begins, which loop, the number, and whether the loop is over numbers. At the end of a loop the number is -1.
        marked: text in {% generation %}, and where in the output it begins.
    """

    def __init__(self, size: int) -> None:
        self.steps = _STEPS + _STEPS_OF_SIZE * size
        self.largest = _LARGEST + _LARGEST_OF_SIZE * size
        self.largest_list = _LARGEST_LIST + _LARGEST_OF_SIZE * size
        self.length = 0
        self.iterations: list[tuple[int, int, int, bool]] = []
        self.marked: list[tuple[int, str]] = []
        self._total = _TOTAL + _TOTAL_OF_SIZE * size

    def spend(self, steps: int = 1) -> None:
        """Count steps of computation."""
        self.steps -= steps
        if self.steps < 0:
            raise LimitError("the template takes too many steps: a loop in a loop, or a macro that calls itself")

    def spend_on(self, value: Any, shift: int) -> None:
        """Count a step, and one more for every 2^shift characters or items of `value`."""
        self.spend(1 + (len(value) >> shift) if isinstance(value, (str, list, tuple, dict)) else 1)

    def make(self, size: int) -> None:
        """Count a value of this size that the template makes."""
        self._total -= size
        if size > self.largest or self._total < 0:
            raise LimitError(
                f"the template makes too long a text or list, expected at most {self.largest:,} characters"
            )

    def hold(self, value: Any) -> Any:
        """Count a value that the template has made, and return it."""
        if isinstance(value, str):
            self.make(len(value))
        elif isinstance(value, int):
            if value.bit_length() > _MOST_BITS:
                raise LimitError("the template computes too large a number")
        elif isinstance(value, range):
            if max(abs(value.start), abs(value.stop), abs(value.step)) > _MOST_RANGE:
                raise LimitError("the template makes a range of too large numbers")
        elif type(value) not in _LEAVES and isinstance(value, _NESTED):
            size = measure(value, self.largest_list)
            self.spend(size >> 4)
            self.make(size)
        return value

    def repeat(self, value: Any, times: int) -> None:
        """Check before `value` is repeated."""
        self.make(measure(value, self.largest) * max(times, 0))
        if not isinstance(value, str):
            self.spend(len(value) * max(times, 0) >> 4)

    def width(self, *numbers: Any) -> None:
        """Check numbers that text is padded to, or that say how often something is done at once."""
        for number in numbers:
            if isinstance(number, int) and abs(number) > _MOST_WIDTH:
                raise LimitError(f"the template asks for a width of {number}, expected at most {_MOST_WIDTH:,}")

    def percent(self, text: str, values: Any = ()) -> None:
        """Check before `text % values`."""
        if isinstance(values, dict):
            self.repeat(values, text.count("%"))
        for sizes in _conversions(text):
            if "*" in sizes:
                raise LimitError("the template formats with the width *; write the width as a number")
            self.width(*(int(number) for number in sizes if number))

    def compare(self, text: str, others: Any) -> None:
        """Check before each character of `text` is compared with all of another text, or of each text in a list."""
        for other in others if isinstance(others, (list, tuple)) else (others,):
            self.spend(len(text) * len(other) >> 6 if isinstance(other, str) else 1)

    def product(self, left: Any, right: Any) -> None:
        """Check before `left * right`."""
        if isinstance(left, int) and isinstance(right, int):
            if left.bit_length() + right.bit_length() > _MOST_BITS:
                raise LimitError("the template computes too large a number")
        elif isinstance(left, int):
            self.repeat(right, left)
        elif isinstance(right, int):
            self.repeat(left, right)

    def power(self, left: Any, right: Any) -> None:
        """Check before `left ** right`."""
        if isinstance(left, int) and isinstance(right, int) and left.bit_length() * abs(right) > _MOST_BITS:
            raise LimitError("the template computes too large a number")


CURRENT: ContextVar[Rendering | None] = ContextVar("CURRENT", default=None)
"""The rendering at work. None while a template is compiled."""


def current() -> Rendering:
    """Return the rendering at work. While a template is compiled, nothing is computed in advance."""
    rendering = CURRENT.get()
    if rendering is None:
        raise LimitError("not a rendering")
    return rendering


def _conversions(text: str) -> Iterator[tuple[str | None, ...]]:
    """Yield width and precision of each conversion in a format, as Python reads it. It goes over the text once."""
    at = text.find("%") + 1
    while at:
        if text.startswith("(", at):
            if (end := _end_of_key(text, at)) is None:
                return  # Python refuses the rest
            at = end
        match = cast("re.Match[str]", _CONVERSION.match(text, at))
        yield match.groups()
        at = text.find("%", match.end() + 1) + 1


def _end_of_key(text: str, start: int) -> int | None:
    """Return the place after a key, whose parentheses are in pairs. None if the text ends before it."""
    depth = 0
    for match in _PARENTHESIS.finditer(text, start):
        depth += 1 if match[0] == "(" else -1
        if not depth:
            return match.end()
    return None


def measure(value: Any, most: int) -> int:
    """Return the size of a value: its characters, plus one for each value in it. What is there twice counts twice.

    Raises:
        LimitError: if the size is over `most`, or if lists and objects lie more than 64 deep in one another.
    """
    return len(value) + 1 if isinstance(value, str) else measure_nested(value, most)[0]


def measure_nested(value: Any, most: int) -> tuple[int, int]:
    """Return the size of a value as :func:`measure` does, and how deep lists and objects lie in one another."""
    size, level = 0, [value]
    for depth in range(_MOST_DEPTH):
        below: list[Any] = []
        for item in level:
            size += 1
            if isinstance(item, str):
                size += len(item)
            elif isinstance(item, dict):
                below += (*item.keys(), *item.values())
            elif isinstance(item, _NESTED):
                below += item
            elif isinstance(item, range):
                size += len(item)
            if size + len(below) > most:
                raise LimitError(f"the template makes too long a text or list, expected at most {most:,} characters")
        if not below:
            return size, depth
        level = below
    raise LimitError(f"lists and objects in one another, expected at most {_MOST_DEPTH} deep")
