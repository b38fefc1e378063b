"""Compares two sides' scores, and prints the tables: largest differences as shares of the seed's largest score."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from benches.shared.tables import markdown

EXPECTED = 1e-5
"""Largest difference at full rank in float32, as a share of the seed's largest score."""

REFERENCE, FLOOR, EXACT, DEFAULT = "dense float64", "dense, float32 pass", "gdig", "gdig at 0.99"
WIDE = ("gdig, float64", "kronfluence, float64")
"""Everything in float64 except the stored result, so that rounding explains no difference."""
PEERS = ("kronfluence", "bergson")


def compare(scores: np.ndarray, reference: np.ndarray) -> dict[str, Any]:
    """Compare scores [n, S], seed by seed.

    Returns:
        spearman, pearson: [S] over the rows. largest: the largest |difference| over the largest |reference| of the
        seed. elementwise: the largest |difference| over the |reference| of the same row and seed. Rounding alone
        makes it large for scores near zero, whose terms cancel.
    """
    x, y = scores.astype(np.float64), reference.astype(np.float64)
    difference = np.abs(x - y)
    return {
        "spearman": [_pearson(_ranks(a), _ranks(b)) for a, b in zip(x.T, y.T, strict=True)],
        "pearson": [_pearson(a, b) for a, b in zip(x.T, y.T, strict=True)],
        "largest": float((difference.max(0) / np.abs(y).max(0)).max()),
        "elementwise": float((difference / np.abs(y)).max()),
    }


def compare_all(sides: Mapping[str, np.ndarray]) -> dict[str, dict[str, Any]]:
    """gdig with every other side, every side with the reference, float64 with float64; by "this - that"."""
    others = [name for name in (REFERENCE, *PEERS) if name in sides]
    pairs = [(ours, other) for ours in (EXACT, DEFAULT) for other in others]
    pairs += [(other, REFERENCE) for other in (FLOOR, *PEERS, *WIDE) if other in sides]
    pairs += [WIDE] if WIDE[1] in sides else []
    return {f"{name} - {other}": compare(sides[name], sides[other]) for name, other in pairs}


def missed(models: Mapping[str, Any]) -> list[str]:
    """The pairs that are farther from gdig at full rank than expected."""
    return [
        f"{kind}, {case}: {pair}: {comparison['largest']:.1e}"
        for kind, cases in models.items()
        for case, result in cases.items()
        for pair, comparison in result["compared"].items()
        if pair.startswith(f"{EXACT} - ") and not comparison["largest"] <= EXPECTED
    ]


def full_table(models: Mapping[str, Any]) -> str:
    """A row for each model and case: largest differences between sides, and gdig's least correlation with any side."""
    pairs = {
        "gdig, kronfluence": (EXACT, "kronfluence"),
        "gdig, bergson": (EXACT, "bergson"),
        "gdig, dense": (EXACT, REFERENCE),
        "kronfluence, dense": ("kronfluence", REFERENCE),
        "bergson, dense": ("bergson", REFERENCE),
        "float32 pass alone": (FLOOR, REFERENCE),
        "float64: gdig, kronfluence": WIDE,
        "float64: gdig, dense": (WIDE[0], REFERENCE),
    }
    header = ["model, inversion, damping, loss", *pairs, "Spearman", "Pearson", "at 0.99", "Spearman"]
    rows = []
    for kind, cases in models.items():
        for case, comparison in cases.items():
            compared = comparison["compared"]
            names = [f"{a} - {b}" for a, b in pairs.values()]
            largest = [f"{compared[name]['largest']:.1e}" if name in compared else "-" for name in names]
            exact = [comparison for name, comparison in compared.items() if name.startswith(f"{EXACT} - ")]
            least = [min(min(comparison[kind]) for comparison in exact) for kind in ("spearman", "pearson")]
            cut = compared[f"{DEFAULT} - {REFERENCE}"]
            rows.append(
                [
                    f"{kind}, {case}", *largest, f"{least[0]:.6f}", f"{least[1]:.9f}", f"{cut['largest']:.1e}",
                    f"{min(cut['spearman']):.4f}",
                ]
            )  # fmt: skip
    return markdown(header, rows)


def unmatched_table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The effect of one convention that is left as a library has it: the library's scores beside gdig's."""
    header = ["left as it is", "model", "case", "Spearman", "Pearson", "largest"]
    rows = [
        [name, result["model"], result["case"], f"{min(result['spearman']):.4f}", f"{min(result['pearson']):.4f}",
         f"{result['largest']:.1e}"]
        for name, result in results.items()
    ]  # fmt: skip
    return markdown(header, rows)


def _ranks(x: np.ndarray) -> np.ndarray:
    """Ranks from 0; equal numbers share their mean rank."""
    _, where, counts = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2)[where]


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    return round(float(np.corrcoef(x, y)[0, 1]), 12)
