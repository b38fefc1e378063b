"""Options from a YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_type_hints

from gdig.config.check import wrong
from gdig.config.config import Config, did_you_mean
from gdig.config.convert import WRONG, convert, describe
from gdig.config.options import TrainOptions
from gdig.errors import ConfigError


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read options from a YAML file whose keys are option names.

    Returns:
        The options of the file, of the types that :class:`gdig.config.config.Config` declares.

    Raises:
        ConfigError: naming the file, the line and the key. The file cannot be read, is not YAML, is no flat mapping,
            gives a key twice, or has an unknown key (with the nearest option) or a value of the wrong type.
    """
    import yaml

    try:
        text = Path(path).read_text(encoding="utf-8")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: the YAML file of options cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: expected YAML, but {' '.join(str(error).split())}") from None
    if node is None:
        return {}
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{path}: expected a mapping of option names to values, got {type(values).__name__}")
    options: dict[str, Any] = {}
    for key_node, _ in node.value:
        where, key = f"{path}:{key_node.start_mark.line + 1}", key_node.value
        if key in options:
            raise ConfigError(f"{where}: key {key!r} is given twice; give it once")
        options[key] = typed_option(where, key, values.get(key))
    return options


def typed_option(where: str, key: str, value: Any) -> Any:
    """Return the value of an option as the type that :class:`gdig.config.config.Config` declares.

    Raises:
        ConfigError: naming `where` and the key: an unknown key (with the nearest option), or another type.
    """
    hints = {**get_type_hints(Config), **get_type_hints(TrainOptions)}
    if key not in hints:
        raise ConfigError(f"{where}: unknown key {key!r}{did_you_mean(key, hints)}")
    converted = convert(value, hints[key])
    if converted is WRONG:
        raise ConfigError(f"{where}: {wrong(key, value, describe(hints[key]))}")
    return converted
