"""Select from a small translation pool whose bad rows are known, and say what was found.

Makes the pool and a tiny model trained on it (kept in demo/ for the next time), runs `gdig select`, and compares the
chosen rows, and the scores of all rows, with what the generator knows. Run it by `make demo`.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

import gdig
from examples.translation_pool import CORRUPTIONS, make_pool, write_jsonl

HERE = Path(__file__).resolve().parent
BUDGET = 400


def main() -> None:
    """Run the demo in demo/ below the current directory."""
    start = time.monotonic()
    folder = Path("demo")
    make_inputs(folder)
    command = [
        *("select", "--model", f"{folder}/model", "--candidates", f"{folder}/pool.jsonl"),
        *("--seeds", f"{folder}/seeds.jsonl", "--fit-rows", "1000", "--budget", str(BUDGET)),
        *("--run-path", f"{folder}/run", "--output", f"{folder}/selection.jsonl"),
    ]
    print(f"\n$ gdig {shlex.join(command)}", flush=True)
    if status := subprocess.run([sys.executable, "-m", "gdig", *command]).returncode:
        sys.exit(status)  # gdig has said why
    report(folder)
    print(f"\nThe selection: {folder}/selection.jsonl. The run: {folder}/run. {time.monotonic() - start:.0f} s in all.")


def make_inputs(folder: Path) -> None:
    """Make pool, seeds and model, unless they are there and made by the programs as they are now."""
    programs = b"".join((HERE / name).read_bytes() for name in ("translation_pool.py", "tiny_model.py"))
    version, made = hashlib.sha256(programs).hexdigest(), folder / "made-by.txt"
    if made.is_file() and made.read_text() == version:
        print(f"pool, seeds and model are in {folder} already")
        return
    shutil.rmtree(folder, ignore_errors=True)  # with the run, which belongs to the old inputs
    folder.mkdir()
    pool, seeds = make_pool()
    write_jsonl(folder / "pool.jsonl", pool)
    write_jsonl(folder / "seeds.jsonl", seeds)
    print(f"{len(pool)} candidates, {len(seeds)} clean seeds. The beginning of the pool:")
    for row in pool[:8]:
        print(f"  {row['corruption']:<15} {row['src_text']} -> {row['trg_text']}")
    print("training a tiny model on the pool as it is", flush=True)
    from examples.tiny_model import make_model

    make_model(folder / "pool.jsonl", folder / "model")
    made.write_text(version)  # last: until here, the next start makes everything again


def report(folder: Path) -> None:
    """Print how many of the chosen rows are clean, and how well each score tells clean rows from the others."""
    kinds = np.array([row["corruption"] for row in read_jsonl(folder / "pool.jsonl")])
    chosen = np.array([row["corruption"] for row in read_jsonl(folder / "selection.jsonl")])
    clean, expected = np.mean(chosen == "clean"), np.mean(kinds == "clean")
    print(f"\nclean among the {len(chosen)} chosen: {clean:.1%} (a random choice: {expected:.1%} on average)")
    store = gdig.SketchStore.open(folder / "run" / "sweep")
    influence, loss = (
        np.concatenate([store.tensor(shard, name) for shard in range(store.n_shards)]) for name in ("influence", "loss")
    )
    scores = {"mean influence": influence.mean(1), "agreement": (influence > 0).mean(1), "low loss": -loss}
    print("\nAUROC, clean against  " + "".join(f"{name:>16}" for name in scores) + "     pool  chosen")
    for kind in ("all corruptions", *CORRUPTIONS):
        bad = kinds != "clean" if kind == "all corruptions" else kinds == kind
        values = "".join(f"{auroc(score[kinds == 'clean'], score[bad]):16.3f}" for score in scores.values())
        n_chosen = np.sum(chosen != "clean" if kind == "all corruptions" else chosen == kind)
        print(f"  {kind:<20}{values}  {bad.sum():7}{n_chosen:8}")


def auroc(positive: np.ndarray, negative: np.ndarray) -> float:
    """Chance that a positive scores higher than a negative, ties counting half (Mann-Whitney)."""
    values, place = np.unique(np.concatenate([positive, negative]), return_inverse=True)
    n_positive, n_negative = (np.bincount(p, minlength=len(values)) for p in np.split(place, [len(positive)]))
    below = n_negative.cumsum() - n_negative
    return float((n_positive * (below + n_negative / 2)).sum() / (len(positive) * len(negative)))


def read_jsonl(path: Path) -> list[dict]:
    """Read rows, one JSON object a line."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


if __name__ == "__main__":
    main()
