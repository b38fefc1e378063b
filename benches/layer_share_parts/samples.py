"""The influence of real rows on seeds by the tokens of the sample that the curvature is fitted on.

The MLPs of the upper blocks count. The lower blocks run once over all tokens, and the passes of every sample start from
their output (`benches.pretrained.pretrained_model`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from benches.layer_share_parts.influence import Drawn, Rows, first_tokens
from benches.pretrained.pretrained_model import lower_states, over_states
from benches.pretrained.signals import DEFAULT, frozen, layer_influence
from benches.shared.steps import Steps
from gdig.data.tokens import Example
from gdig.influence.curvature import fit_curvature
from gdig.progress import Progress

SAMPLES = (384, 1536, 6144)
"""Tokens of the samples: a quarter, one and four times the columns of the widest factor."""
UPPER = 4
"""Blocks that count: an eighth of SmolLM2's."""
_ROWS_A_STEP = 48
"""Rows whose states are one step, which takes less than a minute."""


def influence_by_sample(steps: Steps, plan: Rows, drawn: Drawn, path: Path) -> dict[int, dict[str, np.ndarray]]:
    """For each number of `SAMPLES`: influence [K, N, S], square [K, N] and gram [K, S, S] of the K layers."""
    sample = first_tokens(drawn.others, max(SAMPLES))
    examples = [*drawn.rows, *drawn.seeds, *sample]
    asked = [asdict(plan), path.name, UPPER]
    states = []
    for first in range(0, len(examples), _ROWS_A_STEP):
        own = examples[first : first + _ROWS_A_STEP]

        def make(own: Sequence[Example] = own) -> dict[str, np.ndarray]:
            return {"states": lower_states(path, own, UPPER)}

        name = f"states of {first} to {first + len(own)}"
        states.append(steps.arrays(name, [*asked, [example.hash for example in own]], make)["states"])
    model, config = frozen(path, np.concatenate(states), r"\.mlp\.", UPPER)
    moved = over_states(examples)
    n_rows, n_seeds = len(drawn.rows), len(drawn.seeds)
    rows, seeds, others = moved[:n_rows], moved[n_rows : n_rows + n_seeds], moved[n_rows + n_seeds :]

    def compute(own: Sequence[Example]) -> dict[str, np.ndarray]:
        keys = np.arange(len(own), dtype=np.uint64)
        factors, _ = fit_curvature(model, own, keys, config, Progress(quiet=True))
        by_layer = layer_influence(model, config, factors, rows, seeds)
        return {name: by_layer[f"{name} {DEFAULT}"] for name in ("influence", "square", "gram")}

    results = {}
    for tokens in SAMPLES:
        own = first_tokens(others, tokens)
        results[tokens] = steps.arrays(f"sample of {tokens}", [*asked, tokens], lambda own=own: compute(own))  # type: ignore[misc]
    return results
