"""Checks of the scores in Triton, against float64: on the CPU in Triton's interpreter, by the tests; on a GPU by
benches/gpu.py. Each adds to an `out` that is not zero and lies in a larger buffer full of NaN.

Tolerance, entry by entry, with u = 2^-24. Each of the two products is a float32 sum of at most n = max(I, O) + 1 terms,
off by at most 2 n u of its terms' sizes where tensor cores truncate (12 u a term more for float32 inputs, which become
three TF32 products). Their product is summed over the tokens and columns of an example and a seed: at most
2 (tokens + columns) u. Rounding U and V costs half an eps of their dtype; float16 loses 2^-25 of the largest number of
a column more, where numbers beside it are small. The row of the bias stays float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from tests.support.cases_covariance import U, random, twice, variants, within

SMALL = {"M": 16, "N": 64, "K": 32, "BAND": 2, "num_warps": 1, "num_stages": 2}

# (lengths, columns of each seed, I, O, bias, row stride - width)
SCORE = [
    ([1], [1], 1, 1, False, 0), ([8] * 5, [32] * 5, 40, 33, True, 0), ([72] * 3, [32] * 4, 144, 112, True, 16),
    ([0, 1, 0, 3, 0], [0, 1, 5, 0], 17, 20, True, 3), ([260], [200, 2], 48, 64, False, 0),
    ([40, 7, 140, 0, 13], [70, 17, 0, 3], 64, 100, True, 5), ([24] * 9, [16] * 3, 128, 256, False, 0),
    ([0, 0], [3], 4, 4, False, 0), ([5, 5], [0, 0], 4, 4, True, 0), ([64] * 3, [70, 70], 33, 16, True, 1),
]  # fmt: skip


def checks(device: torch.device) -> Iterator[tuple[str, Callable[[], None]]]:
    """Every check by name; each raises AssertionError when it fails."""
    configs = {"pinned": None, "small": SMALL}
    for number, case in enumerate(SCORE):
        for dtype, name in dict.fromkeys(variant[:2] for variant in variants(device, number)):
            yield f"score {case} {dtype} {name}", lambda c=case, t=dtype, o=configs[name]: score(device, t, *c, o)


def score(
    device: torch.device, dtype: torch.dtype, lengths: Sequence[int], ranks: Sequence[int], i: int, o: int, bias: bool,
    slack: int, config: Mapping[str, int] | None = None,
) -> None:  # fmt: skip
    """Launch twice, compare with float64, with each other, with what lies around."""
    from gdig.kernels.score import triton
    from gdig.kernels.score.prepared import prepare
    from gdig.kernels.segments import Segments

    examples, seeds = (Segments(torch.tensor([0, *n]).cumsum(0)) for n in (lengths, ranks))
    a = random(device, dtype, examples.end, i + slack)[:, :i]
    d = random(device, dtype, examples.end, o + 2 * slack)[:, :o]
    # Columns of very different sizes: float16 must neither overflow nor lose the small ones.
    sizes = 2.0 ** (torch.arange(seeds.end) % 41 - 20).to(device)
    u = random(device, torch.float32, o, seeds.end) * sizes
    v = random(device, torch.float32, i + bias, seeds.end) / sizes
    before = random(device, torch.float32, len(lengths), len(ranks))
    prepared = prepare(u, v, seeds, i, dtype)
    got = twice(before, lambda out: triton.score(a, d, examples, prepared, out, config=config))

    value, off = products(a, d, u, v, bias, max(lengths) + max(ranks), dtype)
    within(got, before, sums(value, examples, seeds), sums(off, examples, seeds))


def products(
    a: torch.Tensor, d: torch.Tensor, u: torch.Tensor, v: torch.Tensor, bias: bool, terms: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor]:
    """(d_t . u_c)(a_t . v_c) [T, C] in float64, and how far each may be off in a sum of `terms` of them."""
    i, o = a.shape[1], d.shape[1]
    a, d, u, v = (x.double().cpu() for x in (a, d, u, v))
    rounding = 0.0 if dtype == torch.float32 else torch.finfo(dtype).eps / 2
    rounded = torch.zeros_like(v)  # the bias stays float32
    rounded[:i] = rounding * v[:i].abs()
    u_off, v_off = rounding * u.abs(), rounded
    if dtype == torch.float16:
        u_off = u_off + U * u.abs().amax(0) if len(u) else u_off
        v_off[:i] += U * v[:i].abs().amax(0)
    a = torch.cat([a, torch.ones(len(a), int(bias), dtype=torch.float64)], 1)
    left, right = d @ u, a @ v
    terms_of_a_side = 2 * (max(i, o) + 21) + (12 if dtype == torch.float32 else 0)
    left_off = d.abs() @ (u_off + terms_of_a_side * U * u.abs())
    right_off = a.abs() @ (v_off + terms_of_a_side * U * v.abs())
    value = left * right
    off = left_off * right.abs() + left.abs() * right_off + left_off * right_off
    return value, off + 2 * (terms + 40) * U * (value.abs() + off)


def sums(x: torch.Tensor, examples, seeds) -> torch.Tensor:
    """[T, C] -> [B, S]."""
    by_example = torch.stack([example.sum(0) for example in x.split(examples.lengths.tolist())])
    return torch.stack([seed.sum(1) for seed in by_example.split(seeds.lengths.tolist(), 1)], 1)
