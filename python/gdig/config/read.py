"""Options that come from a YAML file or from the record of an earlier run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

from gdig.config.check import wrong
from gdig.config.config import Config, did_you_mean
from gdig.config.convert import WRONG, convert, describe
from gdig.config.options import SelectOptions, TrainOptions
from gdig.errors import ConfigError, RunError

# Options of one start of a run, or of one selection from it. The next start does not inherit them.
_NOT_INHERITED = ("overwrite", "quiet", "run_path", "sweep_part", *(field.name for field in fields(SelectOptions)))


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
        options[key] = _value(where, key, values.get(key))
    return options


def read_run(run_path: str | Path) -> dict[str, Any]:
    """Read the options of the run in a directory; none when the directory holds no run.

    Raises:
        RunError: when RUN/run.json exists but does not hold the options.
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
    hints = {**get_type_hints(Config), **get_type_hints(TrainOptions)}
    if key not in hints:
        raise ConfigError(f"{where}: unknown key {key!r}{did_you_mean(key, hints)}")
    converted = convert(value, hints[key])
    if converted is WRONG:
        raise ConfigError(f"{where}: {wrong(key, value, describe(hints[key]))}")
    return converted
