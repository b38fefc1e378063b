"""Tables of what keeps a selection free of copies: recall, false alarms, and the cost of each step."""

from __future__ import annotations

from benches.figures_parts.cells import record, table

_KINDS = {
    "exact": "exact",
    "case": "case",
    "punctuation": "punctuation",
    "template": "template",
    "1 word in 20 swapped": "1 word in 20 swapped",
    "1 word in 10 swapped": "1 in 10",
    "1 word in 5 swapped": "1 in 5",
}
"""Kinds of planted copies, and the heads of their columns."""
_WAYS = {
    "exact hashing": "exact hashing",
    "13 words": "13 words (gdig)",
    "MinHash": "MinHash (datasketch, Jaccard 0.7, 128 permutations, 3-word shingles)",
}


def _share(value: float) -> str:
    return f"{value:.2f}" if value else "0"


def recall() -> str:
    """Recall of planted copies by words, false alarms, and processor seconds for a million rows."""
    results = [record("redundancy")["texts"][way] for way in _WAYS]
    seconds = [result["cpu_s_per_million_rows"] for result in results]
    return table(
        ["way", *_KINDS.values(), "false alarms", "seconds"],
        list(_WAYS.values()),
        *([_share(result["recall"][kind]) for result in results] for kind in _KINDS),
        [_share(result["false_alarms"]) for result in results],
        [f"{value:.0f}" if value >= 1 else f"{value:.1f}" for value in seconds],
    )


def steps() -> str:
    """Seconds and memory of each step over ten million sketches."""
    results = record("redundancy")["sketches"]
    repeated, near = results["repeats out"]["repeats"], results["near-copies out"]["passed_over"]
    labels = {
        "choice alone": "the choice alone",
        "repeats out": f"repeats out ({repeated:,} rows)",
        "near-copies out": f"`--max-similarity 0.9` ({near:,} rows passed over)",
        "8 sources": "equal quotas of 8 sources",
        "evaluation set": f"cosines with {results['evaluation set']['entries']:,} evaluation rows",
    }
    costs = [results[name] for name in labels]
    return table(
        ["step", "seconds", "memory"],
        list(labels.values()),
        [f"{cost.get('choice_s', cost['seconds']):.0f}" for cost in costs],
        [f"{cost['own_bytes'] / 1e6:.0f} MB" for cost in costs],
    )


def alarms() -> str:
    """Rows of T0 that share words with entries of the same tasks: copies that are found, and false alarms."""
    cases = record("redundancy")["alarms"]["cases"]
    before, now = ([case[way] for case in cases.values()] for way in ("any 13 words", "gdig"))
    return table(
        [
            "half of the tasks",
            "entries",
            "rows",
            "copies",
            "found",
            "by any 13 words",
            "false alarms",
            "by any 13 words",
        ],
        [name.split(",")[0] for name in cases],
        *([f"{case[column]:,}" for case in cases.values()] for column in ("entries", "pool", "copies")),
        *([f"{case[column]:,}" for case in way] for column in ("found", "false_alarms") for way in (now, before)),
    )
