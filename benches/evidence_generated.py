"""Does the influence predict, and does the selection help? On a generated language that a tiny model learns in seconds.

    python -m benches.evidence_generated                     # every part; records into benches/record/
    python -m benches.evidence_generated --parts datamodels  # one of them
    python -m benches.evidence_generated --quick             # small sizes; recorded in build/ only

The bench trains a small Llama on a base of clean rows, then on a pool with 20 % spoiled and 10 % nearly repeated rows.
It scores the pool by gdig and by the baselines, and trains the base again on many parts of the pool. Finished steps
are kept in build/evidence_generated/, so that an interrupted run continues where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benches.generated_language import scores
from benches.generated_language.predict import datamodels
from benches.generated_language.removal import counterfactuals
from benches.generated_language.selection import selections
from benches.generated_language.world import BASE, FULL, QUICK, TUNE, World
from benches.shared.machine import ROOT, machine, provenance
from benches.shared.steps import Steps

PARTS: dict[str, Callable[[World], dict[str, Any]]] = {
    "datamodels": datamodels,
    "counterfactuals": counterfactuals,
    "selection": selections,
}
"""The experiments, by the name of the record, evidence-NAME.json."""


def main() -> None:
    """Run the missing steps of each part, then write its record."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    size = QUICK if arguments.quick else FULL
    kind = ("quick" if arguments.quick else "full") + (f"-{arguments.random_seed}" if arguments.random_seed else "")
    steps = Steps(arguments.folder / kind, {"torch": torch.__version__})
    world = World(steps, size, arguments.random_seed, variants=scores.QUICK if arguments.quick else None)
    facts = {
        "setup": {"size": asdict(size), "base": asdict(BASE), "tuning": asdict(TUNE)},
        "pool": world.pool_facts(),
        "models": world.facts(),
    }
    print(json.dumps(facts["models"], indent=1), flush=True)
    for name in arguments.parts:
        start = time.monotonic()
        record = {"bench": f"evidence, {name}", "machine": machine() | {"threads": arguments.threads}}
        record |= {**provenance(ROOT), **facts, "found": PARTS[name](world)}
        record["seconds"] = round(time.monotonic() - start)
        file = (arguments.record or _records(arguments)) / f"evidence-{name}.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        print(f"recorded in {file}", flush=True)


def _records(arguments: argparse.Namespace) -> Path:
    if arguments.quick:
        return arguments.folder / "quick"
    return (
        ROOT / "benches" / "record"
        if arguments.random_seed == 0
        else arguments.folder / f"full-{arguments.random_seed}"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--quick", action="store_true", help="run at small sizes, in two minutes")
    parser.add_argument(
        "--folder", type=Path, default=ROOT / "build" / "evidence_generated", help="folder of the finished steps"
    )
    parser.add_argument(
        "--record", type=Path, help="folder of the records (default: benches/record/; --quick: --folder)"
    )
    parser.add_argument(
        "--random-seed", type=int, default=0, help="draw another language and pool; its record goes into build/ only"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of the CPU (default: %(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
