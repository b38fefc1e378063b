"""The kernels, the passes and the fit on a GPU, in one command of under ten minutes.

    make gpu-pack                          # before: what the machine with the GPU lacks, into .gpu/
    make gpu                               # there: all steps; records in benches/record/gpu/, a table at the end
    python -m benches.gpu --rehearse       # the steps on the CPU, tiny: interpreted kernels, reference's passes
    python -m benches.gpu --steps kernels  # some of them

Each step is a process with a limit of its own, and never gets more time than is left. A check that fails is reported
beside the figures, and stops nothing. A record has the predictions beside what was measured (gpu_parts/predictions.py).
The bench needs torch, transformers and Triton. Where gdig is not installed, set PYTHONPATH=python; the built extension
lies there.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "benches" / "record" / "gpu"
STEPS = {
    "compilation": 100.0, "checks": 100.0, "agreement": 60.0, "passes": 200.0, "kernels": 80.0, "fits": 80.0,
    "alternatives": 40.0, "nccl": 30.0,
}  # fmt: skip
"""The most seconds of each step, in the order of their worth."""


def machine(device: Any) -> dict[str, Any]:
    """Where the numbers are from."""
    import torch

    def said(*command: str) -> str | None:
        try:
            return subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return None

    versions = {}
    for name in ("torch", "triton", "transformers", "bergson", "numpy"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    on_gpu = device.type == "cuda"
    clocks = "--query-gpu=driver_version,clocks.sm,power.limit,memory.total"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else platform.processor() or "CPU",
        "capability": list(torch.cuda.get_device_capability(device)) if on_gpu else None,
        "driver, clock, power, memory": said("nvidia-smi", clocks, "--format=csv,noheader") if on_gpu else None,
        "cuda": torch.version.cuda,
        "commit": os.environ.get("GDIG_COMMIT") or said("git", "rev-parse", "HEAD"),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "versions": versions,
    }


def run_step(name: str, device: Any, seconds: float, quick: bool) -> Any:
    """What a step measured. It prints its own figures as it goes."""
    if name == "compilation":
        from benches.gpu_parts.compilation import compile_checks

        return compile_checks(device, quick=quick)
    if name == "checks":
        from benches.gpu_parts.checks import run_checks

        return run_checks(device, seconds, quick=quick)
    if name == "agreement":
        from benches.gpu_parts.agreement import compare_with_float64

        return compare_with_float64(device, quick=quick)
    if name == "passes":
        from benches.gpu_parts.passes import measure_passes

        return measure_passes(device, seconds, 1 if quick else 3, quick=quick)
    if name == "kernels":
        from benches.gpu_parts.kernels import kernel_table, measure_kernels

        rows = measure_kernels(device, seconds, quick=quick)
        print(kernel_table(rows), flush=True)
        return rows
    if name == "fits":
        from benches.gpu_parts.fits import measure_fits

        return measure_fits(device, seconds, quick=quick)
    if name == "alternatives":
        from benches.gpu_parts.alternatives import measure_alternatives

        return measure_alternatives(device, quick=quick)
    from benches.gpu_parts.nccl import exchange

    return exchange(device)


def write(path: Path, record: dict[str, Any]) -> None:
    """Write the record, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".part")
    temporary.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    temporary.replace(path)


def run_all(arguments: argparse.Namespace) -> int:
    """Run each step as a process, within its limit and the time that is left; print what became of each."""
    end, verdicts = time.monotonic() + 60 * arguments.minutes, []
    for name in arguments.steps:
        seconds_left = end - time.monotonic()
        if seconds_left < 15:
            verdicts.append((name, "no time left", 0.0))
            continue
        # A rehearsal has few cores and tiny sizes: its limits only end what hangs.
        limit = min(STEPS[name] * (10 if arguments.rehearse else 1), seconds_left)
        # The step itself stops earlier, so that its record is written.
        command = [sys.executable, "-m", "benches.gpu", "--step", name, "--seconds", str(0.85 * limit)]
        command += ["--record", str(arguments.record)] + ["--rehearse"] * arguments.rehearse
        print(f"== {name}, at most {limit:.0f} s", flush=True)
        begin = time.monotonic()
        process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
        try:
            code = process.wait(limit)
            verdict = "done" if code == 0 else f"FAILED, status {code}"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)  # what the step started too
            process.wait()
            verdict = "CUT at its limit"
        verdicts.append((name, verdict, time.monotonic() - begin))
    print("\n| step | | seconds |\n|---|---|---:|")
    for name, verdict, seconds in verdicts:
        print(f"| {name} | {verdict} | {seconds:.0f} |")
    print(f"records: {arguments.record}", flush=True)
    return int(any(verdict != "done" for _, verdict, _ in verdicts))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, with tiny shapes, into build/gpu")
    parser.add_argument("--minutes", type=float, default=9.0, help="time for everything")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--record", type=Path, default=None, help="folder of the records")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=float, default=60.0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.record = arguments.record or (ROOT / "build" / "gpu" if arguments.rehearse else RECORD)
    # Read when Triton is imported, so before anything of gdig is.
    os.environ["TRITON_INTERPRET"] = "1" if arguments.rehearse else "0"
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    os.environ.setdefault("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")  # plain 1B takes most of 80 GB
    import torch

    if not arguments.rehearse and not torch.cuda.is_available():
        parser.error("no CUDA device; --rehearse runs on the CPU")
    if arguments.step is None:
        return run_all(arguments)
    device = torch.device("cpu" if arguments.rehearse else "cuda:0")
    begin = time.monotonic()
    record: dict[str, Any] = {"machine": machine(device), "rehearsal": arguments.rehearse}
    print(json.dumps(record["machine"]), flush=True)
    record["figures"] = run_step(arguments.step, device, arguments.seconds, arguments.rehearse)
    record["seconds"] = time.monotonic() - begin
    write(arguments.record / f"{arguments.step}.json", record)
    return 0


if __name__ == "__main__":
    sys.exit(main())
