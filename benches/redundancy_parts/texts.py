"""Planted copies of evaluation rows in generated texts: recall and false alarms, beside exact hashing and MinHash."""

from __future__ import annotations

import importlib.util
import random
import re
import time
from collections.abc import Callable
from typing import Any

from benches.redundancy_parts.peak_memory import anonymous_peak
from benches.redundancy_parts.planted import changes
from gdig import _native

ENTRIES = 1000
THRESHOLD, PERMUTATIONS, SHINGLE = 0.7, 128, 3
"""Of MinHash: the Jaccard similarity, the length of a signature, and the words of a shingle."""
MOST_MINHASH_ROWS = 20_000
"""Rows for MinHash, which takes about a millisecond a row."""


def measure_texts(measured: Callable[..., dict[str, Any]], rows: int, threads: int) -> dict[str, Any]:
    """Measure each way to find copies of 1,000 entries among `rows` texts, a tenth of which are planted."""
    results: dict[str, Any] = {"rows": rows, "entries": ENTRIES, "threads": threads}
    results["exact hashing"] = measured(by_hash, rows)
    results["13 words"] = measured(by_words, rows, threads)
    if importlib.util.find_spec("datasketch") is not None:
        results["MinHash"] = measured(by_minhash, min(rows, MOST_MINHASH_ROWS))
    return results


def make_texts(rows: int) -> tuple[list[str], list[str], list[tuple[int, str] | None]]:
    """Entries, rows, and of each row the entry that it is a copy of, and the kind of copy; None for another text.

    Words follow Zipf's law, so that common words and short runs of them are in many texts.
    """
    rng = random.Random(0)
    words = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in ("n", "r", "s", "t", "lo", "mi", "ka")]
    weights = [1 / (rank + 1) for rank in range(len(words))]

    def text() -> str:
        drawn = rng.choices(words, weights, k=rng.randint(20, 70))
        marked = [word + rng.choice([",", "."]) if rng.random() < 0.15 else word for word in drawn]
        return " ".join(marked).capitalize() + "."

    entries = [text() for _ in range(ENTRIES)]
    kinds = changes(words)
    pool: list[str] = []
    truth: list[tuple[int, str] | None] = []
    for _ in range(rows):
        if rng.random() < 0.1:
            entry, kind = rng.randrange(ENTRIES), rng.choice(list(kinds))
            pool.append(kinds[kind](entries[entry], rng))
            truth.append((entry, kind))
        else:
            pool.append(text())
            truth.append(None)
    return entries, pool, truth


def by_hash(rows: int) -> dict[str, Any]:
    """Rows that equal an entry, character by character."""
    entries, pool, truth = make_texts(rows)
    begun, cpu = time.monotonic(), time.process_time()
    with anonymous_peak() as peak:
        hashes = {hash(entry) for entry in entries}
        alarms = [hash(row) in hashes for row in pool]
    return _judged(alarms, truth, (time.monotonic() - begun, time.process_time() - cpu), peak[0])


def by_words(rows: int, threads: int) -> dict[str, Any]:
    """Rows that share 13 words with an entry, as gdig finds them. No text has a template, whose words it leaves out."""
    entries, pool, truth = make_texts(rows)
    begun, cpu = time.monotonic(), time.process_time()
    alarms = [False] * len(pool)
    with anonymous_peak() as peak:
        shared = _native.SharedWords([[entry] for entry in entries])
        for start in range(0, len(pool), 4096):
            texts = [[row] for row in pool[start : start + 4096]]
            (equal, _), (places, *_) = shared.find(texts, n_threads=threads)
            for place in {*equal.tolist(), *places.tolist()}:
                alarms[start + place] = True
    return _judged(alarms, truth, (time.monotonic() - begun, time.process_time() - cpu), peak[0])


def by_minhash(rows: int) -> dict[str, Any]:
    """Rows whose MinHash is near to an entry's (datasketch, LSH)."""
    from datasketch import MinHash, MinHashLSH

    entries, pool, truth = make_texts(rows)
    begun, cpu = time.monotonic(), time.process_time()

    def signature(text: str) -> Any:
        words = re.findall(r"\w+", text.lower())
        made = MinHash(num_perm=PERMUTATIONS)
        made.update_batch([" ".join(words[i : i + SHINGLE]).encode() for i in range(max(1, len(words) - SHINGLE + 1))])
        return made

    with anonymous_peak() as peak:
        index = MinHashLSH(threshold=THRESHOLD, num_perm=PERMUTATIONS)
        for number, entry in enumerate(entries):
            index.insert(number, signature(entry))
        alarms = [bool(index.query(signature(row))) for row in pool]
    return {"rows": rows, **_judged(alarms, truth, (time.monotonic() - begun, time.process_time() - cpu), peak[0])}


def _judged(
    alarms: list[bool], truth: list[tuple[int, str] | None], spent: tuple[float, float], own_bytes: int
) -> dict[str, Any]:
    kinds = sorted({copy[1] for copy in truth if copy is not None})
    recall = {}
    for kind in kinds:
        of_kind = [hit for hit, copy in zip(alarms, truth, strict=True) if copy is not None and copy[1] == kind]
        recall[kind] = round(sum(of_kind) / len(of_kind), 4)
    others = [hit for hit, copy in zip(alarms, truth, strict=True) if copy is None]
    return {
        "recall": recall,
        "false_alarms": sum(others) / max(1, len(others)),
        "search_s": spent[0],
        "search_cpu_s": spent[1],
        "cpu_s_per_million_rows": 1e6 * spent[1] / len(alarms),
        "own_bytes": own_bytes,
    }
