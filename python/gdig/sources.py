"""Where the values of options come from beside flags: a YAML file, and the record of an earlier run."""

from __future__ import annotations

import difflib
import json
import types
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from gdig.config import Config, SelectOptions
from gdig.errors import ConfigError, RunError

# What belongs to one start of a run, or to one choice from it, and is not inherited by the next.
_NOT_INHERITED = ("overwrite", "quiet", "run_path", *(field.name for field in fields(SelectOptions)))


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read options from a YAML file whose keys are option names.

    Returns:
        The options it gives, of the types that :class:`gdig.config.Config` declares.

    Raises:
        ConfigError: naming the file, the line and the key: no such file, no YAML, not a flat mapping, a key twice, an
            unknown key (with the nearest known one), or a value of the wrong type.
    """
    import yaml

    try:
        text = Path(path).read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read as a YAML file of options: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not a YAML file: {' '.join(str(error).split())}") from None
    if node is None:
        return {}
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{path}: expected a mapping of option names to values, got {type(values).__name__}")
    options: dict[str, Any] = {}
    for key_node, _ in node.value:
        where, key = f"{path}:{key_node.start_mark.line + 1}", key_node.value
        if key in options:
            raise ConfigError(f"{where}: key {key!r} is given twice")
        options[key] = _value(where, key, values.get(key))
    return options


def read_run(run_path: str | Path) -> dict[str, Any]:
    """Read the options of the run in a directory; none if there is no run in it.

    Raises:
        RunError: if RUN/run.json is there but does not hold them.
    """
    path = Path(run_path) / "run.json"
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))["config"]
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{path}: the options of the run cannot be read from it: {error!r}") from None
    if not isinstance(stored, Mapping):
        raise RunError(f"{path}: config: expected a mapping of option names to values, got {type(stored).__name__}")
    return {key: _value(str(path), key, value) for key, value in stored.items() if key not in _NOT_INHERITED}


def _value(where: str, key: str, value: Any) -> Any:
    hints = get_type_hints(Config)
    if key not in hints:
        near = difflib.get_close_matches(key, hints, n=1)
        raise ConfigError(f"{where}: unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    converted = _convert(value, hints[key])
    if converted is _WRONG:
        raise ConfigError(f"{where}: {key}: expected {_describe(hints[key])}, got {value!r}")
    return converted


_WRONG = object()


def _convert(value: Any, hint: Any) -> Any:
    """Return `value` as a value of type `hint`, or _WRONG. A number may stand for a text ("budget: 500")."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return next((v for v in (_convert(value, arg) for arg in args) if v is not _WRONG), _WRONG)
    if origin is Literal:
        return value if value in args and not isinstance(value, bool) else _WRONG
    if origin is tuple:
        items = [_convert(v, args[0]) for v in (value if isinstance(value, (list, tuple)) else [value])]
        return _WRONG if any(v is _WRONG for v in items) else tuple(items)
    if hint is types.NoneType:
        return None if value is None else _WRONG
    if hint is bool:
        return value if isinstance(value, bool) else _WRONG
    if isinstance(value, bool) or value is None:
        return _WRONG
    if hint is float:
        # YAML 1.1 reads 1e-4, without a point, as text.
        try:
            return float(value)
        except (TypeError, ValueError):
            return _WRONG
    if hint is str:
        return str(value) if isinstance(value, (str, int, float)) else _WRONG
    return value if isinstance(value, hint) else _WRONG


def _describe(hint: Any) -> str:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(_describe(arg) for arg in args)
    if origin is Literal:
        return "one of " + ", ".join(map(str, args))
    if origin is tuple:
        return f"{_describe(args[0])} or a list of such"
    names = {str: "text", int: "a whole number", float: "a number", bool: "true or false", types.NoneType: "null"}
    return names.get(hint, str(hint))
