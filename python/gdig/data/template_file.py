"""A chat template of the user's own, from a file."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from gdig.data.chat_template import ChatTemplate
from gdig.data.json_list import not_utf8
from gdig.data.sandbox import MOST_SOURCE
from gdig.errors import ConfigError, ModelError

_OPTION = "chat_template_file"


def read_chat_template(path: Path) -> str:
    """Read a file with a Jinja chat template, and compile it within the limits of all templates.

    Raises:
        ConfigError: if the file cannot be read, is blank or too long, or is no template; naming the file and the line.
    """
    try:
        if not path.is_file():
            raise ConfigError(f"{_OPTION}: {path}: no such file; give a file with a Jinja chat template")
        with path.open("rb") as file:
            content = file.read(4 * MOST_SOURCE + 1)  # UTF-8 takes at most four bytes a character
    except OSError as error:
        raise ConfigError(f"{_OPTION}: {path}: cannot be read: {error.strerror or error}") from None
    if len(content) > 4 * MOST_SOURCE:
        raise ConfigError(f"{_OPTION}: {path}: expected a template of at most {MOST_SOURCE:,} characters")
    try:
        source = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{_OPTION}: {path}: {not_utf8(error)}") from None
    if not source.strip():
        raise ConfigError(f"{_OPTION}: {path}: the file is blank, expected a Jinja chat template")
    try:
        ChatTemplate(source, {}, date.min, f"{_OPTION}: {path}")
    except ModelError as error:
        raise ConfigError(str(error)) from None
    return source
