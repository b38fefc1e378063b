"""Kernels against what bounds them, measured in turn in the same run."""

from __future__ import annotations

import time
from typing import Any

import torch

from benches.gpu_parts.predictions import OF_CEILING, beside
from benches.gpu_parts.timing import Clock
from benches.gpu_parts.work import module_of, works

# Share of the ceiling's rate that each is to reach (see README).
TARGETS = {"project": 0.80, "score": 0.75}


def measure_kernels(device: torch.device, seconds: float, *, quick: bool = False) -> list[dict[str, Any]]:
    """A row for each piece of work, as far as the time goes; what was left out is said."""
    clock, end = Clock(device, 1 if quick else 20), time.monotonic() + seconds
    rows: list[dict[str, Any]] = []
    skipped: dict[str, str] = {}
    for work in works(device, quick=quick):
        if module_of(work.operation) is None:
            skipped[work.operation] = "has no Triton version"
            continue
        if time.monotonic() > end:
            skipped[f"{work.operation} {work.name}"] = "no time left"
            continue
        ceiling = clock.median(work.ceiling) * work.share
        kernel = clock.median(lambda w=work: w.run("triton"))
        reference = clock.median(lambda w=work: w.run("reference"), 1 if quick else 5)
        target = TARGETS.get(work.operation)
        rows.append({
            "operation": work.operation, "work": work.name, "microseconds": kernel * 1e6, "ceiling": work.ceiling_name,
            "ceiling_microseconds": ceiling * 1e6, "of_ceiling": ceiling / kernel, "target": target,
            "met": None if target is None else ceiling / kernel >= target, "reference_microseconds": reference * 1e6,
            "predicted": OF_CEILING.get(f"{work.operation} {work.name}"),
        })  # fmt: skip
    for name, why in skipped.items():
        print(f"not measured: {name}: {why}", flush=True)
    return rows


def kernel_table(rows: list[dict[str, Any]]) -> str:
    """The kernels' figures."""
    lines = [
        "| kernel | work | us | ceiling us | of the ceiling | predicted | target | reference us |",
        "|---|---|---:|---:|---:|---|---|---:|",
    ]
    for row in rows:
        target = "" if row["target"] is None else f"{row['target']:.0%} {'met' if row['met'] else 'MISSED'}"
        lines.append(
            f"| {row['operation']} | {row['work']} | {row['microseconds']:.0f} | {row['ceiling_microseconds']:.0f} | "
            f"{row['of_ceiling']:.0%} | {beside(row['predicted'])} | {target} | {row['reference_microseconds']:.0f} |"
        )
    return "\n".join(lines)
