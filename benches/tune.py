"""Tunes the Triton kernels, offline: the winners become kernels/pinned.py, and gdig never tunes while it runs.

    python -m benches.tune                 # on a GPU: compile the candidates, time those that fit, write the winners
    python -m benches.tune --dry-run       # anywhere: compile for sm_80, sm_90 and sm_100, say what each takes

A candidate that spills registers or needs more shared memory than there is, is not timed.
Where gdig is not installed, set PYTHONPATH=python; the built extension lies there.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PINNED = ROOT / "kernels" / "pinned.py"
HEAD = '''"""The pinned configurations: (operation, kind, generation) -> constants; benches/tune.py writes this file."""

# ruff: noqa: E501
# fmt: off
PINNED: dict[tuple[str, str, int], dict[str, int]] = {
'''
# A new winner has to be better by this much: the clock is not exact, and a change of order changes the last bits.
GAIN = 1.03


Key = tuple[str, str]
Pinned = dict[tuple[str, str, int], dict[str, int]]


def table(pinned: Pinned) -> str:
    """The text of kernels/pinned.py."""
    lines = [
        f'    ("{operation}", "{kind}", {generation}): {json.dumps(config)},\n'
        for (operation, kind, generation), config in sorted(pinned.items())
    ]
    return HEAD + "".join(lines) + "}\n"


def survivors(
    pool: Executor, modules: dict[Key, Any], numbers: dict[Key, list[int]], archs: Sequence[int], most: int
) -> dict[tuple[Key, int], list[dict[str, int]]]:
    """By key and arch, the candidates that compile, fit and do not spill. Prints every candidate."""
    from benches.gpu_parts.candidates import compiled

    jobs: dict[Any, Any] = {}
    for key, module in modules.items():
        for arch, config in product(archs, module.candidates(*key)[:most]):
            # How many programs run at a time changes no code: such candidates are compiled once.
            same = key, arch, tuple((name, value) for name, value in config.items() if name != "programs")
            if same not in jobs:
                jobs[same] = pool.submit(compiled, numbers[key], key, config, arch), []
            jobs[same][1].append(config)
    good: dict[tuple[Key, int], list[dict[str, int]]] = defaultdict(list)
    for (key, arch, shown), (job, configs) in jobs.items():
        faults, reports = job.result()
        verdict = f"DROPPED: {'; '.join(faults)}" if faults else "; ".join(map(_takes, reports))
        print(f"sm_{arch} {' '.join(key)} {' '.join(f'{n}={v}' for n, v in shown)}: {verdict}", flush=True)
        if not faults:
            good[key, arch].extend(configs)
    return good


def _takes(report: dict[str, Any]) -> str:
    used = "+".join(report["instructions"])
    return f"{report['kernel']} {used} {report['registers']} registers {report['shared']} bytes"


def fastest(
    key: Key, module: Any, configs: Sequence[dict[str, int]], works: Sequence[Any], device: Any, end: float
) -> tuple[dict[str, int] | None, float]:
    """The configuration that is fastest over the works (geometric mean), and how many times faster than the pinned
    one it is; None when none is faster by GAIN."""
    from benches.gpu_parts.candidates import choosing
    from benches.gpu_parts.timing import Clock
    from gdig.kernels.configs import generation

    clock = Clock(device, 10)

    def times(given: dict[Key, dict[str, int]]) -> list[float]:
        with choosing(module, generation(device), given):
            return [clock.median(lambda w=work: w.run("triton")) for work in works]

    base, best, gain = times({}), None, GAIN
    for tried, config in enumerate(configs):
        if time.monotonic() > end:
            print(f"{' '.join(key)}: no time for {len(configs) - tried} of {len(configs)} candidates", flush=True)
            break
        try:
            mine = times({key: config})
        except Exception as error:  # what does not launch here is no candidate
            print(f"{' '.join(key)} {config}: {type(error).__name__}: {error}"[:300], flush=True)
            continue
        ratio = math.exp(sum(math.log(old / new) for old, new in zip(base, mine, strict=True)) / len(base))
        print(f"{' '.join(key)} {config}: {ratio:.3f} times the pinned one's speed", flush=True)
        if ratio > gain:
            best, gain = config, ratio
    return best, gain


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dry-run", action="store_true", help="compile only, for three generations; needs no GPU")
    parser.add_argument("--operations", nargs="+", help="default: all that have a Triton version")
    parser.add_argument("--archs", nargs="+", type=int, default=[80, 90, 100], help="of a dry run")
    parser.add_argument("--most", type=int, default=None, help="candidates of each kind; default: all")
    parser.add_argument("--minutes", type=float, default=9.0, help="time for everything")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes that compile, of 2 GB each")
    arguments = parser.parse_args()
    end = time.monotonic() + 60 * arguments.minutes
    # Read when Triton is imported, here and in the processes that compile.
    os.environ["TRITON_INTERPRET"] = "0"
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    import torch

    from benches.gpu_parts.candidates import keys_of, small_works
    from benches.gpu_parts.work import module_of, works
    from gdig.kernels.configs import generation
    from gdig.kernels.pinned import PINNED as before

    if not arguments.dry_run and not torch.cuda.is_available():
        parser.error("no CUDA device; --dry-run compiles without one")
    modules: dict[Key, Any] = {}
    numbers: dict[Key, list[int]] = defaultdict(list)
    for number, work in enumerate(small_works()):
        module = module_of(work.operation)
        if module is not None and work.operation in (arguments.operations or [work.operation]):
            for key in keys_of(work):
                modules.setdefault(key, module)
                numbers[key].append(number)
    context = multiprocessing.get_context("spawn")
    if arguments.dry_run:
        with ProcessPoolExecutor(arguments.jobs, context) as pool:
            good_configs = survivors(pool, modules, numbers, arguments.archs, arguments.most)
        for (key, arch), good in sorted(good_configs.items()):
            print(f"sm_{arch} {' '.join(key)}: {len(good)} candidates left", flush=True)
        return 0
    device = torch.device("cuda:0")
    major, minor = torch.cuda.get_device_capability(device)
    with ProcessPoolExecutor(arguments.jobs, context) as pool:
        good_configs = survivors(pool, modules, numbers, [10 * major + minor], arguments.most)
    asking = defaultdict(list)
    for work in works(device):
        for key in keys_of(work) if module_of(work.operation) else []:
            asking[key].append(work)
    after = dict(before)
    for done, ((key, _), good) in enumerate(good_configs.items()):
        stop = time.monotonic() + (end - time.monotonic()) / (len(good_configs) - done)
        best, gain = fastest(key, modules[key], good, asking[key], device, stop)
        if best is not None:
            old = before.get((*key, generation(device)))
            print(f"CHANGED {' '.join(key)}: {old} -> {best}, {gain:.2f} times as fast", flush=True)
            after[key[0], key[1], generation(device)] = best
    if after != before:
        unfinished = PINNED.with_name(PINNED.name + ".part")
        unfinished.write_text(table(after))
        unfinished.replace(PINNED)
    print(f"{sum(after[key] != before.get(key) for key in after)} of {len(after)} configurations changed", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
