"""What the bench reads out of finished runs, and the form in which it prints and records it."""

from __future__ import annotations

import math
import os
import platform
import subprocess
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from demo import auroc
from zh_en.pool import CORRUPTIONS

from gdig import SketchStore

ALL = "all four"


def read_sweep(run: Path, *names: str) -> list[np.ndarray]:
    """Tensors of a run's sweep, whole."""
    store = SketchStore.open(run / "sweep")
    if not all(store.tensor(shard, "valid").all() for shard in range(store.n_shards)):
        raise SystemExit(f"{run}: rows without a finite score; AUROC would count them wrongly")
    return [np.concatenate([store.tensor(shard, name) for shard in range(store.n_shards)]) for name in names]


def read_scores(run: Path, cosine: np.ndarray, dot: np.ndarray, random_seed: int) -> dict[str, np.ndarray]:
    """Scores of every candidate, higher meaning better: by their names in the table, float64 [N].

    `cosine` and `dot` [N] compare its gradient with the seeds' mean gradient (see zh_en.cosine).
    """
    influence, loss, tokens = read_sweep(run, "influence", "loss", "tokens")
    return {
        "mean influence": influence.mean(1, dtype=np.float64),
        "agreement": (influence > 0).mean(1),
        "low loss": -loss.astype(np.float64),
        "gradient dot product": dot,
        "gradient cosine": cosine,
        "few tokens": -tokens.astype(np.float64),
        "random": np.random.default_rng(random_seed).random(len(loss)),
    }


def auroc_table(scores: dict[str, np.ndarray], kinds: np.ndarray) -> dict[str, dict[str, float]]:
    """AUROC of each score, clean rows against each kind of spoiled rows and against all of them."""
    groups = {ALL: kinds != "clean", **{kind: kinds == kind for kind in CORRUPTIONS}}
    return {
        name: {kind: auroc(score[kinds == "clean"], score[bad]) for kind, bad in groups.items()}
        for name, score in scores.items()
    }


def standard_error(n: int, m: int) -> float:
    """Standard deviation of the AUROC of a score that knows nothing, `n` rows against `m` (Mann-Whitney)."""
    return math.sqrt((n + m + 1) / (12 * n * m))


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table, the first column to the left and the others to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


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
