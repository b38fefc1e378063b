"""Options from a YAML file."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, get_type_hints

from gdig.config.config import Config
from gdig.config.convert import WRONG, convert, describe
from gdig.config.options import TrainOptions
from gdig.errors import ConfigError


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read options from a YAML file whose keys are option names.

    Returns:
        The options it gives, of the types that :class:`gdig.config.config.Config` declares.

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
        options[key] = typed_option(where, key, values.get(key))
    return options


def typed_option(where: str, key: str, value: Any) -> Any:
    """Return the value of an option as the type that :class:`gdig.config.config.Config` declares.

    Raises:
        ConfigError: naming `where` and the key: an unknown key (with the nearest option), or another type.
    """
    hints = {**get_type_hints(Config), **get_type_hints(TrainOptions)}
    if key not in hints:
        near = difflib.get_close_matches(key, hints, n=1)
        raise ConfigError(f"{where}: unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
    converted = convert(value, hints[key])
    if converted is WRONG:
        raise ConfigError(f"{where}: {key}: expected {describe(hints[key])}, got {value!r}")
    return converted
