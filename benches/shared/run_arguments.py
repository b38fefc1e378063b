"""The arguments of benches that run gdig on a real model and real rows."""

from __future__ import annotations

import argparse
import json
from pathlib import Path


def run_arguments(
    description: str | None, record: Path, rows: int | None = None, seeds: int | None = None
) -> argparse.ArgumentParser:
    """A parser with the model, the data, how much of it, other options of gdig, and where the results go.

    Args:
        description: of the bench.
        record: default file of the record.
        rows: default number of rows of the pool. None: that of each case.
        seeds: default number of seeds, likewise.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="directory of a pretrained model")
    parser.add_argument(
        "--data", type=Path, required=True, help="folder of JSONL files, plain or gzipped, whose rows name a task"
    )
    parser.add_argument("--rows", type=int, default=rows, help="rows of the pool")
    parser.add_argument("--seeds", type=int, default=seeds, help="rows of the seeds' task that are seeds")
    parser.add_argument("--gdig", type=json.loads, default={}, metavar="JSON", help="other options of gdig")
    parser.add_argument("--work", default=None, help="folder for the runs; the default is that of temporary files")
    parser.add_argument("--record", type=Path, default=record, help="file of the record")
    return parser
