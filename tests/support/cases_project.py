"""Checks of the sketch in Triton, against float64: on the CPU in Triton's interpreter, by the tests; on a GPU by
benches/gpu.py. Each adds to an `out` that is not zero and lies in a larger buffer full of NaN.

Tolerance, entry by entry, with u = 2^-24. P d_t and Q a_t are float32 sums of at most n = max(I, O) + 1 terms, off by
at most 2 n u of their terms' sizes where tensor cores truncate (12 u a term more for float32 inputs, which become three
TF32 products), and by half an eps of the dtype for the rounding of P and Q; float16 loses 2^-25 of the largest of a row
more. Their product over the tokens is a product of TF32 numbers for half precision, each truncated to 10 bits, together
2 * 2^-10; three such products for float32. It and the sum over a column round 2 (tokens + entries) u.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch

from tests.support.cases_covariance import U, random, twice, variants, within

SMALL = {"M": 16, "K": 32, "num_warps": 1, "num_stages": 2, "programs": 7}

# (lengths, I, O, side, dim, bias, row stride - width)
PROJECT = [
    ([1], 1, 1, 1, 1, False, 0), ([8] * 5, 40, 33, 32, 100, True, 0), ([24] * 7, 144, 112, 5, 7, True, 16),
    ([0, 1, 0, 3, 0], 17, 20, 3, 64, True, 3), ([260], 48, 64, 32, 512, False, 0), ([0, 0], 4, 4, 4, 4, False, 0),
    ([40, 7, 150, 0, 13], 64, 100, 16, 40, True, 5), ([64] * 5, 128, 256, 32, 300, False, 0),
    ([72] * 2, 33, 16, 64, 512, True, 1),
]  # fmt: skip


def checks(device: torch.device) -> Iterator[tuple[str, Callable[[], None]]]:
    """Every check by name; each raises AssertionError when it fails."""
    configs = {"pinned": None, "small": SMALL}
    for number, case in enumerate(PROJECT):
        for dtype, name, shared in variants(device, number):
            yield (
                f"project {case} {dtype} {name}{' shared' * shared}",
                lambda c=case, t=dtype, o=configs[name], s=shared: project(device, t, *c, o, s),
            )


def project(
    device: torch.device, dtype: torch.dtype, lengths: Sequence[int], i: int, o: int, side: int, dim: int, bias: bool,
    slack: int, config: Mapping[str, int] | None = None, shared: bool = False,
) -> None:  # fmt: skip
    """Launch twice, compare with float64, with each other, with what lies around. shared: by way of project_inputs."""
    from gdig.kernels.project import triton
    from gdig.kernels.project.prepared import prepare
    from gdig.kernels.segments import Segments

    examples = Segments(torch.tensor([0, *lengths]).cumsum(0))
    a = random(device, dtype, examples.end, i + slack)[:, :i]
    d = random(device, dtype, examples.end, o + 2 * slack)[:, :o]
    # Rows of very different sizes, as inverse factors make them: float16 must neither overflow nor lose the small ones.
    sizes = 2.0 ** (torch.arange(side) % 41 - 20).to(device)[:, None]
    p, q = random(device, torch.float32, side, o) * sizes, random(device, torch.float32, side, i + bias) / sizes
    columns = torch.randint(0, dim, (side * side,), generator=torch.Generator().manual_seed(dim)).to(device)
    weights = random(device, torch.float32, side, side).flatten()
    before = random(device, torch.float32, len(lengths), dim)
    prepared = prepare(q, p, columns, weights, i, dim, dtype)

    def add(out: torch.Tensor) -> None:
        right = triton.project_inputs(a, side, prepared, config=config) if shared else a
        triton.project(right, d, examples, side, prepared, out, shared=shared, config=config)

    got = twice(before, add)
    product = 12 * U if dtype == torch.float32 else 2 * 2.0**-10
    want, off = sketches(a, d, examples, q, p, columns, weights, dim, dtype, product, max(lengths))
    within(got, before, want, off)


def sketches(
    a: torch.Tensor, d: torch.Tensor, examples, q: torch.Tensor, p: torch.Tensor, columns: torch.Tensor,
    weights: torch.Tensor, dim: int, dtype: torch.dtype, product: float, terms: int,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """The sketch of each example [B, dim] in float64, and how far it may be off: a product of the two sides by
    `product` of its size, and a sum over `terms` tokens and the entries of a column."""
    i, o, side = a.shape[1], d.shape[1], len(p)
    a, d, p, q, weights = (x.double().cpu() for x in (a, d, p, q, weights))
    rounding = 0.0 if dtype == torch.float32 else torch.finfo(dtype).eps / 2
    p_off, q_off = rounding * p.abs(), rounding * q.abs()
    if dtype == torch.float16:
        p_off, q_off = p_off + U * p.abs().amax(1, True), q_off + U * q.abs().amax(1, True)
    a = torch.cat([a, torch.ones(len(a), q.shape[1] - i, dtype=torch.float64)], 1)
    sums = 2 * (max(i, o) + 21) + (12 if dtype == torch.float32 else 0)
    left, right = d @ p.T, a @ q.T
    left_off, right_off = (x.abs() @ (w_off + sums * U * w.abs()).T for x, w, w_off in ((d, p, p_off), (a, q, q_off)))
    want, off = (torch.zeros(len(examples), dim, dtype=torch.float64) for _ in range(2))
    for e, (x, y, x_off, y_off) in enumerate(
        zip(*(z.split(examples.lengths.tolist()) for z in (left, right, left_off, right_off)), strict=True)
    ):
        size = (x.abs() + x_off).T @ (y.abs() + y_off)
        block_off = x_off.T @ y.abs() + x.abs().T @ y_off + x_off.T @ y_off
        block_off += (product + 2 * (terms + side * side + 40) * U) * size
        want[e].index_add_(0, columns.cpu(), (x.T @ y).flatten() * weights)
        off[e].index_add_(0, columns.cpu(), block_off.flatten() * weights.abs())
    return want, off
