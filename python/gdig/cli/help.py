"""Help texts: the overview of gdig, and the options of a command by group."""

from __future__ import annotations

import ast
import inspect
import re
import shutil
import sys
import textwrap
import types
from dataclasses import Field, fields
from functools import cache
from itertools import pairwise
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from gdig.cli.commands import COMMANDS, DATA, Command
from gdig.cli.flags import group_type
from gdig.config.options import BasicMark

_COLUMN = 26
"""Column in which the texts of the options begin."""

_METAVARS = {
    "model": "DIR", "tokenizer": "DIR", "run_path": "DIR", "save_model": "DIR", "checkpoints": "DIR...",
    "candidates": "FILE...", "seeds": "FILE...", "output": "FILE", "difficulty": "FILE", "features": "FILE",
    "config": "FILE", "file": "FILE", "html": "FILE", "other": "DIR", "format": "FORMAT",
    "held_out": "FILE", "atlas": "FILE", "selection": "FILE",
    "filter_modules": "REGEX", "budget": "AMOUNT", "sweep_part": "K/N", "methods": "METHOD...",
    "task_field": "NAME", "device": "NAME", "layers": "CHOICE",
    "method": "METHOD", "base_model": "DIR", "row_format": "FORMAT", "prompt_column": "FIELD",
    "completion_column": "FIELD", "conversation_column": "FIELD", "system_column": "FIELD",
    "chat_template_file": "FILE",
}  # fmt: skip


def overview() -> str:
    """Return the help of gdig itself."""
    commands = "\n".join(f"  {name:<11}{command.summary}" for name, command in COMMANDS.items())
    return f"""usage: gdig COMMAND [OPTIONS]

Select fine-tuning data by gradients: influence for quality, clustered gradient sketches for diversity.

commands:
{commands}

A command that was stopped continues when it is given again. Several processes share the work of fit,
sweep, cluster and select: torchrun --nproc-per-node N -m gdig COMMAND ...

options:
  -h, --help     this text; gdig COMMAND --help shows the main options of a command
  -V, --version  the version

example:
  gdig preview {DATA}
  gdig select {DATA} \\
      --budget 10% --run-path runs/a --output selection.jsonl

Results go to stdout, progress to stderr. Exit status: 0 done; 1 verify calls the run not sound; 2 an
error, explained (GDIG_TRACEBACK=1 shows where from); 130 after Ctrl-C; 143 after SIGTERM."""


def command_help(name: str, command: Command, everything: bool) -> str:
    """Return the help of a command: its main options with their effect, or every option with its whole text."""
    width = min(shutil.get_terminal_size((100, 24)).columns, 120)
    sections, positionals, hidden = [], "", 0
    for group in fields(command.options):
        kind = group_type(group)
        shown = [option for option in fields(kind) if everything or option.name in _basic(kind)]
        hidden += len(fields(kind)) - len(shown)
        positionals += "".join(f" {_invocation(kind, option)}" for option in shown if _positional(kind, option))
        if shown:
            about = " ".join((inspect.getdoc(kind) or "").split())
            about = f"{group.name}: {about if everything else _first_sentence(about)}"
            options = [line for option in shown for line in _option(kind, option, everything, width)]
            sections.append([*textwrap.wrap(about, width), *options, ""])
    more = f"gdig {name} --help-all shows {hidden} more option{'s' * (hidden != 1)} and the whole text of each."
    return "\n".join([
        f"usage: gdig {name}{positionals} [OPTIONS]", "", *textwrap.wrap(command.summary, width), "",
        *(line for section in sections for line in section),
        *([] if everything else [more, ""]),
        "example:", textwrap.indent(command.example, "  "),
    ])  # fmt: skip


def docs(group: type) -> dict[str, str]:
    """Return the docstrings below the options of a group, by option name."""
    texts: dict[str, str] = {}
    for base in reversed(group.__mro__):
        if base is not object:
            texts |= _module_docs(base.__module__).get(base.__name__, {})
    return texts


@cache
def _module_docs(module: str) -> dict[str, dict[str, str]]:
    """Class -> field -> docstring below the field, of all classes of a module."""
    texts: dict[str, dict[str, str]] = {}
    for definition in ast.parse(inspect.getsource(sys.modules[module])).body:
        if isinstance(definition, ast.ClassDef):
            own = texts.setdefault(definition.name, {})
            for statement, below in pairwise(definition.body):
                match statement, below:
                    case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                        own[name] = " ".join(text.split())
    return texts


@cache
def _annotations(group: type) -> dict[str, tuple[Any, tuple[Any, ...]]]:
    """Type and marks of each option."""
    hints = get_type_hints(group, include_extras=True)
    return {
        name: (hint.__origin__, hint.__metadata__) if get_origin(hint) is Annotated else (hint, ())
        for name, hint in hints.items()
    }


def _basic(group: type) -> set[str]:
    """Options of a group that a new user needs."""
    return {name for name, (_, marks) in _annotations(group).items() if any(isinstance(m, BasicMark) for m in marks)}


def _positional(group: type, option: Field[Any]) -> bool:
    from tyro.conf import Positional

    return Positional in _annotations(group)[option.name][1]


def _option(group: type, option: Field[Any], everything: bool, width: int) -> list[str]:
    """Lines of one option: how it is given, its effect, its default."""
    text = docs(group)[option.name]
    if not everything:
        text = _first_sentence(text)
    if option.default not in (None, ()) and not isinstance(option.default, bool):
        text += f" (default: {option.default})"
    given = f"  {_invocation(group, option)}"
    lines = textwrap.wrap(text, width - _COLUMN, break_on_hyphens=False, break_long_words=False)
    lines = [" " * _COLUMN + line for line in lines]
    if len(given) <= _COLUMN - 2:
        return [given.ljust(_COLUMN) + lines[0].lstrip(), *lines[1:]]
    return [given, *lines]


def _first_sentence(text: str) -> str:
    return re.split(r"(?<=\.) ", text)[0]


def _invocation(group: type, option: Field[Any]) -> str:
    """How an option is given: "--budget AMOUNT"."""
    hint = _annotations(group)[option.name][0]
    if _positional(group, option):
        return f"{option.name.upper()}..." if get_origin(hint) is tuple else f"[{option.name.upper()}]"
    flag = "--" + option.name.replace("_", "-")
    if hint is bool:
        return f"{flag}, --no-{flag[2:]}"
    return f"{flag} {_METAVARS.get(option.name) or _metavar(hint)}"


def _metavar(hint: Any) -> str:
    """What values a type has: "INT|all"."""
    if get_origin(hint) in (Union, types.UnionType):
        return "|".join(_metavar(arg) for arg in get_args(hint) if arg is not types.NoneType)
    if get_origin(hint) is Literal:
        return "|".join(map(str, get_args(hint)))
    if get_origin(hint) is tuple:
        return f"{_metavar(get_args(hint)[0])}..."
    return {str: "TEXT", int: "INT", float: "FLOAT"}[hint]
