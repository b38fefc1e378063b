"""The kernels' own checks, run on this device: the cases of tests/support/cases_*.py, one after another."""

from __future__ import annotations

import importlib
import pkgutil

import torch

from tests import support


def run_checks(device: torch.device, *, quick: bool = False) -> dict[str, str]:
    """Run every check on the device (quick: every fifth); the failures by name, empty when all hold."""
    failed = {}
    names = sorted(module.name for module in pkgutil.iter_modules(support.__path__) if module.name.startswith("cases_"))
    for module in names:
        checks = list(importlib.import_module(f"{support.__name__}.{module}").checks(device))[:: 5 if quick else 1]
        wrong = 0
        for name, check in checks:
            try:
                check()
            except Exception as error:  # a kernel that does not compile or launch is a failure like a wrong number
                failed[name] = f"{type(error).__name__}: {error}"[:500]
                wrong += 1
        print(f"{module}: {len(checks) - wrong} of {len(checks)} checks passed", flush=True)
    for name, why in failed.items():
        print(f"FAILED {name}: {why}", flush=True)
    return failed
