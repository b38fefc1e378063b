"""Flags to options: what a command's arguments give, and the configuration that they make with file, run and preset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import Field, fields
from typing import Any

from gdig.cli.commands import Command
from gdig.config.config import Config, did_you_mean
from gdig.config.read import read_yaml
from gdig.errors import ConfigError, UnknownNameError


def parse(name: str, command: Command, argv: Sequence[str], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Parse a command's flags: option name -> value, with `defaults` in place of the declared defaults.

    Raises:
        UnknownNameError: for a flag that the command does not have.
        ConfigError: for a value that tyro cannot read; tyro has printed why on stderr.
    """
    import tyro

    groups = {group.name: group_type(group) for group in fields(command.options)}
    start = {
        name: kind(**{option.name: defaults[option.name] for option in fields(kind) if option.name in defaults})
        for name, kind in groups.items()
    }
    # Every option has one name, whatever its group. Help texts come from gdig.cli.help; tyro need not look for them.
    markers = (tyro.conf.OmitArgPrefixes, tyro.conf.HelptextFromCommentsOff)
    _require_known_flags(name, argv, {option.name for kind in groups.values() for option in fields(kind)})
    prog, default = f"gdig {name}", command.options(**start)
    try:
        parsed = tyro.cli(command.options, prog=prog, args=argv, default=default, config=markers)
    except SystemExit:
        raise ConfigError(f"{prog}: the arguments cannot be read, as said above; {prog} --help-all has them") from None
    return {key: value for group in groups for key, value in vars(getattr(parsed, group)).items()}


def _require_known_flags(command: str, argv: Sequence[str], names: set[str]) -> None:
    flags = {f"--{name.replace('_', '-')}" for name in names}
    for word in argv[: argv.index("--")] if "--" in argv else argv:  # what is behind it are no flags
        flag = word.partition("=")[0].replace("_", "-")
        if flag.startswith("--") and not {flag, flag.replace("--no-", "--", 1)} & flags:
            hint = did_you_mean(flag, flags) or f"; gdig {command} --help-all has the flags"
            raise UnknownNameError(f"unknown flag {word.partition('=')[0]!r} of gdig {command}{hint}")


def group_type(group: Field[Any]) -> type:
    """Return the class of a group of options: a field of a command's dataclass."""
    return type(group.default)


def resolve(name: str, command: Command, argv: Sequence[str]) -> tuple[Config, dict[str, Any]]:
    """Join what flags, YAML file, run directory and preset give; each wins over those after it.

    Returns:
        The configuration of the run, and the command's own options by name.

    Raises:
        GdigError: when the file or the run cannot be read, or a value cannot be used.
    """
    flags = parse(name, command, argv, {})
    given = read_yaml(flags["config"]) if flags.get("config") else {}
    if flags.get("run") is not None:
        if flags["run_path"] not in (None, flags["run"]):
            expected = f"{flags['run']!r}, because RUN names that directory; give only one of the two"
            raise ConfigError(f"run_path={flags['run_path']!r}: expected {expected}")
        flags["run_path"] = given["run_path"] = flags["run"]
    # Here, since the overview of the commands needs no run.
    from gdig.run.stored_options import read_stored_options, with_preset

    run_path = flags["run_path"] or given.get("run_path")
    has_model = flags.get("model") or given.get("model")
    trusts = bool(flags.get("trust_remote_code") or given.get("trust_remote_code"))
    stored = {}
    if run_path and command.continues and (trusts or not has_model):
        stored = read_stored_options(run_path, trust_remote_code=trusts, has_model=bool(has_model))
    # Parsing takes most of a start, so nothing is parsed twice with the same defaults.
    defaults = {**stored, **given}
    parsed = parse(name, command, argv, defaults) if defaults else flags
    base = {**with_preset(stored, parsed.get("preset", stored.get("preset", "default"))), **given}
    if base != defaults:
        parsed = parse(name, command, argv, base)
    options = {**base, **parsed}
    names = {option.name for option in fields(Config)}
    config = Config.build({key: value for key, value in options.items() if key in names})
    return config, {key: value for key, value in options.items() if key not in names}
