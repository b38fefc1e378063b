"""The sweep and the fit on the CPU beside a plain forward and backward of the same Hugging Face model, in one run.

    python -m benches.sweep                                # every size; writes benches/record/sweep.json
    python -m benches.sweep --sizes 100m --rounds 3        # its part of the record alone is replaced
    python -m benches.sweep --quick                        # a toy, under a minute; nothing is recorded
    python -m benches.sweep --sizes small --profile        # where the time goes, by operator and shape

The passes of a round run one after another in one process, because machines drift. A ratio is the median over rounds
of the ratio inside a round. Memory is measured in a process of its own for each pass: the high-water mark of the
resident set, above what was resident before the pass. Tokens per second count real tokens, not pads. Examples have
random tokens. Their lengths are drawn from the pairs in --data, or generated like them. Other libraries run where they
are installed (`pip install 'gdig[peers]'`); sweep_parts/library_passes.py describes their passes.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from benches.libraries.common import AbsentError, versions
from benches.shared.machine import ROOT, machine, provenance
from benches.shared.memory import resident, watch
from benches.sweep_parts import gdig_passes, library_passes
from benches.sweep_parts.operator_trace import profile
from benches.sweep_parts.plain_passes import file_order, padding, rectangles
from benches.sweep_parts.random_examples import SIZES, make_lengths, read_lengths
from benches.sweep_parts.sweep_tables import against, difference, tables, targets

RECORD = ROOT / "benches" / "record" / "sweep.json"
WARM_UP = 8  # examples passed before the clock runs

PLAIN = ("plain, file order", "plain, sorted")
PASSES: dict[str, Callable[[gdig_passes.Case], gdig_passes.Pass]] = {
    "sketch": gdig_passes.sketch,
    "plain, file order": gdig_passes.plain_file_order,
    "scores at 0.99": gdig_passes.scores_energy,
    "plain, sorted": gdig_passes.plain_sorted,
    "scores, exact": gdig_passes.scores_full,
    "256 seeds, third blocks": gdig_passes.scores_many,
    "checkpoint, adapter": gdig_passes.checkpoint_adapter,
    "checkpoint, whole": gdig_passes.checkpoint_whole,
    "fit": gdig_passes.fit,
    "bergson, scores": library_passes.bergson_scores,
    "kronfluence, scores": library_passes.kronfluence_scores,
    "loop, scores": library_passes.loop,
    "bergson, fit": library_passes.bergson_fit,
    "kronfluence, fit": library_passes.kronfluence_fit,
}
"""In the order in which a round runs them: the plain passes stand among those of gdig."""

LARGE = {*PLAIN, "sketch", "256 seeds, third blocks"}
"""What a model of 100M parameters runs by default. The other passes suit small models, where eigenvectors cost little,
and so do the seeds' gradients, which the other libraries hold whole."""

PEERS = {"bergson, scores", "kronfluence, scores", "loop, scores", "bergson, fit", "kronfluence, fit"}
EXACT = "scores, exact"
SCORES = {"scores at 0.99", "bergson, scores", "kronfluence, scores", "loop, scores"}
"""The passes whose scores are compared with those of EXACT, on the rows of the warm-up."""

QUICK_MEMORY = {"sketch"}
"""The passes whose memory a quick run measures; each costs a process."""


