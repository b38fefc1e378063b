"""What the tests compare gdig's scores with where no peer is installed: the peers' scores on a small project."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benches.parity_parts.parity_cases import Case
from gdig.store.atomic import replacing

MODEL, ROWS, SEEDS = "gpt2", 24, 3
"""The model with biases, whose conventions are more; rows enough that A and S do not lack rank."""

TESTED = (
    Case("identity"),
    Case("kfac"),
    Case("kfac", "absolute", 3e-4),
    Case("ekfac"),
    Case("ekfac", "absolute", 3e-4),
    Case("ekfac", loss_reduction="sum"),
)
"""What both peers can express."""

PEERS: dict[str, dict[str, Any]] = {"kronfluence": {"dtype": torch.float64}, "bergson": {}}
"""Each as exact as it gets: bergson has no float64 all the way."""

DIGITS = {"kronfluence": 12, "bergson": 9}
"""Significant ones that are stored: more than a float32 has; all of one."""


def write_expectations(
    path: Path, scores_by_case: Mapping[str, Mapping[str, np.ndarray]], versions: Mapping[str, Any]
) -> None:
    """Write the scores [ROWS, SEEDS] by case and peer; complete or not at all."""

    def rounded(peer: str, scores: np.ndarray) -> list[list[float]]:
        return [[float(f"{x:.{DIGITS[peer]}g}") for x in row] for row in scores]

    cases = {case: {peer: rounded(peer, x) for peer, x in peers.items()} for case, peers in scores_by_case.items()}
    facts = {"made_by": "python -m benches.parity --write-expectations", "peers": dict(versions), "model": MODEL}
    facts |= {"rows": ROWS, "seeds": SEEDS}
    lines = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in facts.items()]
    by_case = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in cases.items()]
    text = "{\n" + ",\n".join([*lines, ' "cases": {\n' + ",\n".join(by_case) + "\n }"]) + "\n}\n"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
