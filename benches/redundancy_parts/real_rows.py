"""False alarms of words on real rows, whose templates are known: a pool and an evaluation set with the same templates.

T0's rows tell their task and their template. A word is a template's if a run of 5 words around it is in 3 of 10 rows of
its template. A row is a copy if it shares 8 words in a row with an entry, none of which is a template's.
"""

from __future__ import annotations

import gzip
import json
import random
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from gdig import _native
from gdig.data.texts import row_texts
from gdig.selection.shared_runs import RunCounts, SharedRuns, common_above

SIZES = ((3, 500), (10, None), (50, None))
"""Entries a task, and rows of the pool; None for all others."""
_SHORT, _OWN, _SHARE = 5, 8, 0.3


def measure_alarms(data: Path) -> dict[str, Any]:
    """Compare rows of one half of the tasks with entries of the same tasks, then those of the other half.

    Args:
        data: .jsonl.gz of rows with `task`, `template`, `prompt` and `completion`.
    """
    with gzip.open(data, "rt", encoding="utf-8") as lines:
        rows = list({row["prompt"]: row for row in map(json.loads, lines)}.values())
    own = _own_runs(rows)
    tasks = sorted({row["task"] for row in rows})
    cases = {}
    for name, half in (("first", tasks[::2]), ("second", tasks[1::2])):
        for each, most in SIZES:
            rng = random.Random(0)
            entries, pool = [], []
            for task in half:
                some = [i for i, row in enumerate(rows) if row["task"] == task]
                rng.shuffle(some)
                entries += some[:each]
                pool += some[each:]
            pool = rng.sample(pool, most) if most is not None else pool
            case = _judged(rows, own, pool, entries)
            cases[f"{name}, {each} entries a task"] = {"tasks": half, **case}
    n_templates = len({row["template"] for row in rows})
    return {"data": data.name, "rows": len(rows), "templates": n_templates, "cases": cases}


def _judged(rows: list[dict[str, Any]], own: list[set[Any]], pool: list[int], entries: list[int]) -> dict[str, Any]:
    """Recall and false alarms of any 13 words, and of gdig's rule, for some of the rows."""
    of_entries = set().union(*(own[i] for i in entries))
    is_copy = np.array([not own[i].isdisjoint(of_entries) for i in pool])
    words = _native.SharedWords([row_texts(rows[i]) for i in entries])
    (equal, _), columns = words.find([row_texts(rows[i]) for i in pool], n_threads=1)
    runs = SharedRuns.join([(0, columns)])
    counts = RunCounts(common_above(len(pool)))
    unsettled = runs.without_settled()
    counts.add(unsettled)
    ways = {"any 13 words": runs.row[runs.entry >= 0], "gdig": unsettled.own(counts.common).row}
    results: dict[str, Any] = {"entries": len(entries), "pool": len(pool), "copies": int(is_copy.sum())}
    for way, places in ways.items():
        hit = np.zeros(len(pool), np.bool_)
        hit[places] = hit[equal] = True
        results[way] = {"found": int((hit & is_copy).sum()), "false_alarms": int((hit & ~is_copy).sum())}
    return results


def _own_runs(rows: list[dict[str, Any]]) -> list[set[Any]]:
    """Of each row the runs of 8 words without a word of its template."""
    words = [re.findall(r"[^\W_]+(?:_[^\W_]+)*", row["prompt"].lower()) for row in rows]
    counts: dict[str, Counter[Any]] = defaultdict(Counter)
    size = Counter(row["template"] for row in rows)
    for row, of_row in zip(rows, words, strict=True):
        counts[row["template"]].update(set(_windows(of_row, _SHORT)))
    own = []
    for row, of_row in zip(rows, words, strict=True):
        is_template = [False] * len(of_row)
        for i, run in enumerate(_windows(of_row, _SHORT)):
            if counts[row["template"]][run] >= max(3, _SHARE * size[row["template"]]):
                is_template[i : i + _SHORT] = [True] * _SHORT
        free = {run for i, run in enumerate(_windows(of_row, _OWN)) if not any(is_template[i : i + _OWN])}
        target = re.findall(r"[^\W_]+(?:_[^\W_]+)*", row["completion"].lower())
        own.append(free | set(_windows(target, _OWN)))
    return own


def _windows(words: list[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
