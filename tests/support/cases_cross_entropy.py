"""Checks of the loss and its gradient in Triton, against float64: on the CPU in Triton's interpreter, by the tests; on
a GPU by benches/gpu.py.

Tolerance, u = 2^-24. Of exp and log, CUDA promises 2 ulp, so 4 u each; they get |x| u more from a difference x that was
rounded. Let D be the largest |z - max z|. Each of the V exponentials is off by at most (8 + D) u of its size, twice:
once in its lane and once for the lane's largest logit. A row's sum adds ceil(V / N) numbers in a lane, each time after
another scaling, and log2 N in a tree. So it is off by

    s = (2 (8 + D) + 8 ceil(V / N) + log2 N) u

of its size, -log p by s + (2 D + 4 log V + 4) u, and p by (s + (8 + D) u + 2 u) of its size. The gradient is rounded to
the dtype of the logits, after two roundings of p - 1 and the product with the weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import torch

from tests.support.cases_covariance import U, dtypes

SMALL = {"N": 16, "num_warps": 1, "num_stages": 1}
ROUNDING = {torch.bfloat16: 2.0**-8, torch.float16: 2.0**-11, torch.float32: U}
# The smallest numbers of a dtype lie this far apart; half of it is lost where p is below them.
LEAST = {torch.bfloat16: 2.0**-133, torch.float16: 2.0**-24, torch.float32: 2.0**-149}

# (rows, words, row stride - words, size of the logits)
CASES = [(1, 1, 0, 1.0), (3, 17, 0, 1.0), (5, 64, 3, 4.0), (4, 1000, 0, 8.0), (2, 5001, 8, 2.0), (0, 9, 0, 1.0)]


def checks(device: torch.device) -> Iterator[tuple[str, Callable[[], None]]]:
    """Every check by name; each raises AssertionError when it fails."""
    for number, case in enumerate(CASES):
        for place, dtype in enumerate(dtypes(device)):
            for name in ("pinned", "small") if device.type != "cpu" else (("pinned", "small")[(number + place) % 2],):
                config = SMALL if name == "small" else None
                yield (
                    f"cross_entropy {case} {dtype} {name}",
                    lambda c=case, t=dtype, o=config: compare(device, t, *c, o),
                )


def compare(
    device: torch.device, dtype: torch.dtype, rows: int, words: int, slack: int, size: float,
    config: Mapping[str, int] | None = None,
) -> None:  # fmt: skip
    """Launch twice, and compare with float64 and with each other."""
    from gdig.kernels.cross_entropy import triton

    g = torch.Generator().manual_seed(rows + words)
    logits = (size * torch.randn(rows, words + slack, generator=g)).to(dtype).to(device)[:, :words]
    labels, targets = (torch.randint(0, words, (rows,), generator=g).to(device) for _ in range(2))
    weights = torch.rand(rows, generator=g, dtype=torch.float64).to(device)
    nll, gradient = triton.cross_entropy(logits, labels, targets, weights, config=config)
    again = triton.cross_entropy(logits, labels, targets, weights, config=config)
    assert torch.equal(nll, again[0]) and torch.equal(gradient, again[1]), "two launches differ"
    assert nll.dtype == torch.float64 and gradient.dtype == dtype and gradient.shape == (rows, words)
    z = logits.double().cpu()
    p = z.softmax(-1)
    at = torch.arange(rows)
    want = -z.log_softmax(-1)[at, labels.cpu()]
    lanes = (config or {"N": 4096})["N"]
    far = float((z - z.amax(-1, keepdim=True)).abs().max()) if rows else 0.0
    s = (2 * (8 + far) + 8 * math.ceil(words / lanes) + math.log2(lanes)) * U
    assert torch.all((nll.cpu() - want).abs() <= s + (2 * far + 4 * math.log(max(words, 2)) + 4) * U), "loss"
    slope = p.clone()
    slope[at, targets.cpu()] -= 1
    slope *= weights.cpu()[:, None]
    error = (s + (10 + far) * U) * p * weights.cpu()[:, None] + (ROUNDING[dtype] + 3 * U) * slope.abs() + LEAST[dtype]
    # The entry of the target is the rounded difference of two numbers up to 1.
    error[at, targets.cpu()] += 2 * U * weights.cpu()
    assert torch.all((gradient.double().cpu() - slope).abs() <= error), "gradient"
