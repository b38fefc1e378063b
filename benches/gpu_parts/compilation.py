"""Compiles what the checks launch, in several processes at once, into Triton's cache. Needs no GPU.

One after another, some 300 kernels take two to three minutes of a GPU's time.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from typing import Any

import torch


def compile_checks(device: torch.device, *, quick: bool = False) -> dict[str, Any]:
    """Compile for the device; quick: every twentieth check, for sm_90.

    Returns:
        The seconds, the processes, how many launches were compiled, and what was said of those that were not.
    """
    arch = 90 if device.type == "cpu" else int("{}{}".format(*torch.cuda.get_device_capability(device)))
    processes = 1 if quick else max(1, (os.cpu_count() or 2) - 2)
    # Each process compiles, whatever this one does, and leaves the GPU alone.
    environment = os.environ | {"TRITON_INTERPRET": "0", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    begin = time.monotonic()
    step = 20 if quick else 1
    running = [
        subprocess.Popen(
            [sys.executable, "-m", __name__, str(arch), str(place * step), str(processes * step)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for place in range(processes)
    ]
    said = [process.communicate()[0] for process in running]
    counts = [int(text.split()[-1]) for text, process in zip(said, running, strict=True) if process.returncode == 0]
    faults = [line for text in said for line in text.splitlines() if line.startswith("not compiled")]
    for line in faults:
        print(line, flush=True)
    return {"seconds": time.monotonic() - begin, "processes": processes, "launches": sum(counts), "faults": faults}


def _compile(arch: int, first: int, step: int) -> None:
    """Compile what every `step`-th check from `first` on launches. The last word printed is the number of launches."""
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    from benches.gpu_parts.checks import all_checks, case_modules
    from gdig.kernels import configs
    from tests.support.triton_compile import compile_launch

    torch.set_num_threads(1)
    # The checks launch what a GPU would: its generation's configurations, bfloat16 too.
    configs.generation = lambda device: min(arch // 10, 10)
    for module in case_modules():
        module.dtypes = lambda device: [torch.bfloat16, torch.float16, torch.float32]  # type: ignore[attr-defined]
    launches = 0

    def run(check: Any) -> None:
        with contextlib.suppress(AssertionError):  # nothing ran, so nothing is right
            check()

    for name, check in all_checks(torch.device("cpu"))[first::step]:
        try:
            launches += len(compile_launch(lambda c=check: run(c), arch))
        except Exception as error:  # whatever Triton and its tools raise: the check itself will say it
            print(f"not compiled: {name}: {type(error).__name__}: {error}"[:300], flush=True)
    print(launches, flush=True)


if __name__ == "__main__":
    _compile(*map(int, sys.argv[1:]))
