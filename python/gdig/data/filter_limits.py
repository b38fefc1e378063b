"""Filters, tests and methods of text within the limits of a rendering. What could grow is checked before it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from typing import Any

from jinja2.exceptions import SecurityError

from gdig.data.render_limits import LimitError, Rendering, current, measure_nested

_REFUSED_METHODS = {"translate", "encode", "to_bytes", "striptags"}
_WIDE_METHODS = {"ljust", "rjust", "center", "zfill", "expandtabs"}
# Python looks for a text from the left in a time that grows with both texts, from the right with their product.
_SQUARE_METHODS = {"rfind", "rindex", "rsplit", "rpartition", "strip", "lstrip", "rstrip"}
_MOST_PRECISION = 100
_Args = tuple[Any, ...]


def limited(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter, or a test, that counts its steps and what it makes."""
    check = _CHECKS.get(name)
    skips = 1 if hasattr(function, "jinja_pass_arg") else 0

    @wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        rendering = current()
        value = args[skips] if len(args) > skips else None
        rendering.spend_on(value, 6 if isinstance(value, str) else 2)
        if check is not None and len(args) > skips:
            args = (*args[:skips], check(rendering, *args[skips:], **kwargs), *args[skips + 1 :])
        result = function(*args, **kwargs)
        return _counted(rendering, result) if isinstance(result, Iterator) else rendering.hold(result)

    return counted


def _counted(rendering: Rendering, items: Iterator[Any]) -> Iterator[Any]:
    for item in items:
        rendering.spend()
        yield rendering.hold(item)


def check_method(rendering: Rendering, owner: Any, name: str, args: _Args, kwargs: Mapping[str, Any]) -> _Args:
    """Check a call of a method of text, a list or a number before it is made. Return its arguments."""
    if name in _REFUSED_METHODS or isinstance(owner, bytes):
        raise SecurityError(f"the method {name} of {type(owner).__name__} is not for templates")
    rendering.spend_on(owner, 6)
    for value in (*args, *kwargs.values()):
        rendering.spend_on(value, 6 if isinstance(value, str) else 2)
    if isinstance(owner, str):
        if name in _SQUARE_METHODS:
            rendering.compare(owner, (*args, *kwargs.values()))
        if name in _WIDE_METHODS:
            rendering.width(*args, *kwargs.values())
            if name == "expandtabs":
                rendering.repeat(" " * max((8, *args, *kwargs.values())), owner.count("\t"))
        elif name == "replace" and len(args) > 1:
            _check_replace(rendering, owner, *args)
        elif name == "join" and args:
            items = list(args[0])
            rendering.repeat(owner, len(items))
            return (items,)
    return args


# Each checks a call of a filter before it is made, and returns the value that the filter gets.


def _check_replace(rendering: Rendering, value: Any, old: Any, new: Any, count: Any = None) -> Any:
    rendering.repeat(str(new), str(value).count(str(old)))
    return value


def _check_join(rendering: Rendering, value: Any, d: Any = "", attribute: Any = None) -> Any:
    items = list(value)
    rendering.repeat(str(d), len(items))
    return items


def _check_indent(rendering: Rendering, value: Any, width: Any = 4, first: Any = False, blank: Any = False) -> Any:
    rendering.width(width)
    rendering.repeat(width if isinstance(width, str) else " " * width, len(str(value).splitlines()) + 1)
    return value


def _check_trim(rendering: Rendering, value: Any, chars: Any = None) -> Any:
    rendering.compare(str(value), chars)
    return value


def _check_sum(rendering: Rendering, value: Any, attribute: Any = None, start: Any = 0) -> Any:
    if not isinstance(start, (int, float)):
        raise SecurityError(f"the filter sum adds numbers, got start={start!r}")
    return value


def _check_round(rendering: Rendering, value: Any, precision: Any = 0, method: Any = "common") -> Any:
    if abs(precision) > _MOST_PRECISION:
        raise LimitError(f"the filter round: expected at most {_MOST_PRECISION} digits, got {precision}")
    return value


def _check_format(rendering: Rendering, value: Any, *args: Any, **kwargs: Any) -> Any:
    rendering.percent(str(value), kwargs or args)
    return value


def _check_widths(rendering: Rendering, value: Any, *args: Any, **kwargs: Any) -> Any:
    rendering.width(*args, *kwargs.values())
    return value


def _check_tojson(rendering: Rendering, value: Any, ensure_ascii: Any = False, indent: Any = None,
                  separators: Any = None, sort_keys: Any = False) -> Any:  # fmt: skip
    if isinstance(value, (list, tuple, dict)):
        size, depth = measure_nested(value, rendering.largest_list)
        wide = len(indent) if isinstance(indent, str) else indent or 0
        rendering.make(size * (depth * wide + sum(map(len, separators or ()))))
    return value


_CHECKS: dict[str, Callable[..., Any]] = {
    "replace": _check_replace,
    "join": _check_join,
    "indent": _check_indent,
    "trim": _check_trim,
    "sum": _check_sum,
    "round": _check_round,
    "format": _check_format,
    "center": _check_widths,
    "batch": _check_widths,
    "slice": _check_widths,
    "tojson": _check_tojson,
}
