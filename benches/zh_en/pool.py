"""The real pairs, split into a model's training rows, seeds and candidates; four known ways to spoil a candidate."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

CORRUPTIONS = ("swapped target", "truncated", "source copied", "words shuffled")
"""swapped target: the translation of another spoiled pair. truncated: the first words, at most half of them. source
copied: the source stands as its own translation. words shuffled: the translation's words in a random order."""

Row = dict[str, str]


@dataclass(frozen=True)
class Split:
    """Rows by part; each has the file's fields and `corruption`, "clean" or one of CORRUPTIONS.

    candidates: the pool, partly spoiled. seeds: clean. training: clean, for the model; held: clean, to measure it on.
    No row is in two parts.
    """

    candidates: list[Row]
    seeds: list[Row]
    training: list[Row]
    held: list[Row] = field(default_factory=list)


def read_pairs(path: Path) -> list[Row]:
    """Read a JSON list of pairs with src_lang, trg_lang, src_text, trg_text."""
    return json.loads(path.read_text(encoding="utf-8"))


def split_pairs(
    pairs: list[Row], n_training: int, n_seeds: int, corrupted: float, random_seed: int, n_held: int = 0
) -> Split:
    """Shuffle and split the pairs; whatever is neither training row nor held out nor seed is a candidate.

    A pair that occurs twice is never a seed, so that no seed equals a candidate. A share `corrupted` of the candidates
    is spoiled, each way equally often (up to one).
    """
    rng = random.Random(random_seed)
    texts = Counter((pair["src_text"], pair["trg_text"]) for pair in pairs)
    rows = [{**pair, "corruption": "clean"} for pair in rng.sample(pairs, len(pairs))]
    once = [row for row in rows if texts[row["src_text"], row["trg_text"]] == 1]
    seeds = once[:n_seeds]
    chosen = {id(row) for row in seeds}
    rest = [row for row in rows if id(row) not in chosen]
    training, held, candidates = rest[:n_training], rest[n_training:][:n_held], rest[n_training + n_held :]
    return Split(spoil(candidates, corrupted, rng), seeds, training, held)


def spoil(rows: list[Row], share: float, rng: random.Random) -> list[Row]:
    """Return the rows with a share of them spoiled, in the order of CORRUPTIONS in turns."""
    rows = rows[:]
    # A row of fewer than four words cannot be cut or shuffled into something else that is sure to be wrong.
    long_enough = [i for i, row in enumerate(rows) if len(row["trg_text"].split()) >= 4]
    spoiled = rng.sample(long_enough, min(len(long_enough), round(share * len(rows))))
    for k, kind in enumerate(CORRUPTIONS):
        indices = spoiled[k :: len(CORRUPTIONS)]
        targets = [rows[i]["trg_text"] for i in indices]
        for place, i in enumerate(indices):
            other = targets[place - 1]
            rows[i] = {**rows[i], "trg_text": _spoil(rng, rows[i], kind, other), "corruption": kind}
    return rows


def write_jsonl(path: Path, rows: list[Row]) -> None:
    """Write rows, one JSON object a line."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _spoil(rng: random.Random, row: Row, kind: str, other: str) -> str:
    words = row["trg_text"].split()
    if kind == "swapped target":
        return other
    if kind == "truncated":
        return " ".join(words[: rng.randint(1, len(words) // 2)])
    if kind == "source copied":
        return row["src_text"]
    shuffled = words[:]
    while shuffled == words:
        rng.shuffle(shuffled)
    return " ".join(shuffled)
