"""Where numbers are from: the machine, the commit and the versions that a record names."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gdig import _native

ROOT = Path(__file__).resolve().parents[2]
"""The folder of the checkout."""


def machine() -> dict[str, Any]:
    """CPU, cores this process may use, memory, system, and the load of the last minute, which says if it was shared."""
    cpu = platform.processor() or platform.machine()
    memory = None
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
        memory = round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "cpu": cpu,
        "cores": cores,
        "memory_gib": memory,
        "system": f"{platform.system()} {platform.machine()}",
        "load_at_start": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def provenance(root: Path) -> dict[str, Any]:
    """Commit (with "+" when tracked files differ from it), date and versions of what computes."""

    def git(*arguments: str) -> str:
        result = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)
        return result.stdout.strip() if result.returncode == 0 else ""

    commit = git("rev-parse", "HEAD") or "unknown"
    return {
        "commit": commit + ("+" if git("status", "--porcelain", "--untracked-files=no") else ""),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("gdig", "torch", "transformers", "tokenizers", "numpy")},
        },
    }


def core_machine() -> dict[str, Any]:
    """Machine, commit and versions, as the benches of the Rust core record them."""
    names = ["faiss-cpu", "scikit-learn", "fastkmeans", "torch", "numpy"]
    versions = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False, cwd=ROOT)
    model = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    return {
        "commit": git.stdout.strip(),
        "cpu": f"{os.cpu_count()} x {model[0] if model else platform.processor()}",
        "kernels": _native.kernels(),
        "load_average": os.getloadavg(),
        "python": platform.python_version(),
        "versions": versions,
    }
