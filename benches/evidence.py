"""All evidence that the scores are right and the selection helps: each experiment in a process of its own.

    python benches/evidence.py           # what `make evidence` runs; records into benches/record/, pictures into docs/
    python benches/evidence.py --quick   # what `make evidence-quick` runs: small sizes, nothing that is kept is changed
    python benches/evidence.py generated # one experiment

Each keeps its finished steps below build/, so that an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

BENCHES = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Experiment:
    """A program of this folder. quick: its flags for a short run, None if it has no such run."""

    script: str
    flags: tuple[str, ...] = ()
    quick: tuple[str, ...] | None = ("--quick",)


EXPERIMENTS = {
    "generated": Experiment("evidence_generated.py"),
    "zh-en": Experiment("evidence_zh_en.py", ("--small",), None),
    "plots": Experiment("evidence_plots.py"),
}


def main() -> None:
    """Run the experiments asked for, one after the other; the status is 1 if one of them failed."""
    arguments = _arguments()
    status = 0
    for name in arguments.experiments or EXPERIMENTS:
        one = EXPERIMENTS[name]
        if arguments.quick and one.quick is None:
            print(f"{name}: has no quick run", flush=True)
            continue
        flags = one.quick if arguments.quick and one.quick is not None else one.flags
        start = time.monotonic()
        print(f"{name}: benches/{one.script} {' '.join(flags)}", flush=True)
        failed = subprocess.run([sys.executable, str(BENCHES / one.script), *flags]).returncode
        print(f"{name}: {f'failed ({failed})' if failed else 'done'}, {time.monotonic() - start:.0f} s", flush=True)
        status = status or min(1, abs(failed))
    sys.exit(status)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    known = ", ".join(EXPERIMENTS)
    parser.add_argument("experiments", nargs="*", metavar="EXPERIMENT", help=f"of {known} (default: all)")
    parser.add_argument("--quick", action="store_true", help="small sizes, in three minutes together")
    arguments = parser.parse_args()
    if unknown := set(arguments.experiments) - EXPERIMENTS.keys():
        parser.error(f"expected some of {known}, got {', '.join(sorted(unknown))}")
    return arguments


if __name__ == "__main__":
    main()
