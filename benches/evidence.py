"""All evidence that the scores are right and the selection helps: each experiment a process, side by side.

    python -m benches.evidence           # what `make evidence` runs; records into benches/record/, pictures into docs/
    python -m benches.evidence --quick   # what `make evidence-quick` runs: small sizes, nothing that is kept is changed
    python -m benches.evidence generated # one experiment

Each experiment keeps its finished steps below build/, so that an interrupted run continues where it stopped.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass


@dataclass(frozen=True)
class Experiment:
    """A program, run as `python -m module`.

    quick: its flags for a short run, None if it has no short run. last: it needs the records of the others.
    """

    module: str
    flags: tuple[str, ...] = ()
    quick: tuple[str, ...] | None = ("--quick",)
    last: bool = False


EXPERIMENTS = {
    "generated": Experiment("benches.evidence_generated"),
    "zh-en": Experiment("benches.evidence_zh_en", ("--small", "--threads", "1"), None),
    "plots": Experiment("benches.evidence_plots", last=True),
}


def main() -> None:
    """Run the experiments, those that need others' records last. The status is 1 if an experiment failed."""
    arguments = _arguments()
    asked = arguments.experiments or list(EXPERIMENTS)
    side_by_side = [name for name in asked if not EXPERIMENTS[name].last]
    with ThreadPoolExecutor(min(os.cpu_count() or 1, len(EXPERIMENTS))) as pool:  # of processes, a core each
        failed = list(pool.map(lambda name: run(name, arguments.quick), side_by_side))
    failed += [run(name, arguments.quick) for name in asked if EXPERIMENTS[name].last]
    sys.exit(any(failed))


def run(name: str, quick: bool) -> bool:
    """Run an experiment and print its seconds, by the clock and of the CPU. Returns whether it failed."""
    experiment = EXPERIMENTS[name]
    if quick and experiment.quick is None:
        print(f"{name}: has no quick run", flush=True)
        return False
    flags = experiment.quick if quick and experiment.quick is not None else experiment.flags
    print(f"{name}: python -m {experiment.module} {' '.join(flags)}", flush=True)
    start = time.monotonic()
    process = subprocess.Popen([sys.executable, "-m", experiment.module, *flags])
    _, status, used = os.wait4(process.pid, 0)
    seconds, cpu = time.monotonic() - start, used.ru_utime + used.ru_stime
    outcome = f"failed ({os.waitstatus_to_exitcode(status)})" if status else "done"
    print(f"{name}: {outcome}, {seconds:.0f} s, {cpu:.0f} s of the processor", flush=True)
    return status != 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = ", ".join(EXPERIMENTS)
    parser.add_argument(
        "experiments", nargs="*", metavar="EXPERIMENT", help=f"experiments to run, of {names} (default: all)"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes, in three minutes together")
    arguments = parser.parse_args()
    if unknown := set(arguments.experiments) - EXPERIMENTS.keys():
        parser.error(f"{', '.join(sorted(unknown))}: expected experiments of {names}")
    return arguments


if __name__ == "__main__":
    main()
