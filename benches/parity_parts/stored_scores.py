"""Stored scores of kronfluence and bergson on a small project: the tests compare gdig with them."""

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
"""The model with biases, which has more conventions; enough rows that A and S have full rank."""

TESTED = (
    Case("identity"),
    Case("kfac"),
    Case("kfac", "absolute", 3e-4),
    Case("ekfac"),
    Case("ekfac", "absolute", 3e-4),
    Case("ekfac", loss_reduction="sum"),
)
"""The cases that both libraries can express."""

PEERS: dict[str, dict[str, Any]] = {"kronfluence": {"dtype": torch.float64}, "bergson": {}}
"""Options with which each library is most exact. bergson does not compute everything in float64."""

DIGITS = {"kronfluence": 12, "bergson": 9}
"""Significant digits that are stored: more than float32 has, or all that float32 has."""


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
