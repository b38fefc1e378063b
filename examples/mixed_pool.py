"""A mixed pool whose target is known: translation into an invented language, with spoiled rows and repeats among them,
beside rows of other tasks. The demo selects from it.

The other tasks are drawn from the same sentences, so that words alone do not tell the target: translation into a second
language, the words in reverse, the first letters, the longest word, and the number of letters.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from examples.translation_pool import CORRUPTIONS, Row, make_pool

TARGET = "translate into Kalu"
OTHERS: dict[str, Callable[[str], str]] = {
    "turn the words around": lambda text: " ".join(reversed(text.split())),
    "give the first letters": lambda text: " ".join(word[0] for word in text.split()),
    "give the longest word": lambda text: max(text.split(), key=len),
    "count the words": lambda text: str(len(text.split())),
}
SECOND = "translate into Tovu"
FAULTS = (*CORRUPTIONS, "words reversed", "repeated")
SEEDS, HELD_OUT, OF_TARGET, REVERSED, OF_OTHER, REPEATS = 64, 200, 800, 400, 520, 200
KNOWN_OF_TARGET, KNOWN_OF_OTHER = 400, 800


def make_mixed_pool(random_seed: int = 0) -> dict[str, list[Row]]:
    """Return rows of instruction, input, output, and what the generator knows of each: `task` and `fault`.

    - "pool": OF_TARGET rows of the target, 40 % of them spoiled in four ways, REVERSED more rows whose answers have the
      right words from last to first, REPEATS copies of clean rows, and OF_OTHER rows of each other task.
    - "seeds" and "held_out": clean rows of the target.
    - "known": what the model is trained on beforehand, other rows of all tasks, few of the target.
    """
    rng = random.Random(random_seed)
    kalu, clean = make_pool(OF_TARGET, SEEDS + HELD_OUT + KNOWN_OF_TARGET + REVERSED, 0.4, random_seed)
    clean, turned = clean[:-REVERSED], clean[-REVERSED:]
    tovu, _ = make_pool(OF_OTHER + KNOWN_OF_OTHER, 1, 0.0, random_seed + 1)
    seeds, held_out, known_rows = (
        [_row(TARGET, row["src_text"], row["trg_text"]) for row in pairs]
        for pairs in (clean[:SEEDS], clean[SEEDS : SEEDS + HELD_OUT], clean[SEEDS + HELD_OUT :])
    )
    pool = [_row(TARGET, row["src_text"], row["trg_text"], row["corruption"].replace("clean", "none")) for row in kalu]
    pool += [
        _row(TARGET, row["src_text"], " ".join(reversed(row["trg_text"].split())), "words reversed") for row in turned
    ]
    pool += [{**row, "fault": "repeated"} for row in rng.sample([r for r in pool if r["fault"] == "none"], REPEATS)]
    for number, (task, solve) in enumerate([(SECOND, None), *OTHERS.items()]):
        texts = tovu if solve is None else make_pool(OF_OTHER + KNOWN_OF_OTHER, 1, 0.0, random_seed + 2 + number)[0]
        rows = [
            _row(task, row["src_text"], row["trg_text"] if solve is None else solve(row["src_text"])) for row in texts
        ]
        pool += rows[:OF_OTHER]
        known_rows += rows[OF_OTHER:]
    rng.shuffle(pool)
    seen: set[str] = set()
    for row in pool:  # the later one of two equal rows is the repeat
        if row["fault"] in ("none", "repeated") and row["task"] == TARGET:
            row["fault"] = "repeated" if row["input"] in seen else "none"
            seen.add(row["input"])
    rng.shuffle(known_rows)
    return {"pool": pool, "seeds": seeds, "held_out": held_out, "known": known_rows}


def _row(task: str, text: str, answer: str, fault: str = "none") -> Row:
    instruction = task[0].upper() + task[1:] + "."
    return {"instruction": instruction, "input": text, "output": answer, "task": task, "fault": fault}
