"""gdig at its defaults on a real pretrained model, beside a plain forward and backward pass over the same rows.

    python -m benches.real_model --model DIR --data DIR          # writes benches/record/real_model.json
    python -m benches.real_model --model DIR --data DIR --rows 200 --seeds 16 --record build/real_model.json
    python -m benches.real_model ... --gdig=--layers --gdig=all  # other options of gdig

The model is a directory in Hugging Face format, such as SmolLM2-135M. The rows are instructions of a folder of files
JSONL, gzipped or not: those of many tasks are the pool, and rows of one task of it are the seeds. Every step is a
process of its own, one after another: the plain pass, and `gdig fit`, `sweep` and `select` of one run. So seconds,
processor seconds and peak memory are those that a user sees, with the start of Python and the loading of the model.
Other libraries run where they are installed (`pip install 'gdig[peers]'`).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from benches.real_model_parts.rows import write_inputs
from benches.shared.machine import ROOT, machine, provenance
from benches.shared.processes import Measured, measure
from benches.shared.tables import markdown

RECORD = ROOT / "benches" / "record" / "real_model.json"
STAGES = ("fit", "sweep", "select")
PEERS = ("kronfluence", "bergson")


def main() -> None:
    """Measure, print and record."""
    arguments = _arguments()
    # For Python's own libraries too, which torch.set_num_threads does not reach.
    environment = {"OMP_NUM_THREADS": str(arguments.threads), "PYTHONPATH": os.pathsep.join(sys.path)}
    record: dict[str, Any] = {"bench": "real_model", "machine": machine() | {"threads": arguments.threads}}
    record |= provenance(ROOT) | {"model": Path(arguments.model).name, "options": arguments.gdig, "steps": {}}
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        work = Path(folder)
        pool, seeds = write_inputs(Path(arguments.data), work, arguments.rows, arguments.seeds)
        run = work / "run"
        inputs = ["--model", arguments.model, "--candidates", str(pool), "--seeds", str(seeds), "--run-path", str(run)]
        for name, command in _steps(arguments, inputs).items():
            measured = measure([sys.executable, *command], work / f"{name}.log", environment)
            record["steps"][name] = _facts(measured)
            print(f"{name}: {measured.seconds:.0f} s, {measured.cpu_seconds:.0f} CPU s, {_gb(measured)} GB", flush=True)
        counts = json.loads((run / "run.json").read_text(encoding="utf-8"))["stages"]["sweep"]["counts"]
        record |= {"rows": counts["rows"], "seeds": arguments.seeds, "tokens": counts["tokens"]}
    plain = record["steps"]["plain"]["cpu_seconds"]
    for facts in record["steps"].values():
        facts["of_plain"] = round(facts["cpu_seconds"] / plain, 3)
        facts["tokens_per_second"] = round(record["tokens"] / facts["seconds"], 1)
    print("\n" + table(record))
    arguments.record.parent.mkdir(parents=True, exist_ok=True)
    arguments.record.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    print(f"\nrecorded in {arguments.record}")


def table(record: dict[str, Any]) -> str:
    """The record as a table in Markdown."""
    rows = [
        [
            name,
            f"{facts['seconds']:.0f}",
            f"{facts['cpu_seconds']:.0f}",
            f"{facts['of_plain']:.2f}",
            f"{facts['tokens_per_second']:.0f}",
            f"{facts['peak_gb']:.1f}",
        ]
        for name, facts in record["steps"].items()
    ]
    return markdown(["step", "seconds", "CPU s", "of plain", "tokens/s", "peak GB"], rows)


def _steps(arguments: argparse.Namespace, inputs: list[str]) -> dict[str, list[str]]:
    """The command of each step, without the interpreter."""
    steps = {"plain": ["-m", "benches.real_model_parts.plain", *inputs, "--threads", str(arguments.threads)]}
    steps |= {stage: ["-m", "gdig", stage, *inputs, *arguments.gdig] for stage in STAGES}
    return steps


def _facts(measured: Measured) -> dict[str, Any]:
    return {
        "seconds": round(measured.seconds, 1),
        "cpu_seconds": round(measured.cpu_seconds, 1),
        "peak_gb": float(_gb(measured)),
    }


def _gb(measured: Measured) -> str:
    return f"{measured.peak_bytes / 1e9:.2f}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="directory of the model")
    parser.add_argument("--data", required=True, help="folder of JSONL files, plain or gzipped, whose rows name a task")
    parser.add_argument("--rows", type=int, default=1000, help="rows of the pool")
    parser.add_argument("--seeds", type=int, default=64, help="rows of the seeds' task that are seeds")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--gdig", action="append", default=[], metavar="FLAG", help="a flag for gdig, or its value")
    parser.add_argument("--work", default=None, help="folder for the run; the default is that of temporary files")
    parser.add_argument("--record", type=Path, default=RECORD, help="file of the record")
    return parser.parse_args()


if __name__ == "__main__":
    main()
