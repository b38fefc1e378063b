"""The command line: one command a start, its result on stdout, an error in one line on stderr."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

from gdig.cli.commands import COMMANDS, Answer, Call, load_api
from gdig.cli.flags import resolve
from gdig.cli.help import command_help, overview
from gdig.cli.stop import end_in_time, exit_status, say_stopped, terminates
from gdig.config.config import did_you_mean
from gdig.control_characters import visible
from gdig.distributed.failure import Terminated
from gdig.distributed.ranks import Ranks
from gdig.distributed.torchrun import is_launched, join_ranks
from gdig.errors import GdigError, OtherRankError, UnknownNameError, code_of
from gdig.progress import Progress


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status.

    The status is 0 where all is done. It is 1 for a run that `verify` calls not sound, 2 for an error that gdig
    explains, 130 after Ctrl-C, and 143 after SIGTERM.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        with terminates(), join_ranks() as ranks:
            status = _main(args, ranks) if ranks.main else _serve(ranks)
        sys.stdout.flush()
        return status
    except OtherRankError as error:
        return error.status
    except KeyboardInterrupt:
        return _stopped(signal.SIGINT)
    except Terminated:
        return _stopped(signal.SIGTERM)
    except BrokenPipeError:
        # The reader ended (gdig ... | head). Python flushes stdout once more at exit, which must not print an error.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (GdigError, OSError) as error:
        if os.environ.get("GDIG_TRACEBACK") == "1":
            import traceback

            traceback.print_exc()
        else:
            print(f"gdig: error: {visible(str(error))} [{code_of(error)}]", file=sys.stderr)
        return 2


def _stopped(number: int) -> int:
    say_stopped(number, sys.stderr)
    return exit_status(number)


def run() -> NoReturn:
    """Be the command `gdig`: call `main`, and end at once after Ctrl-C and SIGTERM."""
    end_in_time()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":  # a name or a row may hold no UTF-8
            stream.reconfigure(errors="backslashreplace")
    status = main()
    if status in (exit_status(signal.SIGINT), exit_status(signal.SIGTERM)) or (status and is_launched()):
        # Every file is complete or absent, so there is nothing to save. An ordinary exit frees torch and transformers
        # object by object, which takes 1 to 2 s on a busy machine, and longer where a rank is waited for.
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(status)
    sys.exit(status)


def _serve(ranks: Ranks) -> int:
    load_api().serve(ranks)
    return 0


def _main(args: list[str], ranks: Ranks) -> int:
    if not args or args[0] in ("-h", "--help", "help"):
        print(overview())
        return 0 if args else 2
    if args[0] in ("-V", "--version"):
        from importlib.metadata import version

        print(f"gdig {version('gdig')}")
        return 0
    name, argv = args[0], args[1:]
    if name not in COMMANDS:
        hint = did_you_mean(name, COMMANDS) or f"; expected one of {', '.join(COMMANDS)}"
        raise UnknownNameError(f"unknown command {name!r}{hint}")
    command = COMMANDS[name]
    if {"-h", "--help", "--help-all"} & set(argv):
        print(command_help(name, command, everything="--help-all" in argv))
        return 0
    config, own = resolve(name, command, argv)
    answer = command.run(Call(config, own, Progress(quiet=config.quiet, first=ranks.first_to_say), ranks))
    if not isinstance(answer, Answer):
        answer = Answer(answer)
    if not config.quiet or own.get("json") or answer.status:
        for line in answer.lines:
            print(line)
    return answer.status


if __name__ == "__main__":
    run()
