"""When do gradients tell good pairs from spoiled ones? Real Chinese-English pairs, models of growing competence.

Trains checkpoints of five runs, scores a pool with 30 % spoiled rows by each of them in many ways, and trains on what
the scores choose. The data are read by path and are no part of this project:

    python benches/evidence_zh_en.py --data pairs.json   # a JSON list of src_lang, trg_lang, src_text, trg_text

Finished steps are kept in build/evidence_zh_en/, so that an interrupted run goes on where it was.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "examples"))

import torch
from zh_en.competence import ARMS, checkpoint_scores, train_arms
from zh_en.measure import machine, provenance
from zh_en.pool import read_pairs, spoil, split_pairs, write_jsonl
from zh_en.steps import Steps

SETUP = {"training": 2000, "seeds": 128, "noisy_seeds": 64, "held": 240, "corrupted": 0.3, "seed": 0}


def main() -> None:
    """Run what is missing, then write the record and print the tables."""
    arguments = _arguments()
    if not arguments.data.is_file():
        print(f"evidence_zh_en: skipped, no pairs at {arguments.data} (--data, or GDIG_ZH_EN, names the file)")
        return
    torch.set_num_threads(arguments.threads)
    steps = Steps(arguments.folder, [SETUP, hashlib.sha256(arguments.data.read_bytes()).hexdigest()])
    rows = write_rows(arguments.data, arguments.folder / "rows")
    for number in range(1, len(ARMS) + 1):
        kept = train_arms(steps, rows, ARMS[:number])
        arm = ARMS[number - 1]
        for epoch in arm.kept:
            checkpoint_scores(steps, arm, kept[arm.name, epoch], rows)


def write_rows(data: Path, folder: Path) -> dict[str, Path]:
    """Write the parts of the pairs. The file of seeds ends with spoiled copies of its first rows."""
    s: dict[str, Any] = SETUP
    split = split_pairs(read_pairs(data), s["training"], s["seeds"], s["corrupted"], s["seed"], s["held"])
    noisy = spoil(split.seeds[: s["noisy_seeds"]], 1.0, random.Random(s["seed"]))
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
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "evidence_zh_en", help="finished steps")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU (default: all)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
