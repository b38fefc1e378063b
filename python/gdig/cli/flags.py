"""Flags made from option groups: names, types and defaults from the fields, help from their docstrings."""

from __future__ import annotations

import ast
import inspect
import textwrap
from dataclasses import field, fields, make_dataclass
from functools import cache
from itertools import pairwise
from typing import Annotated, Any, get_type_hints

from gdig.cli.commands import COMMANDS, StartOptions
from gdig.config import options as o
from gdig.config.config import Config


def parse(name: str, argv: list[str], defaults: dict[str, Any]) -> dict[str, Any]:
    """Parse a command's flags: option name -> value, with `defaults` in place of the declared defaults."""
    import tyro

    command, parts = COMMANDS[name], []
    for group, names in command.option_groups:
        parts.append((_title(group), _fields(group, names, defaults), inspect.getdoc(group)))
    start = _fields(StartOptions, ("config",), defaults)
    if o.DataOptions in command.groups:
        start += _fields(Config, ("preset",), defaults)
    if {o.DataOptions, o.TrainOptions} & set(command.groups):
        parts.append((_title(StartOptions), start, inspect.getdoc(StartOptions)))
    members = []
    for title, members_of_part, doc in parts:
        part: Any = make_dataclass(title, members_of_part, frozen=True)
        part.__doc__ = doc
        members.append((title, part, field(default_factory=part)))
    parsed: Any = tyro.cli(
        make_dataclass(name, members),
        prog=f"gdig {name}",
        description=f"{command.summary}\n\nExample:\n{textwrap.indent(command.example, '  ')}",
        args=argv,
        config=(tyro.conf.OmitArgPrefixes,),
    )
    values = {"config": None, "run_path": None}
    for title, _, _ in parts:
        values.update(vars(getattr(parsed, title)))
    return values


def _fields(group: type, names: tuple[str, ...], defaults: dict[str, Any]) -> list[Any]:
    """Return the named options of a group as members of a dataclass that tyro reads, their docstrings as help."""
    import tyro

    hints, texts = get_type_hints(group), docs(group)
    members = []
    for member in fields(group):
        if member.name not in names:
            continue
        default = defaults.get(member.name, member.default)
        shows_default = default not in (None, ()) and not isinstance(default, bool)
        argument = tyro.conf.arg(
            help=texts[member.name],
            metavar=_METAVARS.get(member.name),
            # None stands for what the help text says after "Default:".
            help_behavior_hint=f"(default: {default})" if shows_default else " ",
        )
        hint: Any = Annotated[hints[member.name], argument]
        if member.name in _POSITIONAL:
            positional: Any = tyro.conf.Positional
            hint = positional[hint]
        members.append((member.name, hint, default))
    return members


_POSITIONAL = ("runs", "run")
_METAVARS = {
    "runs": "RUN...",
    "run": "RUN",
    "methods": "METHOD...",
    "model": "DIR",
    "tokenizer": "DIR",
    "run_path": "DIR",
    "sweep_part": "K/N",
    "candidates": "FILE...",
    "checkpoints": "DIR...",
    "checkpoint_weights": "FLOAT...",
    "seeds": "FILE...",
    "output": "FILE",
    "difficulty": "FILE",
    "features": "FILE",
    "save_model": "DIR",
    "config": "FILE",
    "filter_modules": "REGEX",
    "prompt_template": "TEXT",
    "target_template": "TEXT",
    "budget": "AMOUNT",
    "max_length": "INT",
    "n_clusters": "INT",
    "train_rows": "INT|all",
    "threads": "INT",
}


@cache
def docs(group: type) -> dict[str, str]:
    """Return the docstrings below the fields of a class, by field name."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(group))).body
    found = {}
    for statement, after in pairwise(definition.body if isinstance(definition, ast.ClassDef) else ()):
        match statement, after:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = " ".join(text.split())
    return found


def _title(group: type) -> str:
    """Name a group's heading in the help: "CurvatureOptions" -> "curvature"."""
    name = group.__name__.removesuffix("Options")
    return "randomness" if name == "RandomOptions" else name.lower()
