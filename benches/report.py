"""What the report of a large pool costs: seconds of a core, peak memory, and the size of the page.

    python -m benches.report --rows 10000 1000000

The run is made of generated numbers (`tests.support.swept_run`), because a report needs no pass of a model: texts of
up to 900 characters, 32 seeds, sketches of 32 columns, 256 clusters, 10 % chosen by `agreement`. `gdig report` runs in
a process of its own, on one thread.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import tempfile
from pathlib import Path
from typing import Any

from benches.shared.machine import ROOT, machine, provenance
from benches.shared.processes import measure
from examples.tiny_model import make_tokenizer
from gdig import select
from tests.support.project_fixtures import llama_module, save_model, write_jsonl
from tests.support.swept_run import make_swept

RECORD = Path(__file__).parent / "record" / "report.json"
N_SEEDS = 32
WORDS = "river stone cloud window music answer question number explain because however " * 12


def make_row(number: int) -> dict[str, str]:
    """A row like no other, of 20 to 900 characters."""
    draw = random.Random(number)
    start, length = draw.randrange(80), draw.randrange(10, 880)
    return {"instruction": f"{number}: {WORDS[start : start + 60]}?", "output": WORDS[start : start + length]}


def measure_report(folder: Path, rows: int) -> dict[str, Any]:
    """Make a run over so many rows, and its report."""
    pool = folder / "pool.jsonl"
    with pool.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(make_row(number)) + "\n" for number in range(rows))
    seeds = write_jsonl(folder / "seeds.jsonl", [make_row(-1 - number) for number in range(N_SEEDS)])
    tokenizer = make_tokenizer([" ".join(make_row(number).values()) for number in range(500)])
    model = save_model(folder / "model", llama_module(len(tokenizer), window=256), tokenizer)
    options: dict[str, Any] = {
        "model": str(model), "candidates": (str(pool),), "seeds": (str(seeds),), "run_path": str(folder / "run"),
        "projection_dim": 32, "n_clusters": 256, "kmeans_max_iter": 5, "method": "agreement", "budget": "10%",
        "report": False, "device": "cpu", "threads": 1, "quiet": True,
    }  # fmt: skip
    make_swept(options, encode=False)
    select(**options)
    html = folder / "report.html"
    command = ["report", str(folder / "run"), "--html", str(html), "--quiet"]
    cost = measure("gdig", command, folder / "log.txt", {"OMP_NUM_THREADS": "1", "RAYON_NUM_THREADS": "1"})
    page = html.stat().st_size
    return {"rows": rows, "cpu_s": cost.cpu_seconds, "peak_bytes": cost.peak_bytes, "page_bytes": page}


def main() -> None:
    """Measure, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 1_000_000], help="rows of each pool")
    parser.add_argument("--record", type=Path, default=RECORD)
    options = parser.parse_args()
    pools = []
    for rows in options.rows:
        folder = Path(tempfile.mkdtemp(prefix="gdig-report-"))
        try:
            pools.append(measure_report(folder, rows))
        finally:
            shutil.rmtree(folder)
        print(json.dumps(pools[-1]), flush=True)
    record = {"pools": pools, "machine": machine(), **provenance(ROOT)}
    options.record.parent.mkdir(exist_ok=True)
    options.record.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
