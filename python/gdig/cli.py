"""The command line. Its flags are made from the option groups of :mod:`gdig.options`; nothing is defined twice."""

from __future__ import annotations

import ast
import contextlib
import importlib
import inspect
import json
import os
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, make_dataclass
from functools import cache
from itertools import pairwise
from typing import Annotated, Any, NoReturn, get_type_hints

from gdig import options as o
from gdig.config import Config
from gdig.distributed import Ranks, joined, several
from gdig.errors import ConfigError, GdigError, OtherRankError
from gdig.progress import Progress
from gdig.sources import read_run, read_yaml

# torch and transformers take seconds to import: gdig.pipeline is loaded once the arguments are known to be good.


@dataclass(frozen=True)
class StartOptions:
    """Where options come from that no flag gives: --config, then (without --model) the run in --run-path, then
    --preset."""

    config: str | None = None
    """YAML file of options: names as the flags', with underscores (run_path: runs/a). Flags win over it."""


@dataclass(frozen=True)
class PreviewOptions:
    """What to show."""

    rows: int = 5
    """Candidates to show, from the first on."""


@dataclass(frozen=True)
class MergeOptions:
    """Runs whose sweeps are put together in the directory --run-path: one of them, or a new one."""

    runs: tuple[str, ...] = ()
    """Copies of one fitted run, each swept in part (--sweep-part)."""


@dataclass(frozen=True)
class CompareOptions:
    """What to compare."""

    run: str | None = None
    """Directory of a run; the same as --run-path."""
    methods: tuple[str, ...] = ()
    """Methods to compare, as --method names them. Default: all."""
    json: bool = False
    """Print JSON instead of a table."""


@dataclass(frozen=True)
class Command:
    """A command: what it says of itself, and the options it takes."""

    summary: str
    example: str
    groups: tuple[type, ...]
    """Option groups; of a group in `only`, the options named there."""
    only: dict[type, tuple[str, ...]] = field(default_factory=dict)

    @property
    def option_groups(self) -> tuple[tuple[type, tuple[str, ...]], ...]:
        """The groups with the names of the options taken from each."""
        return tuple((g, self.only.get(g, tuple(f.name for f in fields(g)))) for g in self.groups)


def _groups_up_to(stage: str) -> tuple[type, ...]:
    needed = {g for s in o.STAGES[: o.STAGES.index(stage) + 1] for g in o.STAGE_GROUPS[s]}
    return (*(g for g in o.GROUPS if g in needed), o.RunOptions)


