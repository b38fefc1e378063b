"""What the gradients of some layers are worth, and what they cost: SmolLM2-135M, and a deeper generated language.

    python -m benches.layer_share --model DIR --data DIR     # every part; recorded in benches/record/layer_share.json
    python -m benches.layer_share ... --parts generated      # one of them; the others stay in the record

The curvature is one matrix a layer, so influence is a sum over the layers. One fit and one exact pass give the
influence by any of them.

    plain       108 rows of six tasks, some of them spoiled, and 12 seeds: products of gradients without a curvature
    pretrained  the same with EK-FAC: agreement with all layers, rows told apart
    samples     the same by the tokens of the sample that the curvature is fitted on
    cost        processor seconds of fit and sweep, beside a plain forward and backward pass
    generated   a tuned model of 8 blocks: linear datamodelling score, clean rows told apart

Finished steps are kept in build/layer_share/, so that an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benches.layer_share_parts.choices import CHOICES
from benches.layer_share_parts.cost import cost
from benches.layer_share_parts.influence import LayerInfluence, Rows, draw
from benches.layer_share_parts.on_language import generated
from benches.layer_share_parts.quality import quality
from benches.layer_share_parts.samples import influence_by_sample
from benches.shared.machine import ROOT, machine, provenance
from benches.shared.steps import Steps
from benches.shared.tables import markdown

RECORD = ROOT / "benches" / "record" / "layer_share.json"
Part = Callable[[Steps, argparse.Namespace], dict[str, Any]]


def main() -> None:
    """Run the missing steps of each part, and write the record after each."""
    arguments = _arguments()
    torch.set_num_threads(1)
    steps = Steps(arguments.folder, {"torch": torch.__version__})
    for part in arguments.parts:
        facts = PARTS[part](steps, arguments)
        record = json.loads(RECORD.read_text(encoding="utf-8")) if RECORD.exists() else {}
        if part == "cost":  # choices that were not measured this time keep their figures
            known = {**record.get(part, {}).get("choices", {}), **facts["choices"]}
            facts["choices"] = {text: known[text] for text in CHOICES if text in known}
        record[part] = {"machine": machine() | {"threads": 1}, **provenance(ROOT), **facts}
        RECORD.write_text(json.dumps({"bench": "layer_share", **record}, indent=1) + "\n", encoding="utf-8")
        print(table(part, facts), flush=True)


def _by_choice(parts_of: Callable[[LayerInfluence], dict[str, np.ndarray]]) -> Part:
    """A part that judges each choice of layers by their influence."""

    def part(steps: Steps, arguments: argparse.Namespace) -> dict[str, Any]:
        layers = _layers(steps, arguments)
        by_layer, drawn = parts_of(layers), layers.drawn
        reference = by_layer["influence"].sum(0, dtype=np.float64)
        choices = {text: quality(by_layer, layers.chosen(text), drawn, reference) for text in CHOICES}
        return {"rows": len(drawn.rows), "tokens": drawn.tokens, "choices": choices}

    return part


def _samples(steps: Steps, arguments: argparse.Namespace) -> dict[str, Any]:
    plan = Rows()
    drawn = draw(plan, arguments.data, arguments.model)
    by_tokens = influence_by_sample(steps, plan, drawn, arguments.model)
    whole = by_tokens[max(by_tokens)]["influence"]
    reference, every = whole.sum(0, dtype=np.float64), np.ones(len(whole), bool)
    return {"choices": {f"{n} tokens": quality(by_layer, every, drawn, reference) for n, by_layer in by_tokens.items()}}


def _layers(steps: Steps, arguments: argparse.Namespace) -> LayerInfluence:
    return LayerInfluence(steps, Rows(), draw(Rows(), arguments.data, arguments.model), arguments.model)


def _generated(steps: Steps, arguments: argparse.Namespace) -> dict[str, Any]:
    return generated(Steps(arguments.folder / "generated", {"torch": torch.__version__}), 0)


def _cost(steps: Steps, arguments: argparse.Namespace) -> dict[str, Any]:
    return cost(steps, arguments.model, arguments.data, arguments.choices)


PARTS: dict[str, Part] = {
    "plain": _by_choice(LayerInfluence.of_plain_gradients),
    "pretrained": _by_choice(LayerInfluence.of_all),
    "samples": _samples,
    "generated": _generated,
    "cost": _cost,
}


def table(part: str, facts: dict[str, Any]) -> str:
    """A part as a table in Markdown, a line for each choice."""
    rows = facts["choices"]
    flat = {
        name: {key: value[0] if isinstance(value, list) else value for key, value in row.items()}
        for name, row in rows.items()
    }
    columns = [key for key, value in next(iter(flat.values())).items() if not isinstance(value, dict)]
    lines = [[name, *(str(row[column]) for column in columns)] for name, row in flat.items()]
    return f"\n{part}\n\n" + markdown(["layers", *columns], lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of SmolLM2-135M")
    parser.add_argument("--data", type=Path, required=True, help="folder of the rows (benches.pretrained.rows.FILES)")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--choices", nargs="+", choices=CHOICES, default=CHOICES, help="of layers, for the part cost")
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "layer_share", help="of the finished steps")
    return parser.parse_args()


if __name__ == "__main__":
    main()
