"""Checks of the second moments in Triton, against float64: on the CPU in Triton's interpreter, by the tests; on a GPU
by benches/gpu.py. Each adds to an `out` that is not zero and lies in a larger buffer full of NaN; pads are NaN too.

Tolerance, entry by entry, u = 2^-24: a sum of n terms in float32 is off by at most n u times the sum of their sizes
where each addition rounds, and 2 n u where it truncates, as tensor cores do. float32 inputs become three TF32 products
(12 u a term more). Adding to `out` rounds once more, and so does adding up at most 16 parts.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch

U = 2.0**-24
SMALL = {"M": 16, "N": 32, "K": 16, "num_warps": 1, "num_stages": 2, "programs": 7}

# (tokens, width, bias, row stride - width, every which row is a pad)
COVARIANCE = [
    (1, 1, True, 0, 0), (3, 17, True, 0, 2), (33, 16, False, 8, 5), (70, 33, True, 3, 3), (100, 48, True, 0, 2),
    (150, 52, False, 4, 7), (120, 70, True, 10, 4), (40, 64, True, 0, 1),
]  # fmt: skip
# (lengths, I, O)
SQUARES = [
    ([1], 1, 1), ([0, 1, 0, 3], 5, 17), ([4] * 6, 33, 20), ([17, 0, 40, 33], 16, 32), ([64] * 5, 40, 70),
    ([90, 90, 90], 100, 36), ([100, 1, 7], 40, 70), ([0, 0], 4, 4),
]  # fmt: skip


def dtypes(device: torch.device) -> list[torch.dtype]:
    """What can be tested there: the interpreter's dot product of bfloat16 is wrong in Triton 3.9."""
    half = [torch.float16] if device.type == "cpu" else [torch.bfloat16, torch.float16]
    return [*half, torch.float32]


def variants(device: torch.device, number: int) -> Iterator[tuple[torch.dtype, str, bool]]:
    """Each dtype, "pinned" or "small" and another choice of yes or no, for the case of that number. In the interpreter
    a case has each value of each once, and cases that follow one another have each combination of the three.
    HYPOTHESIS_PROFILE=thorough and a GPU give each case each combination."""
    if device.type != "cpu" or os.environ.get("HYPOTHESIS_PROFILE") == "thorough":
        yield from itertools.product(dtypes(device), ("pinned", "small"), (False, True))
        return
    for place, dtype in enumerate(dtypes(device)):
        yield dtype, ("pinned", "small")[(place + number) % 2], bool((place + number // 2) % 2)


def checks(device: torch.device) -> Iterator[tuple[str, Callable[[], None]]]:
    """Every check by name; each raises AssertionError when it fails."""
    configs = {"pinned": None, "small": SMALL}
    for number, case in enumerate(COVARIANCE):
        for dtype, name in dict.fromkeys(variant[:2] for variant in variants(device, number)):
            yield (
                f"covariance {case} {dtype} {name}",
                lambda c=case, t=dtype, o=configs[name]: covariance(device, t, *c, o),
            )
    for number, (lengths, i, o) in enumerate(SQUARES):
        for dtype, name in dict.fromkeys(variant[:2] for variant in variants(device, number)):
            yield (
                f"squared_gradients {lengths} {i} {o} {dtype} {name}",
                lambda n=lengths, i=i, o=o, t=dtype, c=configs[name]: squares(device, t, n, i, o, c),
            )


def covariance(
    device: torch.device, dtype: torch.dtype, tokens: int, width: int, bias: bool, slack: int, pads: int,
    config: Mapping[str, int] | None = None,
) -> None:  # fmt: skip
    """Launch twice, compare: with float64, with the transpose, with each other, with what lies around."""
    from gdig.kernels.covariance import triton

    x = random(device, dtype, tokens, width + slack)[:, :width]
    keep = torch.ones(tokens, device=device)
    if pads:
        keep[::pads] = 0
        x[::pads] = float("nan")
    side = width + bias
    before = random(device, torch.float32, side, side)
    before += before.T.clone()
    got = twice(before, lambda out: triton.covariance(x, keep, out, config=config))
    within(got, before, *moments(x, keep, bias, dtype))
    assert torch.equal(got, got.T), "not symmetric"


def moments(x: torch.Tensor, keep: torch.Tensor, bias: bool, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """The second moments of the rows that count in float64, and how far they may be off."""
    counted_rows = x[keep > 0].double().cpu()
    wide = torch.cat([counted_rows, torch.ones(len(counted_rows), int(bias), dtype=torch.float64)], 1)
    size = wide.abs().T @ wide.abs()
    return wide.T @ wide, (2 * (len(x) + 20) + (12 if dtype == torch.float32 else 0)) * U * size


def squares(
    device: torch.device, dtype: torch.dtype, lengths: Sequence[int], i: int, o: int,
    config: Mapping[str, int] | None = None,
) -> None:  # fmt: skip
    """Launch twice, compare with float64: (g + e)^2 is off by 2 |g| e + e^2, and the sum rounds once an example."""
    from gdig.kernels.covariance import triton
    from gdig.kernels.segments import Segments

    offsets = torch.tensor([0, *lengths]).cumsum(0)
    tokens = int(offsets[-1])
    a, d = random(device, dtype, tokens, i + 3)[:, :i], random(device, dtype, tokens, o + 8)[:, :o]
    before = random(device, torch.float32, o, i)
    got = twice(before, lambda out: triton.squared_gradients(a, d, Segments(offsets), out, config=config))
    within(got, before, *squared(a, d, lengths, dtype))


def squared(
    a: torch.Tensor, d: torch.Tensor, lengths: Sequence[int], dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """The sum of the squares of each example's gradient in float64, and how far it may be off."""
    a, d = a.double().cpu(), d.double().cpu()
    want, error = (torch.zeros(d.shape[1], a.shape[1], dtype=torch.float64) for _ in range(2))
    starts = [0, *torch.tensor(lengths).cumsum(0).tolist()]
    for e, length in enumerate(lengths):
        span = slice(starts[e], starts[e + 1])
        g = d[span].T @ a[span]
        off = (2 * length + (12 if dtype == torch.float32 else 0)) * U * (d[span].abs().T @ a[span].abs())
        want += g.square()
        error += 2 * g.abs() * off + off.square()
    return want, error + 2 * (len(lengths) + 20) * U * (want + error)


def random(device: torch.device, dtype: torch.dtype, rows: int, width: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(rows * 1000 + width)
    return torch.randn(rows, width, generator=g).to(dtype).to(device)


def twice(before: torch.Tensor, add: Callable[[torch.Tensor], None]) -> torch.Tensor:
    """Let `add` add to copies of `before`, each inside NaN; check that the results are the same bits."""
    results = []
    for _ in range(2):
        frame = torch.full((before.shape[0] + 4, before.shape[1] + 5), float("nan"), device=before.device)
        out = frame[2:-2, 2:-3]
        out.copy_(before)
        with _poisoned():
            add(out)
        results.append(out.clone())
        out.fill_(float("nan"))
        assert bool(frame.isnan().all()), "wrote outside of out"
    assert torch.equal(*results), "two launches differ"
    return results[0]


def within(got: torch.Tensor, before: torch.Tensor, want: torch.Tensor, error: torch.Tensor) -> None:
    want = want + before.double().cpu()
    excess = (got.double().cpu() - want).abs() - error - 2 * U * (want.abs() + error)
    assert bool((excess <= 0).all()), f"off by {float(excess.nan_to_num(nan=torch.inf).max()):.3g} more than it may be"


@contextmanager
def _poisoned() -> Iterator[None]:
    """torch.empty gives NaN in here."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
