"""The kernels' own checks, run on this device: what tests/cases_*.py have, one after another."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import torch

TESTS = Path(__file__).resolve().parents[2] / "tests"


def run_checks(device: torch.device, *, quick: bool = False) -> dict[str, str]:
    """Run every check on the device (quick: every fifth); the failures by name, empty when all hold."""
    if str(TESTS) not in sys.path:
        sys.path.insert(0, str(TESTS))
    failed = {}
    for path in sorted(TESTS.glob("cases_*.py")):
        checks = list(importlib.import_module(path.stem).checks(device))[:: 5 if quick else 1]
        wrong = 0
        for name, check in checks:
            try:
                check()
            except Exception as error:  # a kernel that does not compile or launch is a failure like a wrong number
                failed[name] = f"{type(error).__name__}: {error}"[:500]
                wrong += 1
        print(f"{path.stem}: {len(checks) - wrong} of {len(checks)} checks passed", flush=True)
    for name, why in failed.items():
        print(f"FAILED {name}: {why}", flush=True)
    return failed
