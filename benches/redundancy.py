"""The cost and the quality of what keeps a selection free of copies: seconds, peak memory, recall, false alarms.

    python -m benches.redundancy sketches --rows 10000000     # the walk and the search over generated sketches
    python -m benches.redundancy copies --rows 20000          # near-copies of all rows, beside SemHash
    python -m benches.redundancy texts --rows 100000          # planted copies and evaluation rows, beside MinHash
    python -m benches.redundancy model --model DIR --data FILE # the same with the hidden states of a model
    python -m benches.redundancy alarms --data FILE           # false alarms of words on real rows, by template

Each part runs in a process of its own, whose peak memory it records. Records go into benches/record/.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benches.redundancy_parts.near_copies import measure_near_copies
from benches.redundancy_parts.real_rows import measure_alarms
from benches.redundancy_parts.sketches import measure_sketches
from benches.redundancy_parts.texts import measure_texts
from benches.shared.machine import ROOT, machine, provenance

RECORD = Path(__file__).parent / "record" / "redundancy.json"


def measured(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Run `work` in a process of its own, and return what it returns, with its seconds and its peak memory."""
    context = multiprocessing.get_context("spawn")
    parent, child = context.Pipe()
    process = context.Process(target=_measure, args=(child, work, arguments))
    process.start()
    child.close()  # so that the end of a process that fails is an EOFError here
    result = parent.recv()
    process.join()
    return dict(result)


def _measure(pipe: Any, work: Callable[..., dict[str, Any]], arguments: tuple[Any, ...]) -> None:
    begun, cpu = time.monotonic(), time.process_time()
    result = work(*arguments)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    pipe.send({**result, "seconds": time.monotonic() - begun, "cpu_s": time.process_time() - cpu, "peak_bytes": peak})


def main() -> None:
    """Run a part, and add what it measured to the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["sketches", "copies", "texts", "model", "alarms"])
    parser.add_argument("--rows", type=int, default=None, help="rows of the pool")
    parser.add_argument("--budget", type=float, default=0.01, help="share of the rows that the walk chooses")
    parser.add_argument("--dim", type=int, default=128, help="columns of a sketch")
    parser.add_argument("--threads", type=int, default=0, help="0 for all")
    parser.add_argument("--folder", type=Path, default=None, help="where the generated store lies; a temporary folder")
    parser.add_argument("--model", type=Path, default=None)
    parser.add_argument("--data", type=Path, default=None, help="JSONL of real rows")
    parser.add_argument("--record", type=Path, default=RECORD)
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="gdig-redundancy-"))
    try:
        if options.part == "sketches":
            rows = options.rows or 10_000_000
            results = measure_sketches(measured, folder, rows, options.dim, options.budget, options.threads)
        elif options.part == "copies":
            results = measure_near_copies(measured, folder, options.rows or 20_000, options.dim, options.threads)
        elif options.part == "texts":
            results = measure_texts(measured, options.rows or 100_000, options.threads)
        elif options.part == "alarms":
            results = measured(measure_alarms, options.data)
        else:
            from benches.redundancy_parts.hidden_states import measure_model

            results = measure_model(options.model, options.data, folder, options.rows or 600)
    finally:
        if options.folder is None:
            shutil.rmtree(folder)
    record = json.loads(options.record.read_text()) if options.record.exists() else {}
    record[options.part] = {**results, "machine": machine(), **provenance(ROOT)}
    options.record.parent.mkdir(exist_ok=True)
    options.record.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
