"""Select from a small mixed pool whose good rows are known, say what was chosen, and train on it.

Makes the pool and a tiny model that knows little of the target task (kept in demo/ for the next time), and runs
`gdig select`. Then `gdig compare --train` trains the model on what gdig, random rows, the lowest loss and BM25 choose,
and shows the loss on held-out rows of the target. Run it by `make demo`.
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

from examples.mixed_pool import FAULTS, TARGET, make_mixed_pool
from examples.translation_pool import write_jsonl

HERE = Path(__file__).resolve().parent
BUDGET = 400
METHODS = ("gdig", "random", "loss", "bm25")


def main() -> None:
    """Run the demo in demo/ below the current directory."""
    start = time.monotonic()
    folder = Path("demo")
    make_inputs(folder)
    run_gdig(
        *("select", "--model", f"{folder}/model", "--candidates", f"{folder}/pool.jsonl"),
        *("--seeds", f"{folder}/seeds.jsonl", "--fit-tokens", "50000", "--budget", str(BUDGET)),
        *("--run-path", f"{folder}/run", "--output", f"{folder}/selection.jsonl"),
    )
    report(read_jsonl(folder / "pool.jsonl"), read_jsonl(folder / "selection.jsonl"))
    run_gdig(
        *("compare", f"{folder}/run", "--budget", str(BUDGET), "--methods", *METHODS),
        *("--train", "--held-out", f"{folder}/held_out.jsonl", "--train-steps", "100", "--train-batch-size", "16"),
        *("--learning-rate", "0.003", "--lora-rank", "0"),
    )
    page = (folder / "run" / "report.html").resolve()
    print(f"\nThe selection: {folder}/selection.jsonl. The run: {folder}/run. {time.monotonic() - start:.0f} s in all.")
    print(f"The report, to open in a browser: {page.as_uri()}")


def run_gdig(*arguments: str) -> None:
    """Run a command of gdig and show it; end where it fails, because gdig has said why."""
    print(f"\n$ gdig {shlex.join(arguments)}", flush=True)
    if status := subprocess.run([sys.executable, "-m", "gdig", *arguments]).returncode:
        sys.exit(status)


def make_inputs(folder: Path) -> None:
    """Make pool, seeds, held-out rows and model, unless they are there and made by the programs as they are now."""
    names = ("mixed_pool.py", "translation_pool.py", "tiny_model.py")
    version = hashlib.sha256(b"".join((HERE / name).read_bytes() for name in names)).hexdigest()
    made = folder / "made-by.txt"
    if made.is_file() and made.read_text() == version:
        print(f"pool, seeds and model are in {folder} already")
        return
    shutil.rmtree(folder, ignore_errors=True)  # with the run, which belongs to the old inputs
    folder.mkdir()
    rows = make_mixed_pool()
    for name, own in rows.items():
        write_jsonl(folder / f"{name}.jsonl", own)
    print(
        f"{len(rows['pool'])} candidates, {len(rows['seeds'])} seeds of the task {TARGET!r}. The beginning of the pool:"
    )
    for row in rows["pool"][:8]:
        print(f"  {row['fault']:<15} {row['instruction']} {row['input']} -> {row['output']}")
    print("training a tiny model on other rows of all tasks, few of them of the target", flush=True)
    from examples.tiny_model import make_model

    make_model(folder / "known.jsonl", folder / "model")
    made.write_text(version)  # last: until here, the next start makes everything again


def report(pool: list[dict[str, str]], selection: list[dict[str, str]]) -> None:
    """Print what was chosen: good rows of the target, faulty ones, and rows of other tasks."""
    kinds = ["good rows of the target", *(f"{fault}, of the target" for fault in FAULTS)]
    others = sorted({row["task"] for row in pool} - {TARGET})
    counts = [[kind_of(row) for row in rows] for rows in (pool, selection)]
    print(f"\n{'':<34}{'pool':>8}{'chosen':>8}")
    for kind in (*kinds, *others):
        print(f"  {kind:<32}{counts[0].count(kind):8}{counts[1].count(kind):8}")
    share = [own.count(kinds[0]) / len(own) for own in counts]
    print(f"good rows of the target: {share[1]:.0%} of the chosen, {share[0]:.0%} of the pool")


def kind_of(row: dict[str, str]) -> str:
    """What the generator knows of a row, in words."""
    if row["task"] != TARGET:
        return row["task"]
    return "good rows of the target" if row["fault"] == "none" else f"{row['fault']}, of the target"


def read_jsonl(path: Path) -> list[dict[str, str]]:
    """Read rows, one JSON object a line."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


if __name__ == "__main__":
    main()
