"""The command `gdig` with another piece of work: one that computes for minutes without a look at signals."""

from __future__ import annotations

from typing import Any

import torch

import gdig.cli.main as command

SIDE = 6_000


def _work(args: list[str], ranks: Any) -> int:
    x = torch.ones(SIDE, SIDE, dtype=torch.float64)
    print("at work", flush=True)
    torch.linalg.eigvals(x)
    print("done", flush=True)
    return 0


def run() -> None:
    command._main = _work
    command.run()
