"""Writes the options into gdig.config.typed_options: python -m tests.support.typed_options."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import gdig.config.typed_options as module
from gdig.config.config import Config, Training, Trial

CLASSES = {"Options": Config, "ScoreNetOptions": Training, "CompareOptions": Trial}


def typed(hint: str) -> str:
    """The type of an argument, for the declared type of an option."""
    inner = re.sub(r"^Basic\[(.*)\]$", r"\1", hint)
    inner = inner.replace("tuple[str, ...]", "Texts").replace("tuple[float, ...]", "Sequence[float]")
    return re.sub(r"\bstr\b", "Text", inner).replace("'", '"')


def lines(name: str) -> list[str]:
    """The lines of a class of gdig.config.typed_options."""
    types = {option.name: typed(str(option.type)) for option in fields(CLASSES[name])}
    types |= {option: "Pool" for option in ("candidates", "seeds") if option in types}  # :mod:`gdig.data.in_memory`
    return [f"    {option}: {hint}" for option, hint in types.items()]


def expected(source: str) -> str:
    """The source of the module with the options as they are defined."""
    for name in CLASSES:
        head, body = re.findall(rf'(class {name}\(.*?"""[^"]*"""\n\n)((?:    \w+: [^\n]*\n)*)', source, re.S)[0]
        source = source.replace(head + body, head + "\n".join(lines(name)) + "\n")
    return source


if __name__ == "__main__":
    path = Path(module.__file__)
    path.write_text(expected(path.read_text(encoding="utf-8")), encoding="utf-8")
