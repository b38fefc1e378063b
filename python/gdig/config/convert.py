"""Values of options against the types that they are declared with."""

from __future__ import annotations

import os
import types
from typing import Any, Literal, Union, get_args, get_origin

WRONG = object()
"""What :func:`convert` returns for a value of another type."""


def convert(value: Any, hint: Any) -> Any:
    """Return `value` as a value of type `hint`, or WRONG.

    A number may stand for a text ("budget: 500"), a path for its text, and one text for a list of one text. A text may
    stand for a number with a decimal point or an exponent, because YAML 1.1 reads 1e-4 as text.
    """
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return next((v for v in (convert(value, arg) for arg in args) if v is not WRONG), WRONG)
    if origin is Literal:
        return value if value in args and not isinstance(value, bool) else WRONG
    if origin is tuple:
        items = [convert(v, args[0]) for v in (value if isinstance(value, (list, tuple)) else [value])]
        return WRONG if any(v is WRONG for v in items) else tuple(items)
    if hint is types.NoneType:
        return None if value is None else WRONG
    if hint is bool:
        return value if isinstance(value, bool) else WRONG
    if isinstance(value, bool) or value is None:
        return WRONG
    if hint is float:
        try:
            return float(value)
        except (TypeError, ValueError, OverflowError):
            return WRONG
    if hint is int:
        return int(value) if hasattr(value, "__index__") else WRONG  # the whole numbers of NumPy too
    if hint is str:
        return str(value) if isinstance(value, (str, int, float, os.PathLike)) else WRONG
    return value if isinstance(value, hint) else WRONG


def describe(hint: Any) -> str:
    """Say what values a type has, for a message: "a whole number or null"."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(arg) for arg in args)
    if origin is Literal:
        return ("one of " if len(args) > 1 else "") + ", ".join(map(str, args))
    if origin is tuple:
        return f"{describe(args[0])} or a list of {_PLURALS.get(args[0], 'such values')}"
    return _NAMES.get(hint, str(hint))


_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false", types.NoneType: "null"}
_PLURALS = {str: "texts", float: "numbers"}