_DATA = "--model models/base --candidates 'pool/*.jsonl' --seeds seeds.jsonl"
COMMANDS = {
    "select": Command(
        "Choose rows of the pool; runs whatever is missing before.",
        f"gdig select {_DATA} --budget 500 --run-path runs/a --output selection.jsonl\n"
        "gdig select --run-path runs/a --method top --output top.parquet   # the same sweep, another choice",
        _groups_up_to("select"),
    ),
    "fit": Command(
        "Fit the curvature and precondition the seeds' gradients.",
        f"gdig fit {_DATA} --run-path runs/a --fit-rows 5000",
        _groups_up_to("fit"),
    ),
    "sweep": Command(
        "Pass over the pool once: influence on every seed, sketch, loss.",
        f"gdig sweep {_DATA} --run-path runs/a --rows-per-shard 16384",
        _groups_up_to("sweep"),
    ),
    "cluster": Command(
        "Group the sketches by k-means.",
        "gdig cluster --run-path runs/a --n-clusters 256   # goes on with the options of the run in runs/a",
        _groups_up_to("cluster"),
    ),
    "compare": Command(
        "Choose by several methods from one sweep, and show the choices side by side.",
        "gdig compare runs/a --budget 500\n"
        "gdig compare runs/a --budget 5% --methods gdig top loss --json > methods.json",
        (CompareOptions, *_groups_up_to("select")),
    ),
    "preview": Command(
        "Show rows as the model will see them, the masked part marked.",
        f"gdig preview {_DATA} --rows 3",
        (PreviewOptions, o.DataOptions, o.ModelOptions, o.RunOptions),
        {o.ModelOptions: ("trust_remote_code",), o.RunOptions: ("run_path", "quiet")},
    ),
    "verify": Command(
        "Read every file of a run and check its sums.",
        "gdig verify --run-path runs/a",
        (o.RunOptions,),
        {o.RunOptions: ("run_path", "quiet")},
    ),
    "merge": Command(
        "Put the shards of a sweep together that several machines have made.",
        "gdig sweep --run-path a --sweep-part 1/2     # on one machine, in a copy of the fitted run\n"
        "gdig sweep --run-path b --sweep-part 2/2     # on another\n"
        "gdig merge a b --run-path whole && gdig select --run-path whole --budget 500",
        (MergeOptions, o.RunOptions),
        {o.RunOptions: ("run_path", "quiet")},
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, 2 for an error that gdig explains, 130 after Ctrl-C."""
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        with joined() as ranks:
            status = _main(args, ranks) if ranks.main else _serve(ranks)
        sys.stdout.flush()
        return status
    except OtherRankError as error:
        return error.status
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader has left (gdig ... | head). Python flushes stdout once more at exit; that must not fail aloud.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (GdigError, OSError) as error:
        if os.environ.get("GDIG_TRACEBACK") == "1":
            import traceback

            traceback.print_exc()
        else:
            print(f"gdig: error: {error}", file=sys.stderr)
        return 2


def run() -> NoReturn:
    """Be the command `gdig`: `main`, and after Ctrl-C an end that nobody has to wait for."""
    status = main()
    if status == 130 or (status and several()):
        # Every file is complete or absent, so nothing is left to do; but the interpreter takes torch and transformers
        # down one object after another, which is 1 to 2 s on a busy machine, and longer where they wait for a rank.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(status)
    sys.exit(status)


def _serve(ranks: Ranks) -> int:
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    importlib.import_module("gdig.pipeline").serve(ranks)
    return 0


def _main(args: list[str], ranks: Ranks) -> int:
    if not args or args[0] in ("-h", "--help", "help"):
        print(_overview())
        return 0 if args else 2
    if args[0] in ("-V", "--version"):
        from importlib.metadata import version

        print(f"gdig {version('gdig')}")
        return 0
    name = args[0]
    if name not in COMMANDS:
        import difflib

        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; expected one of {', '.join(COMMANDS)}"
        raise ConfigError(f"unknown command {name!r}{hint}")
    config, rest = _resolve(name, args[1:])
    progress = Progress(quiet=config.quiet, first=ranks.first)
    if name in ("verify", "merge"):
        config.require("run_path")
    # Bars of other libraries (of loading weights and the like) would stand among gdig's own.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    pipeline = importlib.import_module("gdig.pipeline")
    if name == "preview":
        lines = pipeline.preview(config, rows=rest["rows"], progress=progress)
    elif name == "verify":
        lines = pipeline.verify(config.run_path, progress=progress)
    elif name == "merge":
        lines = pipeline.merge(rest["runs"], config.run_path, progress=progress)
    elif name == "compare":
        found = pipeline.compare(config, rest["methods"], progress=progress)
        lines = [json.dumps(found.as_json(), indent=2)] if rest["json"] else found.lines()
    elif name == "select":
        lines = pipeline.select(config, progress=progress, ranks=ranks).summary
    else:
        getattr(pipeline, name)(config, progress=progress, ranks=ranks)
        lines = [f"{name}: done, in {config.run_path}"]
    if not config.quiet or rest.get("json"):
        for line in lines:
            print(line)
    return 0


def _resolve(name: str, argv: list[str]) -> tuple[Config, dict[str, Any]]:
    """Return the configuration that flags, YAML file, run directory and preset give, and what is no part of it."""
    flags = _parse(name, argv, {})  # also answers --help
    given = read_yaml(flags["config"]) if flags["config"] else {}
    if flags.get("run") is not None:
        if flags["run_path"] not in (None, flags["run"]):
            raise ConfigError(f"run_path: {flags['run_path']!r} and {flags['run']!r} are both given")
        flags["run_path"] = given["run_path"] = flags["run"]
    run_path = flags["run_path"] or given.get("run_path")
    has_model = flags.get("model") or given.get("model")
    stored = read_run(run_path) if run_path and not has_model and name not in ("verify", "merge") else {}
    preset = _parse(name, argv, {**stored, **given}).get("preset", "default")
    if preset != (before := stored.get("preset", "default")):
        stored = {key: value for key, value in stored.items() if key not in o.PRESETS[before]}
        stored.update(o.PRESETS[preset], preset=preset)
    elif not stored:
        stored = dict(o.PRESETS[preset])
    base = {**stored, **given}
    options = {**base, **_parse(name, argv, base)}
    known = {f.name for f in fields(Config)}
    config = Config.build({key: value for key, value in options.items() if key in known})
    return config, {key: value for key, value in options.items() if key not in known}


def _parse(name: str, argv: list[str], defaults: dict[str, Any]) -> dict[str, Any]:
    """Parse a command's flags: option name -> value, with `defaults` in place of the declared defaults."""
    import tyro

    command, parts = COMMANDS[name], []
    for group, names in command.option_groups:
        parts.append((_title(group), _fields(group, names, defaults), inspect.getdoc(group)))
    start = _fields(StartOptions, ("config",), defaults)
    if o.DataOptions in command.groups:
        start += _fields(Config, ("preset",), defaults)
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

    hints, docs = get_type_hints(group), _docs(group)
    members = []
    for member in fields(group):
        if member.name not in names:
            continue
        default = defaults.get(member.name, member.default)
        shows_default = default not in (None, ()) and not isinstance(default, bool)
        argument = tyro.conf.arg(
            help=docs[member.name],
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
def _docs(group: type) -> dict[str, str]:
    """Return the docstrings below the fields of a class, by field name."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(group))).body
    docs = {}
    for statement, after in pairwise(definition.body if isinstance(definition, ast.ClassDef) else ()):
        match statement, after:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                docs[name] = " ".join(text.split())
    return docs


def _title(group: type) -> str:
    """Name a group's heading in the help: "CurvatureOptions" -> "curvature"."""
    name = group.__name__.removesuffix("Options")
    return "randomness" if name == "SeedOfRandomness" else name.lower()


def _overview() -> str:
    commands = "\n".join(f"  {name:<9}{command.summary}" for name, command in COMMANDS.items())
    return f"""usage: gdig COMMAND [OPTIONS]

Select fine-tuning data by gradients: influence for quality, clustered gradient sketches for diversity.

commands:
{commands}

select runs fit, sweep and cluster first where they are missing. A command that was stopped goes on
where it was when it is given again. Several processes share the work of fit, sweep, cluster and select:
torchrun --nproc-per-node N -m gdig COMMAND ...

options:
  -h, --help     this text; gdig COMMAND --help lists the options of a command
  -V, --version  the version

example:
  gdig preview {_DATA}
  gdig select {_DATA} \\
      --budget 10% --run-path runs/a --output selection.jsonl

Results go to stdout, progress to stderr. Exit status: 0 done; 2 an error, explained; 130 interrupted.
GDIG_TRACEBACK=1 shows where an error comes from."""


if __name__ == "__main__":
    run()
