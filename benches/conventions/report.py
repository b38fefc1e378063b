"""How near two sides' scores are, and the tables of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from zh_en.measure import markdown

EXPECTED = 1e-5
"""Largest difference at full rank in float32, as a share of the seed's largest score."""

REFERENCE, FLOOR, EXACT, DEFAULT = "dense float64", "dense, float32 pass", "gdig", "gdig at 0.99"


def compare(scores: np.ndarray, reference: np.ndarray) -> dict[str, Any]:
    """Compare scores [n, S], seed by seed.

    Returns:
        spearman, pearson: [S] over the rows. largest: the largest |difference| over the largest |reference| of the
        seed. elementwise: the largest |difference| over the |reference| of the same row and seed, which cancelling
        terms of a score near zero can make large without a cause besides rounding.
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
    """Ours with every other side, and every other side with the reference: by "this, that"."""
    others = [name for name in sides if name not in (EXACT, DEFAULT, FLOOR)]
    pairs = [(ours, other) for ours in (EXACT, DEFAULT) for other in others]
    pairs += [(other, REFERENCE) for other in (FLOOR, *others) if other != REFERENCE]
    return {f"{one}, {other}": compare(sides[one], sides[other]) for one, other in pairs}


def missed(models: Mapping[str, Any]) -> list[str]:
    """What is farther from ours at full rank than expected."""
    return [
        f"{kind}, {case}: {pair}: {found['largest']:.1e}"
        for kind, cases in models.items()
        for case, one in cases.items()
        for pair, found in one["compared"].items()
        if pair.startswith(f"{EXACT}, ") and not found["largest"] <= EXPECTED
    ]


def full_table(models: Mapping[str, Any]) -> str:
    """Ours at full rank and by default with each side, and each side with the reference."""
    header = [
        "model, inversion, damping, loss", "with", "Spearman", "Pearson", "largest", "by element",
        "that side from float64", "at 0.99: Spearman", "largest",
    ]  # fmt: skip
    rows = []
    for kind, cases in models.items():
        for case, one in cases.items():
            for other in (REFERENCE, *(name for name in one["sides"] if name != REFERENCE)):
                if other in one["absent"]:
                    rows.append([f"{kind}, {case}", other, one["absent"][other], *[""] * 6])
                    continue
                exact, cut = (one["compared"][f"{ours}, {other}"] for ours in (EXACT, DEFAULT))
                # The reference's row shows what the float32 pass alone costs.
                floor = one["compared"][f"{FLOOR if other == REFERENCE else other}, {REFERENCE}"]
                rows.append(
                    [
                        f"{kind}, {case}", other, f"{min(exact['spearman']):.6f}", f"{min(exact['pearson']):.9f}",
                        f"{exact['largest']:.1e}", f"{exact['elementwise']:.1e}",
                        f"{floor['largest']:.1e}" + (" (pass alone)" if other == REFERENCE else ""),
                        f"{min(cut['spearman']):.4f}", f"{cut['largest']:.1e}",
                    ]
                )  # fmt: skip
    return markdown(header, rows)


def unmatched_table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """What one convention costs that is left as a library has it."""
    header = ["left as it is", "model", "case", "Spearman", "Pearson", "largest"]
    rows = [
        [name, one["model"], one["case"], f"{min(one['spearman']):.4f}", f"{min(one['pearson']):.4f}",
         f"{one['largest']:.1e}"]
        for name, one in found.items()
    ]  # fmt: skip
    return markdown(header, rows)


def _ranks(x: np.ndarray) -> np.ndarray:
    """Ranks from 0; equal numbers share their mean rank."""
    _, where, counts = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts + 1) / 2)[where]


def _pearson(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.corrcoef(x, y)[0, 1])
