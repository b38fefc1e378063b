"""What the tests compare gdig's scores with where no peer is installed: the peers' scores on a small project."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from conventions.inputs import Case

from gdig.files import replacing

MODEL, ROWS, SEEDS = "gpt2", 12, 3
"""The model with biases, whose conventions are more."""

TESTED = (
    Case("identity"),
    Case("kfac"),
    Case("kfac", "absolute", 3e-4),
    Case("ekfac"),
    Case("ekfac", "absolute", 3e-4),
    Case("ekfac", loss_reduction="sum"),
)
"""What both peers can express."""


def write_expectations(path: Path, found: Mapping[str, Mapping[str, np.ndarray]], peers: Mapping[str, Any]) -> None:
    """Write the scores [ROWS, SEEDS] by case and peer, to 9 significant digits, which is all of a float32."""
    cases = {
        case: {peer: [[float(f"{x:.9g}") for x in row] for row in scores] for peer, scores in by_peer.items()}
        for case, by_peer in found.items()
    }
    kept = {"made_by": "benches/parity.py --write-expectations", "peers": dict(peers), "model": MODEL}
    kept |= {"rows": ROWS, "seeds": SEEDS}
    lines = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in kept.items()]
    by_case = [f"  {json.dumps(name)}: {json.dumps(value)}" for name, value in cases.items()]
    text = "{\n" + ",\n".join([*lines, ' "cases": {\n' + ",\n".join(by_case) + "\n }"]) + "\n}\n"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
