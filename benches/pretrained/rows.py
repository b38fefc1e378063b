"""Rows of many tasks from the shared data folder, as prompt and completion, and known ways to spoil one."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

FILES = ("t0.jsonl.gz", "gpteacher.jsonl.gz", "zh-en.json")
FAULTS = ("swapped", "truncated", "copied", "shuffled")
"""swapped: the completion of another row. truncated: the first words, at most half. copied: the last words of the
prompt. shuffled: the completion's words in another order. A completion of fewer than four words is swapped."""


@dataclass(frozen=True)
class Row:
    """A prompt with its completion. fault: "clean" or one of FAULTS."""

    task: str
    prompt: str
    completion: str
    fault: str = "clean"

    @property
    def text(self) -> str:
        """All words, for BM25."""
        return f"{self.prompt} {self.completion}"


def read_rows(folder: Path) -> dict[str, list[Row]]:
    """Read the files of the folder: rows by task, each text once, in the order of the files."""
    rows: dict[str, dict[str, Row]] = {}

    def add(task: str, prompt: str, completion: str) -> None:
        if prompt.strip() and completion.strip():
            rows.setdefault(task, {}).setdefault(prompt, Row(task, prompt.rstrip() + "\n", completion.strip()))

    for row in _json_lines(folder / "t0.jsonl.gz"):
        add(row["task"], row["prompt"], row["completion"])
    for row in _json_lines(folder / "gpteacher.jsonl.gz"):
        add(row["task"], f"{row['instruction']}\n{row['input']}".strip(), row["output"])
    for row in json.loads((folder / "zh-en.json").read_text(encoding="utf-8")):
        add("translation", f"Translate from Chinese to English.\n{row['src_text']}", row["trg_text"])
    return {task: list(own.values()) for task, own in rows.items()}


def _json_lines(file: Path) -> Iterator[dict[str, str]]:
    with gzip.open(file, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def spoil(rows: list[Row], rng: random.Random) -> list[Row]:
    """Spoil every row, in the order of FAULTS in turns."""
    return [_spoil(row, FAULTS[i % len(FAULTS)], rows, rng) for i, row in enumerate(rows)]


def _spoil(row: Row, fault: str, rows: list[Row], rng: random.Random) -> Row:
    words = row.completion.split()
    if len(words) < 4:
        fault = "swapped"
    if fault == "swapped":
        others = [other.completion for other in rows if other.completion != row.completion]
        return replace(row, completion=rng.choice(others), fault=fault)
    if fault == "truncated":
        return replace(row, completion=" ".join(words[: max(1, len(words) // rng.randint(2, 4))]), fault=fault)
    if fault == "copied":
        last = row.prompt.split()[-len(words) :]
        return replace(row, completion=" ".join(last), fault=fault)
    shuffled = words[:]
    while shuffled == words:
        rng.shuffle(shuffled)
    return replace(row, completion=" ".join(shuffled), fault=fault)
