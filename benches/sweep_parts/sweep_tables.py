"""Ratios, targets and tables of the sweep's bench."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np

from benches.shared.tables import markdown

TARGETS = (
    # sizes, pass, ratio, at most
    (("100m",), "sketch", "against_file_order", 0.6),
    (("100m",), "sketch", "against_sorted", 0.75),
    (("100m",), "256 seeds, third blocks", "against_sorted", 1.0),
    (("tiny", "small"), "scores at 0.99", "against_sorted", 0.9),
    (("tiny", "small"), "scores, exact", "against_sorted", 0.9),
    (("tiny", "small"), "fit", "against_sorted", 1.5),
)


def against(times: Sequence[float], plain: Sequence[float]) -> dict[str, float]:
    """The ratio to a plain pass, round by round: median, least, most."""
    ratios = [mine / other for mine, other in zip(times, plain, strict=True)]
    return {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)}


def difference(scores: np.ndarray, exact: np.ndarray) -> dict[str, float]:
    """How far scores [n, S] are from exact ones: |difference| / |exact|, and Pearson's r over all pairs."""
    error = float(np.linalg.norm(scores - exact) / np.linalg.norm(exact))
    return {"relative_error": error, "correlation": float(np.corrcoef(scores.ravel(), exact.ravel())[0, 1])}


def targets(size: str, passes: dict[str, Any]) -> list[dict[str, Any]]:
    """The targets of this size and these passes: the measured ratio, and whether it meets the target.

    The target is about the clock. The ratio of CPU time stands beside it, because other work disturbs it less.
    """
    results = []
    for sizes, name, ratio, most in TARGETS:
        if size in sizes and name in passes:
            measured, cpu = (passes[name][kind]["median"] for kind in (ratio, f"cpu_{ratio}"))
            verdict = {"measured": measured, "met": measured <= most, "measured_cpu": cpu, "met_cpu": cpu <= most}
            results.append({"pass": name, "ratio": ratio, "at_most": most, **verdict})
    return results


def tables(size: str, figures: dict[str, Any]) -> str:
    """One size's figures as markdown."""
    model, pads = figures["model"], figures["pads"]
    head = (
        f"{size}: Llama of {model['parameters'] / 1e6:.1f}M parameters ({model['layers']} layers, "
        f"{model['hidden_size']} wide), {figures['examples']} examples, {figures['tokens']} tokens; pads "
        f"{pads['file order']:.0%} in file order, {pads['sorted']:.0%} sorted; {figures['measured']['threads']} threads"
    )
    rows = [
        [
            name,
            f"{result['seconds']['median']:.2f}",
            f"{result['tokens_per_second']:,.0f}",
            _spread(result["against_file_order"]),
            _spread(result["against_sorted"]),
            f"{result['cpu_against_file_order']['median']:.3f}, {result['cpu_against_sorted']['median']:.3f}",
            f"{result['memory']['peak_mib'] - result['memory']['ready_mib']:,.0f}" if "memory" in result else "",
        ]
        for name, result in figures["passes"].items()
    ]
    columns = ["", "s", "tokens/s", "of plain, file order", "of plain, sorted", "the same, CPU time", "MiB above ready"]
    lines = [
        f"{'met' if result['met'] else 'MISSED'}: {result['pass']}, {result['ratio'].replace('_', ' ')}: "
        f"{result['measured']:.3f} (CPU time {result['measured_cpu']:.3f}), at most {result['at_most']}"
        for result in figures["targets"]
    ]
    lines += [
        f"{name}: correlation {result['against_exact']['correlation']:.4f} with the exact scores, relative error "
        f"{result['against_exact']['relative_error']:.2g}"
        for name, result in figures["passes"].items()
        if "against_exact" in result
    ]
    lines += [f"absent: {name}: {why}" for name, why in figures["absent"].items()]
    return "\n\n".join([head, markdown(columns, rows), "\n".join(lines)])


def _spread(ratio: dict[str, float]) -> str:
    return f"{ratio['median']:.3f} [{ratio['min']:.2f}..{ratio['max']:.2f}]"