def main() -> None:
    """Measure, print and record."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)  # for the processes that this process starts
    if arguments.memory_of:  # started by this program, to measure the memory of one pass
        print(json.dumps(_memory_of(arguments, arguments.sizes[0], arguments.memory_of)))
        return
    if arguments.profile:
        for name in arguments.sizes:
            case = _case(arguments, name)
            for pass_name in _passes(arguments, name):
                trace = profile(PASSES[pass_name](case), case.examples, case.size.dimensions, WARM_UP)
                print(f"\n{name}, {pass_name}: {trace}", flush=True)
        return
    record = {"bench": "sweep", "machine": machine() | {"threads": arguments.threads}, **provenance(ROOT)}
    lengths = "generated" if arguments.lengths is None else "those of real pairs"
    record |= {"lengths": lengths, "sizes": {}}
    out = arguments.record or (None if arguments.quick else RECORD)
    for name in arguments.sizes:
        record["sizes"][name] = measure(arguments, name)
        print(f"\n{tables(name, record['sizes'][name])}", flush=True)
        if out is not None:
            _write(out, record)
            print(f"\nrecorded in {out}")


def measure(arguments: argparse.Namespace, name: str) -> dict[str, Any]:
    """The figures of one size."""
    case = _case(arguments, name)
    size, examples = case.size, case.examples
    ready: dict[str, gdig_passes.Pass] = {}
    absent: dict[str, str] = {}
    first: dict[str, Any] = {}
    for pass_name in _passes(arguments, name):
        try:
            ready[pass_name] = PASSES[pass_name](case)
        except AbsentError as error:
            absent[pass_name] = str(error)
            continue
        first[pass_name] = ready[pass_name](examples[:WARM_UP])
    seconds: dict[str, list[float]] = {pass_name: [] for pass_name in ready}
    cpu: dict[str, list[float]] = {pass_name: [] for pass_name in ready}
    begun = time.perf_counter()
    for number in range(arguments.rounds):
        if (
            number
            and arguments.minutes
            and time.perf_counter() - begun > 60 * arguments.minutes * number / (number + 1)
        ):
            break  # another round does not fit
        for pass_name, run in ready.items():
            begin, used = time.perf_counter(), time.process_time()
            run(examples)
            seconds[pass_name].append(time.perf_counter() - begin)
            cpu[pass_name].append(time.process_time() - used)
        last = ", ".join(
            f"{pass_name} {times[-1]:.2f} ({cpu[pass_name][-1]:.2f})" for pass_name, times in seconds.items()
        )
        print(f"{name}, round {number + 1}/{arguments.rounds}, seconds (of CPU): {last}", flush=True)
    tokens = sum(len(example) for example in examples)
    passes = {
        pass_name: {
            "seconds": {
                "median": statistics.median(times),
                "all": times,
                "of_the_cpu": statistics.median(cpu[pass_name]),
            },
            "tokens_per_second": tokens / statistics.median(times),
            "against_file_order": against(times, seconds[PLAIN[0]]),
            "against_sorted": against(times, seconds[PLAIN[1]]),
            "cpu_against_file_order": against(cpu[pass_name], cpu[PLAIN[0]]),
            "cpu_against_sorted": against(cpu[pass_name], cpu[PLAIN[1]]),
        }
        for pass_name, times in seconds.items()
    }
    for pass_name in SCORES & passes.keys() if EXACT in passes else ():
        passes[pass_name]["against_exact"] = difference(
            gdig_passes.scores_of(first[pass_name]), gdig_passes.scores_of(first[EXACT])
        )
    if not arguments.no_memory:
        for pass_name in [pass_name for pass_name in ready if name != "quick" or pass_name in QUICK_MEMORY]:
            passes[pass_name]["memory"] = _in_its_own_process(arguments, name, pass_name)
    return {
        "measured": {
            **provenance(ROOT),
            "peers": versions(),
            "threads": arguments.threads,
            "load": os.getloadavg()[0],
        },
        "model": asdict(size) | {"parameters": sum(p.numel() for p in case.trainable.parameters())},
        "examples": len(examples),
        "tokens": tokens,
        "pads": {
            "file order": padding(file_order(examples), examples),
            "sorted": padding(rectangles(examples, size.token_batch_size), examples),
        },
        "passes": passes,
        "absent": absent,
        "targets": targets(name, passes),
    }


def _case(arguments: argparse.Namespace, name: str) -> gdig_passes.Case:
    size = SIZES[name]
    if arguments.examples is not None:
        size = replace(size, examples=arguments.examples)
    return gdig_passes.Case(size, make_lengths(4_000) if arguments.lengths is None else arguments.lengths)


def _passes(arguments: argparse.Namespace, name: str) -> Sequence[str]:
    if arguments.passes:
        return [pass_name for pass_name in PASSES if pass_name in arguments.passes]
    if name == "100m":
        return [pass_name for pass_name in PASSES if pass_name in LARGE]
    return [pass_name for pass_name in PASSES if pass_name not in PEERS or not arguments.profile]


def _memory_of(arguments: argparse.Namespace, name: str, pass_name: str) -> dict[str, float]:
    case = _case(arguments, name)
    run = PASSES[pass_name](case)
    run(case.examples[:1])
    before = resident()
    with watch() as peak:
        run(case.examples)
    return {"ready_mib": before / 2**20, "peak_mib": peak.bytes / 2**20}


def _in_its_own_process(arguments: argparse.Namespace, name: str, pass_name: str) -> dict[str, float]:
    command = [
        sys.executable,
        "-m",
        "benches.sweep",
        "--sizes",
        name,
        "--memory-of",
        pass_name,
        "--threads",
        str(arguments.threads),
    ]
    command += ["--data", str(arguments.data)]
    command += [] if arguments.examples is None else ["--examples", str(arguments.examples)]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(result.stdout.splitlines()[-1])


def _write(path: Path, record: dict[str, Any]) -> None:
    """Write the record. Sizes that this run did not measure keep their figures and their commit."""
    before = json.loads(path.read_text(encoding="utf-8"))["sizes"] if path.is_file() else {}
    sizes = {**before, **record["sizes"]}
    path.parent.mkdir(parents=True, exist_ok=True)
    ordered = {name: sizes[name] for name in SIZES if name in sizes}
    path.write_text(json.dumps({**record, "sizes": ordered}, indent=1) + "\n", encoding="utf-8")


def _arguments() -> argparse.Namespace:
    default = os.environ.get("GDIG_ZH_EN") or ROOT.parent / "shared" / "data" / "zh-en.json"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=list(SIZES), default=["tiny", "small", "100m"])
    parser.add_argument("--passes", nargs="+", choices=list(PASSES), help="default: the passes that suit the size")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--minutes", type=float, help="time for the rounds of a size; a round that does not fit is not begun"
    )
    parser.add_argument("--examples", type=int, help="examples of the pool (default: by size)")
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="threads of the CPU (default: %(default)s)"
    )
    parser.add_argument("--data", type=Path, default=Path(default), help="pairs (default: $GDIG_ZH_EN, %(default)s)")
    parser.add_argument("--quick", action="store_true", help="measure a toy model in two rounds; record nothing")
    parser.add_argument(
        "--no-memory", action="store_true", help="do not measure memory, which costs a process for each pass"
    )
    parser.add_argument("--profile", action="store_true", help="print where the time goes, instead of measuring")
    parser.add_argument(
        "--record", type=Path, help="JSON file of the record (default: benches/record/sweep.json; with --quick: none)"
    )
    parser.add_argument("--memory-of", choices=list(PASSES), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.sizes, arguments.rounds = ["quick"], 2
    arguments.lengths = read_lengths(arguments.data) if arguments.data.is_file() else None
    if arguments.passes and not arguments.profile:
        arguments.passes = {*arguments.passes, *PLAIN}
    return arguments


if __name__ == "__main__":
    main()
