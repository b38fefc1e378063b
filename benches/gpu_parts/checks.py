"""The kernels' own checks, run on this device: the cases of tests/support/cases_*.py, one after another."""

from __future__ import annotations

import importlib
import pkgutil
import time
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from tests import support

Check = tuple[str, Callable[[], None]]


def case_modules() -> list[ModuleType]:
    """The modules tests/support/cases_*.py."""
    names = sorted(module.name for module in pkgutil.iter_modules(support.__path__) if module.name.startswith("cases_"))
    return [importlib.import_module(f"{support.__name__}.{name}") for name in names]


def all_checks(device: torch.device) -> list[Check]:
    """Every check by name."""
    return [check for module in case_modules() for check in module.checks(device)]


def run_checks(device: torch.device, seconds: float, *, quick: bool = False) -> dict[str, Any]:
    """Run every check on the device (quick: every tenth), as far as the time goes.

    Returns:
        How many passed and were left out, and the failures by name.
    """
    end, failed, passed = time.monotonic() + seconds, {}, 0
    todo = all_checks(device)[:: 10 if quick else 1]
    for number, (name, check) in enumerate(todo):
        if time.monotonic() > end:
            print(f"no time for {len(todo) - number} of {len(todo)} checks", flush=True)
            break
        try:
            check()
            passed += 1
        except Exception as error:  # a kernel that does not compile or launch is a failure like a wrong number
            failed[name] = f"{type(error).__name__}: {error}"[:500]
            print(f"FAILED {name}: {failed[name]}", flush=True)
    print(f"{passed} of {len(todo)} checks passed, {len(failed)} failed", flush=True)
    return {"checks": len(todo), "passed": passed, "left_out": len(todo) - passed - len(failed), "failed": failed}
