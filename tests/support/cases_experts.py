"""Checks of the kernels over the rows of several experts in Triton, against float64: on the CPU in Triton's
interpreter, by the tests; on a GPU by benches/gpu.py. Each adds to an `out` that is not zero and lies in a larger
buffer full of NaN.

They add up what the kernels over one layer do, so the bounds are those of cases_score.py and cases_covariance.py, with
the rows of all experts in place of an example's. The sketch multiplies its two sides in float32, without tensor cores:
left and right are off by what cases_project.py says, and their products round as any sum of float32 does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

import torch

from tests.support import cases_covariance, cases_project, cases_score
from tests.support.cases_covariance import U, random, twice, variants, within

Lengths = Sequence[Sequence[int]]
"""For each expert its rows of each example."""

# (rows of each expert and example, columns of each expert and seed, I, O, bias, row stride - width)
SCORE = [
    ([[1]], [[1]], 1, 1, False, 0),
    ([[3, 0, 8], [0, 0, 0], [1, 30, 2]], [[4, 4], [7, 0], [0, 9]], 40, 33, True, 0),
    ([[24, 24], [9, 70]], [[0, 0, 0], [70, 3, 16]], 144, 48, False, 3),
    ([[0, 0], [5, 40], [1, 0], [17, 2]], [[2, 2], [3, 1], [0, 0], [4, 4]], 33, 64, True, 1),
    ([[0, 0]], [[3]], 4, 4, False, 0),
]  # fmt: skip
# (rows of each expert and example, I, O, side, dim, bias, row stride - width)
PROJECT = [
    ([[1]], 1, 1, 1, 1, False, 0), ([[3, 0, 8], [0, 0, 0], [1, 30, 2]], 40, 33, 7, 60, True, 0),
    ([[24, 24], [9, 70]], 144, 48, 20, 33, False, 3), ([[0, 0], [5, 40]], 33, 64, 33, 700, True, 1),
    ([[0, 0]], 4, 4, 4, 4, False, 0),
]  # fmt: skip
# (rows of each expert and example, width, bias, row stride - width, every which row is a pad)
COVARIANCE = [
    ([[1]], 1, True, 0, 0), ([[3, 0, 8], [0, 0, 0], [1, 30, 2]], 33, True, 0, 5),
    ([[24, 24], [9, 70]], 48, False, 3, 0), ([[0, 40], [5, 60]], 70, True, 8, 3),
]  # fmt: skip
# (rows of each expert and example, I, O, experts to leave out)
SQUARES = [
    ([[1]], 1, 1, ()), ([[3, 0, 8], [0, 0, 0], [1, 30, 2]], 33, 20, (0,)), ([[24, 24], [9, 70]], 40, 70, ()),
    ([[0, 40], [5, 60]], 36, 100, (1,)),
]  # fmt: skip


# As a layer's, whose launch also wants a number of programs.
SMALL_PROJECT = {name: value for name, value in cases_project.SMALL.items() if name != "programs"}


def checks(device: torch.device) -> Iterator[tuple[str, Callable[[], None]]]:
    """Every check by name; each raises AssertionError when it fails."""
    cases = [("score", SCORE, score, cases_score.SMALL), ("project", PROJECT, project, SMALL_PROJECT)]
    cases += [("covariance", COVARIANCE, covariance, cases_covariance.SMALL)]
    cases += [("squared_gradients", SQUARES, squares, cases_covariance.SMALL)]
    for operation, table, check, small in cases:
        for number, case in enumerate(table):
            for dtype, name in dict.fromkeys(variant[:2] for variant in variants(device, number)):
                config = small if name == "small" else None
                yield (
                    f"{operation}_experts {case} {dtype} {name}",
                    lambda c=case, t=dtype, o=config, f=check: f(device, t, *c, o),
                )


def expert_rows(lengths: Lengths):
    """The rows of experts with so many of each example."""
    from gdig.kernels.expert_rows import ExpertRows

    ends = torch.tensor(lengths).flatten().cumsum(0).view(len(lengths), -1)
    starts = torch.cat([torch.zeros(1, dtype=torch.int64), ends[:-1, -1]])
    return ExpertRows(torch.cat([starts[:, None], ends], dim=1))


def score(
    device: torch.device, dtype: torch.dtype, lengths: Lengths, ranks: Lengths, i: int, o: int, bias: bool,
    slack: int, config: Mapping[str, int] | None = None,
) -> None:  # fmt: skip
    """Launch twice, compare with float64, with each other, with what lies around."""
    from gdig.kernels.score.prepared import prepare_experts
    from gdig.kernels.score.triton_experts import score_experts
    from gdig.kernels.segments import Segments

    rows = expert_rows(lengths)
    a, d = _sides(device, dtype, rows.end, i, o, slack)
    seeds = [Segments(torch.tensor([0, *own]).cumsum(0)) for own in ranks]
    sizes = [2.0 ** (torch.arange(own.end) % 41 - 20).to(device) for own in seeds]
    u, v = (
        [random(device, torch.float32, height + n, own.end)[n:] for n, own in enumerate(seeds)]
        for height in (o, i + bias)
    )
    u, v = [x * size for x, size in zip(u, sizes, strict=True)], [x / size for x, size in zip(v, sizes, strict=True)]
    before = random(device, torch.float32, rows.examples, len(ranks[0]))
    prepared = prepare_experts(u, v, seeds, i, dtype)
    got = twice(before, lambda out: score_experts(a, d, rows, prepared, out, config=config))

    want, off = (torch.zeros(before.shape, dtype=torch.float64) for _ in range(2))
    terms = max(sum(own[e] for own in lengths) for e in range(rows.examples)) + sum(map(max, ranks))
    for n, (first, last) in enumerate(pairwise(rows.bounds)):
        parts = cases_score.products(a[first:last], d[first:last], u[n], v[n], bias, terms, dtype)
        for total, part in zip((want, off), parts, strict=True):
            total += cases_score.sums(part, rows.of_experts[n], seeds[n])
    within(got, before, want, off)


def project(
    device: torch.device, dtype: torch.dtype, lengths: Lengths, i: int, o: int, side: int, dim: int, bias: bool,
    slack: int, config: Mapping[str, int] | None = None,
) -> None:  # fmt: skip
    """Launch twice, compare with float64, with each other, with what lies around."""
    from gdig.kernels.project.prepared import prepare_experts
    from gdig.kernels.project.triton_experts import project_experts

    rows = expert_rows(lengths)
    a, d = _sides(device, dtype, rows.end, i, o, slack)
    sizes = 2.0 ** (torch.arange(side) % 41 - 20).to(device)[:, None]
    projections = []
    for n in range(len(lengths)):
        columns = torch.randint(0, dim, (side * side,), generator=torch.Generator().manual_seed(dim + n)).to(device)
        p = random(device, torch.float32, side + n, o)[n:] * sizes
        q = random(device, torch.float32, side + n, i + bias)[n:] / sizes
        projections.append((q, p, columns, random(device, torch.float32, side + n, side)[n:].flatten()))
    before = random(device, torch.float32, rows.examples, dim)
    prepared = prepare_experts(projections, i, dim, dtype)
    got = twice(before, lambda out: project_experts(a, d, rows, side, prepared, out, config=config))

    want, off = (torch.zeros(before.shape, dtype=torch.float64) for _ in range(2))
    for n, (first, last) in enumerate(pairwise(rows.bounds)):
        of_expert = a[first:last], d[first:last], rows.of_experts[n], *projections[n]
        parts = cases_project.sketches(*of_expert, dim, dtype, U, rows.end)
        for total, part in zip((want, off), parts, strict=True):
            total += part
    within(got, before, want, off)


def covariance(
    device: torch.device, dtype: torch.dtype, lengths: Lengths, width: int, bias: bool, slack: int, pads: int,
    config: Mapping[str, int] | None = None,
) -> None:  # fmt: skip
    """Launch twice, compare: with float64, with the transpose, with each other, with what lies around."""
    from gdig.kernels.covariance.triton_experts import covariance_experts

    rows = expert_rows(lengths)
    x = random(device, dtype, rows.end, width + slack)[:, :width]
    keep = torch.ones(rows.end, device=device)
    if pads:
        keep[::pads] = 0
        x[::pads] = float("nan")
    side = width + bias
    before = random(device, torch.float32, len(rows) * side, side)
    before += torch.cat([own.T for own in before.split(side)])
    got = twice(before, lambda out: covariance_experts(x, keep, rows, out.split(side), config=config))
    for own, begin, (first, last) in zip(got.split(side), before.split(side), pairwise(rows.bounds), strict=True):
        within(own, begin, *cases_covariance.moments(x[first:last], keep[first:last], bias, dtype))
        assert torch.equal(own, own.T), "not symmetric"


def squares(
    device: torch.device, dtype: torch.dtype, lengths: Lengths, i: int, o: int, left_out: Sequence[int],
    config: Mapping[str, int] | None = None,
) -> None:  # fmt: skip
    """Launch twice, compare with float64. The sums of experts that are left out stay as they are."""
    from gdig.kernels.covariance.triton_experts import squared_gradients_experts

    rows = expert_rows(lengths)
    a, d = _sides(device, dtype, rows.end, i, o, 3)
    before = random(device, torch.float32, len(rows) * o, i)

    def add(out: torch.Tensor) -> None:
        sums = [None if n in left_out else own for n, own in enumerate(out.split(o))]
        squared_gradients_experts(a, d, rows, sums, config=config)

    got = twice(before, add)
    for n, (first, last) in enumerate(pairwise(rows.bounds)):
        own, begin = got.split(o)[n], before.split(o)[n]
        if n in left_out:
            assert torch.equal(own, begin)
        else:
            within(own, begin, *cases_covariance.squared(a[first:last], d[first:last], lengths[n], dtype))


def _sides(device, dtype, rows: int, i: int, o: int, slack: int) -> tuple[torch.Tensor, torch.Tensor]:
    """a [rows, i] and d [rows, o], in memory whose lines are wider."""
    return random(device, dtype, rows, i + slack)[:, :i], random(device, dtype, rows, o + 2 * slack)[:, :o]
