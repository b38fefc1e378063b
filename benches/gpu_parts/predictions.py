"""What was predicted of an H100 by reading and counting, before any kernel ran on a GPU. Records hold both.

The passes' rates were predicted before the changes that the predictions asked for: no mask and no wait in transformers,
a head of 2,048 positions and more, and a fused loss.
"""

from __future__ import annotations

Range = tuple[float, float]

OF_CEILING: dict[str, Range] = {
    "project 160M up, 32 tokens": (0.60, 0.65),
    "project 160M up, 64 tokens": (0.72, 0.78),
    "project 160M up, 256 tokens": (0.83, 0.83),
    "project 1B up, 256 tokens": (0.80, 0.90),
    "score 160M down, 256 tokens, 256 x 32": (0.55, 0.65),
    "score 1B down, 256 tokens, 256 x 32": (0.62, 0.72),
    "covariance 160M 768 wide": (0.90, 1.00),
    "covariance 1B 2048 wide": (0.90, 1.00),
    # A copy reads and writes once. The kernel reads twice, the second time in part from the L2 cache.
    "cross_entropy 49152 words": (0.65, 0.95),
    "cross_entropy 128256 words": (0.65, 0.95),
}
"""By operation and work, the share of its ceiling that a kernel reaches."""

TOKENS_PER_SECOND: dict[str, Range] = {
    "160M": (540_000, 620_000),
    "SmolLM2-135M": (230_000, 260_000),
    "1B": (115_000, 125_000),
    "1B Llama": (70_000, 76_000),
}
"""By model, of the sketch alone."""

OF_SORTED: dict[str, Range] = {
    "160M": (0.60, 0.65),
    "SmolLM2-135M": (0.78, 0.85),
    "1B": (0.67, 0.73),
    "1B Llama": (0.67, 0.73),
}
"""By model, of the sketch alone: its time by that of plain forward and backward over the same sorted batches."""

TARGETS_TOKENS: dict[str, float] = {"160M": 1_000_000, "SmolLM2-135M": 600_000, "1B": 140_000, "1B Llama": 140_000}
"""By model, the tokens/s that the sketch is to reach on one H100."""


def beside(predicted: Range | None) -> str:
    """The range as a cell of a table."""
    if predicted is None:
        return ""
    low, high = (f"{x:.2f}" if x < 10 else f"{x:,.0f}" for x in predicted)
    return low if low == high else f"{low} to {high}"
