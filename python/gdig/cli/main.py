"""The command line. Its flags are made from the option groups of :mod:`gdig.config.options`."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, NoReturn

from gdig.cli.commands import COMMANDS, DATA
from gdig.cli.flags import parse
from gdig.config import options as o
from gdig.config.config import Config
from gdig.config.read import read_yaml
from gdig.distributed.ranks import Ranks
from gdig.distributed.torchrun import is_launched, join_ranks
from gdig.errors import ConfigError, GdigError, OtherRankError
from gdig.progress import Progress
from gdig.run.stored_options import read_stored_options

# torch and transformers take seconds to import: gdig.api is loaded once the arguments are known to be good.


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status: 0, 2 for an error that gdig explains, 130 after Ctrl-C."""
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        with join_ranks() as ranks:
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
    if status == 130 or (status and is_launched()):
        # Every file is complete or absent, so nothing is left to do; but the interpreter takes torch and transformers
        # down one object after another, which is 1 to 2 s on a busy machine, and longer where they wait for a rank.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(status)
    sys.exit(status)


def _serve(ranks: Ranks) -> int:
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    importlib.import_module("gdig.api").serve(ranks)
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
    progress = Progress(quiet=config.quiet, first=ranks.first_to_say)
    if name in ("verify", "merge"):
        config.require("run_path")
    # Bars of other libraries (of loading weights and the like) would stand among gdig's own.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    pipeline = importlib.import_module("gdig.api")
    if name == "preview":
        lines = pipeline.preview(config, rows=rest["rows"], progress=progress)
    elif name == "verify":
        lines = pipeline.verify(config.run_path, progress=progress)
    elif name == "merge":
        lines = pipeline.merge(rest["runs"], config.run_path, progress=progress)
    elif name == "compare":
        found = pipeline.compare(config, rest["methods"], progress=progress)
        lines = [json.dumps(found.as_json(), indent=2)] if rest["json"] else found.lines()
    elif name == "score-net":
        names = {f.name for f in fields(o.TrainOptions)}
        file = pipeline.score_net(config, progress=progress, **{k: v for k, v in rest.items() if k in names})
        choose = f"gdig select --run-path {config.run_path} --method self-filter --difficulty {file}"
        lines = [f"difficulties: {file}", f"to choose by them: {choose}"]
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
    flags = parse(name, argv, {})  # also answers --help
    given = read_yaml(flags["config"]) if flags["config"] else {}
    if flags.get("run") is not None:
        if flags["run_path"] not in (None, flags["run"]):
            raise ConfigError(f"run_path: {flags['run_path']!r} and {flags['run']!r} are both given")
        flags["run_path"] = given["run_path"] = flags["run"]
    run_path = flags["run_path"] or given.get("run_path")
    has_model = flags.get("model") or given.get("model")
    stored = read_stored_options(run_path) if run_path and not has_model and name not in ("verify", "merge") else {}
    preset = parse(name, argv, {**stored, **given}).get("preset", stored.get("preset", "default"))
    if preset != (before := stored.get("preset", "default")):
        stored = {key: value for key, value in stored.items() if key not in o.PRESETS[before]}
        stored.update(o.PRESETS[preset], preset=preset)
    elif not stored:
        stored = dict(o.PRESETS[preset])
    base = {**stored, **given}
    options = {**base, **parse(name, argv, base)}
    known = {f.name for f in fields(Config)}
    config = Config.build({key: value for key, value in options.items() if key in known})
    return config, {key: value for key, value in options.items() if key not in known}


def _overview() -> str:
    commands = "\n".join(f"  {name:<11}{command.summary}" for name, command in COMMANDS.items())
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
  gdig preview {DATA}
  gdig select {DATA} \\
      --budget 10% --run-path runs/a --output selection.jsonl

Results go to stdout, progress to stderr. Exit status: 0 done; 2 an error, explained; 130 interrupted.
GDIG_TRACEBACK=1 shows where an error comes from."""


if __name__ == "__main__":
    run()
