"""Options from a YAML file."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from gdig.config.check import wrong
from gdig.config.config import Config, did_you_mean
from gdig.config.convert import WRONG, convert, describe
from gdig.config.options import TrainOptions
from gdig.errors import ConfigError, UnknownNameError

_MOST_NESTED, _MOST_VALUES = 5, 100_000
"""How deep the values of a file lie at most, and how many there are."""
_MOST_TEXT, _MOST_BRACKETS = 1 << 20, 50
"""The longest file, in characters, and the most brackets that are open at a time. The time that the parser takes grows
with the square of the brackets."""


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read options from a YAML file whose keys are option names.

    Returns:
        The options of the file, of the types that :class:`gdig.config.config.Config` declares.

    Raises:
        ConfigError: naming the file, the line and the key. The file cannot be read, is not YAML or is no flat mapping.
            Or it gives a key twice, or has an unknown key (with the nearest option) or a value of the wrong type.
    """
    import yaml

    node, values = load_yaml(Path(path), "options", "a flat mapping of option names to values")
    if node is None:
        return {}
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{path}: expected a mapping of option names to values, got {type(values).__name__}")
    options: dict[str, Any] = {}
    for key_node, _ in node.value:
        where, key = f"{path}:{key_node.start_mark.line + 1}", key_node.value
        if not isinstance(key_node, yaml.ScalarNode):
            raise ConfigError(f"{where}: expected the name of an option as the key, got a list or a mapping")
        if key in options:
            raise ConfigError(f"{where}: key {key!r} is given twice; give it once")
        options[key] = typed_option(where, key, values.get(key))
    return options


def load_yaml(path: Path, what: str, expected: str) -> tuple[Any, Any]:
    """Read a YAML file whose values lie at most five deep, and return its nodes and its values.

    Args:
        path: the file.
        what: what it is a file of, for messages.
        expected: what it is to hold, for messages.

    Raises:
        ConfigError: if the file cannot be read, is not YAML, is too long, or holds values within values.
    """
    import yaml

    if not path.is_file():  # opening a pipe would wait for its writer
        raise ConfigError(f"{path}: the YAML file of {what} cannot be read: expected a file, found none")
    try:
        with path.open("rb") as file:
            content = file.read(4 * _MOST_TEXT + 1)  # UTF-8 takes at most four bytes a character
        text = content.decode("utf-8")
        if len(text) > _MOST_TEXT or _brackets(text) > _MOST_BRACKETS:
            raise ConfigError(f"{path}: expected {expected}, got values within values")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        _refuse_nested(node, path, expected)
        return node, yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: the YAML file of {what} cannot be read: {error}") from None
    except (yaml.YAMLError, ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ConfigError(f"{path}: expected YAML, but {' '.join(str(error).split())}; expected {expected}") from None


def _brackets(text: str) -> int:
    """The most brackets that are open at a time, also those in quotes."""
    opened = most = 0
    for character in text:
        if character in "[{":
            opened += 1
            most = max(most, opened)
        elif character in "]}":
            opened -= 1
    return most


def _refuse_nested(node: Any, path: Path, expected: str) -> None:
    """Raise ConfigError if values lie deeper than options do, or are too many: aliases can nest without an end."""
    import yaml

    level, depth, seen = [node], 0, 0
    while level and node is not None:
        depth, seen = depth + 1, seen + len(level)
        if depth > _MOST_NESTED or seen > _MOST_VALUES:
            raise ConfigError(f"{path}: expected {expected}, got values within values")
        collections = [item for item in level if isinstance(item, yaml.CollectionNode)]
        children = (child for item in collections for child in item.value)
        level = [leaf for child in children for leaf in (child if isinstance(child, tuple) else (child,))]


@cache
def _hints() -> dict[str, Any]:
    """Name and type of every option that a file may hold."""
    return {**get_type_hints(Config), **get_type_hints(TrainOptions)}


def typed_option(where: str, key: str, value: Any) -> Any:
    """Return the value of an option as the type that :class:`gdig.config.config.Config` declares.

    Raises:
        ConfigError: naming `where` and the key: an unknown key (with the nearest option), or another type.
    """
    hints = _hints()
    if key not in hints:
        raise UnknownNameError(f"{where}: unknown key {key!r}{did_you_mean(key, hints)}")
    converted = convert(value, hints[key])
    if converted is WRONG:
        raise ConfigError(f"{where}: {wrong(key, value, describe(hints[key]))}")
    return converted
