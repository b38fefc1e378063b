"""The kernels and the sweep on a GPU, in one command of under ten minutes.

    python -m benches.gpu                  # all of it; writes benches/record/gpu.json
    python -m benches.gpu --rehearse       # the same steps on the CPU, tiny: interpreted kernels, the reference's sweep

First the kernels' checks run on the device. If a check fails, nothing is measured. Then each kernel is compared with
its ceiling (the bandwidth of a copy, cuBLAS), and the sweep with the plain forward and backward pass of the same model.
The bench needs torch and Triton. Where gdig is not installed, set PYTHONPATH=python; the built extension lies there.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RECORD = ROOT / "benches" / "record" / "gpu.json"
PARTS = ("checks", "kernels", "sweep")


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
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else platform.processor() or "CPU",
        "capability": list(torch.cuda.get_device_capability(device)) if on_gpu else None,
        "driver": said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader") if on_gpu else None,
        "cuda": torch.version.cuda,
        "commit": os.environ.get("GDIG_COMMIT") or said("git", "rev-parse", "HEAD"),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
        "versions": versions,
    }


def kernel_table(rows: list[dict[str, Any]]) -> str:
    """The kernels' figures."""
    lines = [
        "| kernel | work | us | ceiling us | of the ceiling | target | reference us |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        target = "" if row["target"] is None else f"{row['target']:.0%} {'met' if row['met'] else 'MISSED'}"
        lines.append(
            f"| {row['operation']} | {row['work']} | {row['microseconds']:.0f} | {row['ceiling_microseconds']:.0f} "
            f"| {row['of_ceiling']:.0%} | {target} | {row['reference_microseconds']:.0f} |"
        )
    return "\n".join(lines)


def sweep_table(figures: dict[str, Any]) -> str:
    """One model's figures."""
    lines = [
        f"{figures['model']}: {figures['parameters'] / 1e6:.0f}M parameters, {figures['tokens']} tokens, pads "
        f"{figures['pads']['file order']:.0%} in file order, {figures['pads']['sorted']:.0%} sorted",
        "| pass | tokens/s | of plain, file order | of plain, sorted | peak GiB |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, result in figures["passes"].items():
        peak = "" if result["peak_bytes"] is None else f"{result['peak_bytes'] / 2**30:.2f}"
        ratios = f"{result['of_file_order']:.3f} | {result['of_sorted']:.3f}"
        lines.append(f"| {name} | {result['tokens_per_second']:,.0f} | {ratios} | {peak} |")
    for target in figures["targets"]:
        verdict = "met" if target["met"] else "MISSED"
        what = f"{target['pass']}, {target['ratio'].replace('_', ' ')}"
        lines.append(f"{verdict}: {what}: {target['measured']:.3f}, at most {target['at_most']}")
    return "\n".join(lines)


def write(path: Path, record: dict[str, Any]) -> None:
    """Write the record, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(record, indent=2) + "\n")
    part.replace(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rehearse", "--quick", action="store_true", help="on the CPU, with tiny shapes")
    parser.add_argument(
        "--minutes", type=float, default=9.0, help="time for everything; sizes that do not fit are left out"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--rounds", type=int, default=5, help="of each pass of the sweep")
    parser.add_argument("--output", type=Path, default=RECORD, help="the record; a rehearsal writes one only elsewhere")
    arguments = parser.parse_args()
    # Read when Triton is imported, so before anything of gdig is.
    os.environ["TRITON_INTERPRET"] = "1" if arguments.rehearse else "0"
    os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")
    import torch

    from benches.gpu_parts.checks import run_checks
    from benches.gpu_parts.kernels import measure_kernels
    from benches.gpu_parts.sweeps import measure_sweep, sizes

    if not arguments.rehearse and not torch.cuda.is_available():
        parser.error("no CUDA device; --rehearse runs on the CPU")
    device = torch.device("cpu" if arguments.rehearse else "cuda:0")
    begin = time.monotonic()
    end = begin + 60 * arguments.minutes
    record: dict[str, Any] = {"machine": machine(device), "rehearsal": arguments.rehearse, "kernels": [], "sweep": []}
    print(json.dumps(record["machine"]), flush=True)
    save = not arguments.rehearse or arguments.output != RECORD
    if "checks" in arguments.parts:
        failed = run_checks(device, quick=arguments.rehearse)
        record["failed_checks"] = failed
        if failed:
            print(f"{len(failed)} checks failed: nothing is measured", flush=True)
            return 1
        print(f"checks took {time.monotonic() - begin:.0f} s", flush=True)
    if "kernels" in arguments.parts:
        # A third of the time: the targets are about the sweep.
        seconds_left = end - time.monotonic()
        share = seconds_left / 3 if "sweep" in arguments.parts else seconds_left
        record["kernels"] = measure_kernels(device, share, quick=arguments.rehearse)
        print(kernel_table(record["kernels"]), flush=True)
        if save:
            write(arguments.output, record)
    if "sweep" in arguments.parts:
        todo = sizes(arguments.rehearse)
        for number, size in enumerate(todo):
            seconds_left = end - time.monotonic()
            if seconds_left < 0:
                print(f"not measured: {size.name}: no time left", flush=True)
                continue
            stop = time.monotonic() + seconds_left / (len(todo) - number)
            figures = measure_sweep(size, device, 1 if arguments.rehearse else arguments.rounds, stop)
            record["sweep"].append(figures)
            print(sweep_table(figures), flush=True)
            if save:
                write(arguments.output, record)
    print(f"took {time.monotonic() - begin:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
