"""When do gradients separate good pairs from spoiled pairs? On real pairs, with models of growing competence.

The bench trains checkpoints of five runs. Each checkpoint scores a pool with 30 % spoiled rows in many ways, and models
are trained on the rows that the scores choose. The data are read by path and are not part of this project:

    python -m benches.evidence_zh_en --data pairs.json   # a JSON list of src_lang, trg_lang, src_text, trg_text

Finished steps are kept in build/evidence_zh_en/, so that an interrupted run continues where it stopped.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from benches.shared.machine import ROOT, machine, provenance
from benches.shared.steps import Steps
from benches.zh_en.competence import ARMS, SMALL, Arm, checkpoint_scores, train_arms
from benches.zh_en.pair_trials import MAIN, Evidence, Trial
from benches.zh_en.pool import read_pairs, split_pairs, spoil, write_jsonl
from benches.zh_en.retrain import Retraining
from benches.zh_en.trial_tables import tables

SETUP = {"training": 2000, "seeds": 128, "noisy_seeds": 64, "held": 240, "corrupted": 0.3, "random_seed": 0}
SEED_SETS = [MAIN, ("small, clean then pool", 1), ("middle, clean", 3)]
"""The checkpoints that judge the choice of the seeds."""
TRIALS = [
    *(Trial(MAIN, budget, everything=True) for budget in (0.05, 0.1, 0.2, 0.4)),
    Trial(("small, clean then pool", 1), 0.2),
]
"""The selections to train on. The last follows the paper: a model tuned on the raw pool scores the rows, and the model
before that tuning is trained on the chosen rows."""


def main() -> None:
    """Run the missing steps, then write the record and print the tables."""
    arguments = _arguments()
    if not arguments.data.is_file():
        print(f"evidence_zh_en: skipped, no file of pairs at {arguments.data}; name one by --data or GDIG_ZH_EN")
        return
    torch.set_num_threads(arguments.threads)
    steps = Steps(arguments.folder, [SETUP, hashlib.sha256(arguments.data.read_bytes()).hexdigest()])
    rows = write_rows(arguments.data, arguments.folder / "rows")
    record: dict[str, Any] = {
        "bench": "evidence_zh_en",
        "machine": machine() | {"threads": arguments.threads},
        **provenance(ROOT),
        "setup": SETUP,
    }
    arms = [arm for arm in ARMS if not arguments.small or arm.recipe.hidden_size == SMALL.hidden_size]
    for section, results in measure(steps, rows, arms, TRIALS[: 4 if arguments.small else None]):
        record[section] = results
        record["setup"] = SETUP | {"arms": [asdict(arm) for arm in arms]}
        record["seconds"] = steps.all_seconds()
        arguments.record.parent.mkdir(parents=True, exist_ok=True)
        arguments.record.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(tables(record))


def measure(
    steps: Steps, rows: dict[str, Path], arms: Sequence[Arm], trials: Sequence[Trial]
) -> Iterator[tuple[str, Any]]:
    """Yield each part of the record when it is finished."""
    for number, arm in enumerate(arms, 1):  # one after another, so that an interrupted run has whole arms
        checkpoints = train_arms(steps, rows, arms[:number])
        for epoch in arm.epochs:
            checkpoint_scores(steps, arm, checkpoints[arm.name, epoch], rows)
    evidence = Evidence(steps, rows, checkpoints, SETUP["seeds"])
    tokenizer = PreTrainedTokenizerFast.from_pretrained(checkpoints[MAIN].path)
    yield "competence", evidence.competence()
    yield "inverses", evidence.inverses()
    yield "seeds", evidence.seed_sets([name for name in SEED_SETS if name in checkpoints])
    yield "command", evidence.command()
    yield "selections", evidence.selections(Retraining(steps, rows, tokenizer), trials)


def write_rows(data: Path, folder: Path) -> dict[str, Path]:
    """Write the parts of the pairs. The file of seeds ends with spoiled copies of its first rows."""
    s: dict[str, Any] = SETUP
    split = split_pairs(read_pairs(data), s["training"], s["seeds"], s["corrupted"], s["random_seed"], s["held"])
    noisy = spoil(split.seeds[: s["noisy_seeds"]], 1.0, random.Random(s["random_seed"]))
    split.seeds.extend(noisy)
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: folder / f"{name}.jsonl" for name in vars(split)}
    for name, file in files.items():
        write_jsonl(file, getattr(split, name))
    return files


def _arguments() -> argparse.Namespace:
    default = os.environ.get("GDIG_ZH_EN") or ROOT.parent / "shared" / "data" / "zh-en.json"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(default), help="pairs (default: $GDIG_ZH_EN, %(default)s)")
    parser.add_argument(
        "--folder", type=Path, default=ROOT / "build" / "evidence_zh_en", help="folder of the finished steps"
    )
    parser.add_argument(
        "--threads", type=int, default=torch.get_num_threads(), help="threads of the CPU (default: all)"
    )
    parser.add_argument(
        "--small", action="store_true", help="leave out the larger models and the last trial of selections"
    )
    parser.add_argument("--record", type=Path, default=ROOT / "benches" / "record" / "evidence-zh-en.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()
