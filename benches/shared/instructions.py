"""A pool of real instructions of many tasks, and seeds of one of them."""

from __future__ import annotations

import gzip
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

MOST_CHARACTERS = 400
"""Longer rows are left out. The others have about 66 tokens, and a pass over a thousand takes minutes on two cores."""


def write_inputs(data: Path, out: Path, n_rows: int, n_seeds: int) -> tuple[Path, Path]:
    """Write the files of pool and seeds, and return their paths.

    Args:
        data: folder with files *.jsonl or *.jsonl.gz, whose rows have `task`, and prompt and completion, or
            instruction, input and output.
        out: folder for the two files.
        n_rows: rows of the pool, drawn from all tasks.
        n_seeds: rows of the task with the most rows; none of them is in the pool.

    Raises:
        SystemExit: when the folder holds too few rows.
    """
    rows = [row for path in sorted(data.glob("*.jsonl*")) for row in _read(path)]
    random.Random(0).shuffle(rows)
    if len(rows) < n_rows + n_seeds:
        raise SystemExit(f"{data}: expected {n_rows + n_seeds} rows with a task, found {len(rows)}")
    task, _ = Counter(row["task"] for row in rows).most_common(1)[0]
    seeds = [row for row in rows if row["task"] == task][:n_seeds]
    taken = {id(row) for row in seeds}
    pool = [row for row in rows if id(row) not in taken][:n_rows]
    return _write(out / "pool.jsonl", pool), _write(out / "seeds.jsonl", seeds)


def _read(path: Path) -> Iterator[dict[str, str]]:
    open_text = gzip.open if path.suffix == ".gz" else open
    with open_text(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if "task" not in row:
                continue
            if "instruction" in row:
                texts = [row["instruction"], row.get("input", "")]
                prompt, completion = "\n".join(filter(None, texts)), row["output"]
            else:
                prompt, completion = row["prompt"], row["completion"]
            if completion and len(prompt) + len(completion) <= MOST_CHARACTERS:
                yield {"task": row["task"], "prompt": prompt, "completion": completion}


def _write(path: Path, rows: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path
