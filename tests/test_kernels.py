"""The reference kernels against plain loops: odd shapes, ragged and empty examples, bias, every dtype."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gdig import ops
from gdig.errors import ConfigError
from gdig.kernels import dispatch
from gdig.ops import ExpertRows, Segments
from tests.support.cases_experts import expert_rows
from tests.support.profiles import examples

DTYPES = [torch.float64, torch.float32, torch.bfloat16]


def _case(lengths, i, o, dtype, random_seed=0):
    g = torch.Generator().manual_seed(random_seed)
    t = sum(lengths)
    a, d = (torch.randn(t, w, generator=g, dtype=torch.float64).to(dtype) for w in (i, o))
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    return a, d, offsets


def _gradients(a, d, offsets, bias):
    a, d = a.double(), d.double()
    a = torch.cat([a, torch.ones(len(a), 1, dtype=a.dtype)], 1) if bias else a
    bounds = offsets.tolist()
    return torch.stack([d[i:j].T @ a[i:j] for i, j in pairwise(bounds)])


def _close(got, want, terms, scale):
    """Float32 sums of `terms` products of size `scale`: every term rounds once, at most terms * 2^-24 of the sum."""
    eps = 2.0**-24 if got.dtype == torch.float32 else 2.0**-53
    assert (got.double() - want).abs().max() <= 2 * terms * eps * scale


shapes = st.tuples(
    st.lists(st.integers(0, 9), min_size=1, max_size=5), st.integers(1, 9), st.integers(1, 9), st.booleans()
)


@settings(max_examples=examples(60), deadline=None)
@given(shapes, st.sampled_from(DTYPES), st.lists(st.integers(0, 5), min_size=1, max_size=4))
def test_score(shape, dtype, ranks):
    lengths, i, o, bias = shape
    a, d, offsets = _case(lengths, i, o, dtype)
    acc = torch.promote_types(dtype, torch.float32)
    columns = torch.tensor([0, *ranks]).cumsum(0)
    c = int(columns[-1])
    g = torch.Generator().manual_seed(1)
    u, v = (torch.randn(w, c, generator=g, dtype=torch.float64).to(acc) for w in (o, i + bias))
    out = torch.ones(len(lengths), len(ranks), dtype=acc)
    ops.score(a, d, offsets, u, v, columns, out)
    want = torch.ones(len(lengths), len(ranks), dtype=torch.float64)
    for s in range(len(ranks)):
        seed_columns = slice(int(columns[s]), int(columns[s + 1]))
        w = u[:, seed_columns].double() @ v[:, seed_columns].double().T
        want[:, s] += (_gradients(a, d, offsets, bias) * w).sum((1, 2))
    size = 1 + float(a.double().abs().sum() + 1) * float(d.double().abs().sum()) * float(u.abs().sum() + 1) * float(
        v.abs().sum() + 1
    )
    _close(out, want, i + o + sum(lengths) + c, size)


@settings(max_examples=examples(60), deadline=None)
@given(shapes, st.sampled_from(DTYPES), st.integers(1, 4), st.integers(1, 7))
def test_project(shape, dtype, side, dim):
    lengths, i, o, bias = shape
    a, d, offsets = _case(lengths, i, o, dtype)
    acc = torch.promote_types(dtype, torch.float32)
    g = torch.Generator().manual_seed(2)
    q, p = (torch.randn(side, w, generator=g, dtype=torch.float64).to(acc) for w in (i + bias, o))
    columns = torch.randint(0, dim, (side * side,), generator=g)
    weights = torch.randint(0, 2, (side * side,), generator=g).to(acc) * 2 - 1
    out = torch.ones(len(lengths), dim, dtype=acc)
    ops.project(a, d, offsets, q, p, columns, weights, out)
    blocks = p.double() @ _gradients(a, d, offsets, bias) @ q.double().T
    want = torch.ones(len(lengths), dim, dtype=torch.float64)
    for k in range(side * side):
        want[:, columns[k]] += weights[k] * blocks.flatten(1)[:, k]
    size = 1 + float(a.double().abs().sum() + 1) * float(d.double().abs().sum()) * float(
        q.abs().sum() * p.abs().sum() + 1
    )
    _close(out, want, i + o + sum(lengths) + side * side, size)


@settings(max_examples=examples(60), deadline=None)
@given(shapes, st.sampled_from(DTYPES))
def test_covariance_and_squares(shape, dtype):
    lengths, i, o, bias = shape
    a, d, offsets = _case(lengths, i, o, dtype)
    acc = torch.promote_types(dtype, torch.float32)
    keep = (torch.arange(len(a)) % 3 != 0).to(acc)
    out = torch.ones(i + bias, i + bias, dtype=acc)
    ops.covariance(a, keep, out)
    wide = torch.cat([a.double(), torch.ones(len(a), 1, dtype=torch.float64)], 1) if bias else a.double()
    want = 1 + (wide * keep[:, None]).T @ wide
    _close(out, want, len(a) + 2, 1 + float(wide.square().sum()))
    squares = torch.ones(o, i, dtype=acc)
    ops.squared_gradients(a.to(acc), d.to(acc), offsets, squares)
    g = _gradients(a, d, offsets, False)
    size = 1 + float(a.double().abs().sum() ** 2) * float(d.double().abs().sum() ** 2)
    _close(squares, 1 + g.square().sum(0), sum(lengths) + len(lengths) + 2, size)


def test_arguments_that_do_not_fit_are_named(monkeypatch):
    monkeypatch.setattr(dispatch, "_has_triton", lambda: True)
    monkeypatch.setattr(dispatch, "_interpreted", lambda: False)
    a, d, offsets = _case([2, 3], 4, 5, torch.float32)
    u, v, columns = torch.zeros(5, 2), torch.zeros(4, 2), torch.tensor([0, 2])
    out = torch.zeros(2, 1)
    with pytest.raises(ValueError, match=r"score: v: expected shape \(4, 2\).*got \(7, 2\)"):
        ops.score(a, d, offsets, u, torch.zeros(7, 2), columns, out)
    with pytest.raises(ValueError, match="score: offsets: expected to end at 5, got 2"):
        ops.score(a, d, offsets[:-1], u, v, columns, torch.zeros(1, 1))
    with pytest.raises(ValueError, match="impl: expected one of auto, triton, reference, got 'fast'"):
        ops.score(a, d, offsets, u, v, columns, out, impl="fast")
    q, p, r = torch.zeros(3, 4), torch.zeros(3, 9), torch.zeros(9)
    with pytest.raises(ValueError, match="offsets: expected numbers that rise from 0"):
        ops.score(a, d, torch.tensor([0, 6, 5]), u, v, columns, out)
    with pytest.raises(ConfigError, match="needs tensors on CUDA, got them on cpu"):
        ops.score(a, d, offsets, u, v, columns, out, impl="triton")
    with pytest.raises(ValueError, match="project: p: expected shape"):
        ops.project(a, d, offsets, q, p, r.long(), r, torch.zeros(2, 6))
    with pytest.raises(ValueError, match="covariance: out: expected 4"):
        ops.covariance(a, torch.ones(5), torch.zeros(9, 9))
    with pytest.raises(ValueError, match=r"out: expected torch\.float32, got torch\.float64"):
        ops.score(a, d, offsets, u.double(), v.double(), columns, out.double())


@settings(max_examples=examples(60), deadline=None)
@given(shapes, st.sampled_from(DTYPES), st.integers(1, 4), st.booleans(), st.sampled_from([-30, 0, 30]))
def test_score_dense(shape, dtype, seeds, half, exponent):
    lengths, i, o, bias = shape
    a, d, offsets = _case(lengths, i, o, dtype)
    acc = torch.promote_types(dtype, torch.float32)
    w = torch.randn(seeds, o, i + bias, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    w = (w * torch.tensor(2.0) ** exponent).to(acc)
    stored, scale = w, None
    if half:
        pairs = [ops.halved(x) for x in w]
        stored, scale = torch.stack([x for x, _ in pairs]), torch.stack([x for _, x in pairs])
    out = torch.ones(len(lengths), seeds, dtype=acc)
    ops.score_dense(a, d, offsets, stored, out, scale=scale)
    gradients = _gradients(a, d, offsets, bias)
    want = 1 + torch.einsum("boj,soj->bs", gradients, w.double())
    # A sum of T O J products, each rounded a few times: their number times the unit of the absolute sum.
    sizes = _gradients(a.abs(), d.abs(), offsets, bias).reshape(len(lengths), -1)
    absolute = sizes @ w.double().abs().flatten(1).T
    eps = 2.0**-24 if acc == torch.float32 else 2.0**-53
    bound = (sum(lengths) + o * (i + 1) + 4) * eps * (1 + absolute)
    if half:  # the bound of `halved`, and a sum of rounded numbers, which are at most 2^-11 larger
        largest = w.double().abs().flatten(1).amax(1)
        bound = bound * (1 + 2.0**-11) + 2.0**-11 * absolute + 2.0**-38 * largest * sizes.sum(1, keepdim=True)
    assert ((out.double() - want).abs() <= bound).all()


@settings(max_examples=examples(60), deadline=None)
@given(st.integers(-90, 90), st.sampled_from([torch.float32, torch.float64]), st.integers(0, 40))
def test_a_halved_matrix_is_off_by_what_it_says(exponent, dtype, spread):
    """Entries of sizes 2^-spread to 1 times 2^exponent, so that the smallest are subnormal in float16."""
    generator = torch.Generator().manual_seed(exponent + 1000 * spread)
    sizes = 2.0 ** (exponent - spread * torch.rand(40, 30, generator=generator, dtype=torch.float64))
    w = (sizes * torch.randn(40, 30, generator=generator, dtype=torch.float64)).to(dtype)
    half, scale = ops.halved(w)
    assert half.dtype == torch.float16 and scale.dtype == dtype
    error = (half.double() * scale.double() - w.double()).abs()
    assert (error <= torch.maximum(2.0**-11 * w.double().abs(), 2.0**-38 * w.double().abs().max())).all()
    nothing, scale = ops.halved(torch.zeros(3, 2, dtype=dtype))
    assert scale == 1 and not nothing.any()


def test_score_dense_in_parts_is_the_whole(monkeypatch):
    """Blocks of a few numbers, so that rows, examples and the last short block of each all occur."""
    from gdig.kernels.dense import reference

    a, d, offsets = _case([3] * 7, 5, 6, torch.float64)
    w = torch.randn(2, 6, 6, dtype=torch.float64)
    pairs = [ops.halved(x) for x in w]
    half, scale = torch.stack([x for x, _ in pairs]), torch.stack([x for _, x in pairs])
    for stored, scales in ((w, None), (half, scale)):
        whole, by_blocks = torch.zeros(7, 2, dtype=torch.float64), torch.zeros(7, 2, dtype=torch.float64)
        with monkeypatch.context() as patch:
            ops.score_dense(a, d, offsets, stored, whole, scale=scales)
            patch.setattr(reference, "_WEIGHTS", 40)
            patch.setattr(reference, "_GRADIENTS", 60)
            ops.score_dense(a, d, offsets, stored, by_blocks, scale=scales)
        assert torch.allclose(whole, by_blocks, rtol=1e-12, atol=1e-12)
    with pytest.raises(ValueError, match=r"score_dense: w: expected \[S, 6, 5\] \(or one column more, bias\)"):
        ops.score_dense(a, d, offsets, w[:, :3], whole)
    with pytest.raises(ValueError, match=r"out and w: expected torch\.float64 and torch\.float16"):
        ops.score_dense(a, d, offsets, w, whole, scale=scale)
    with pytest.raises(ValueError, match=r"scale: expected torch\.float64 \[2\], got torch\.float64 \(1,\)"):
        ops.score_dense(a, d, offsets, half, whole, scale=scale[:1])


def test_a_wide_covariance_in_bands_is_symmetric_to_the_bit():
    """257 columns: four bands, the last one short."""
    x = torch.randn(40, 257, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    keep = (torch.arange(40) % 3 > 0).double()
    out = torch.zeros(258, 258, dtype=torch.float64)
    ops.covariance(x, keep, out)
    ones = torch.cat([x, torch.ones(40, 1)], 1)
    assert torch.allclose(out, (ones * keep[:, None]).T @ ones, rtol=1e-13, atol=1e-12)
    assert torch.equal(out, out.T)


experts = st.tuples(
    st.integers(1, 3).flatmap(
        lambda b: st.lists(st.lists(st.integers(0, 5), min_size=b, max_size=b), min_size=1, max_size=4)
    ),
    st.integers(1, 9), st.integers(1, 9), st.booleans(),
)  # fmt: skip


@settings(max_examples=examples(60), deadline=None)
@given(experts, st.sampled_from(DTYPES), st.integers(1, 3), st.integers(1, 7))
def test_experts(shape, dtype, side, dim):
    """Each operation over the rows of experts, against plain loops over experts and examples in float64."""
    lengths, i, o, bias = shape
    rows = expert_rows(lengths)
    a, d, _ = _case([n for own in lengths for n in own], i, o, dtype)
    acc = torch.promote_types(dtype, torch.float32)
    lines, count = rows.examples, len(rows)
    g = torch.Generator().manual_seed(3)

    def draw(*sizes: int) -> torch.Tensor:
        return torch.randn(*sizes, generator=g, dtype=torch.float64).to(acc)

    ranks = torch.randint(0, 3, (count, 2), generator=g)
    seeds = [Segments(torch.cat([torch.zeros(1, dtype=torch.int64), own.cumsum(0)])) for own in ranks]
    u, v = ([draw(height, own.end) for own in seeds] for height in (o, i + bias))
    w = [None if n % 3 == 2 else draw(2, o, i + bias) for n in range(count)]
    columns = torch.randint(0, dim, (count, side * side), generator=g)
    projections = [(draw(side, i + bias), draw(side, o), own, draw(side * side)) for own in columns]
    mask = (torch.arange(rows.end) % 4 > 0).to(acc)
    scores, dense, sketch = (torch.ones(lines, n, dtype=acc) for n in (2, 2, dim))
    moments = [torch.ones(i + bias, i + bias, dtype=acc) for _ in range(count)]
    squares = [None if n % 3 == 1 else torch.ones(o, i, dtype=acc) for n in range(count)]
    ops.score_experts(a, d, rows, u, v, seeds, scores)
    ops.score_dense_experts(a, d, rows, w, dense, scale=[None] * count)
    ops.project_experts(a, d, rows, projections, sketch)
    ops.covariance_experts(a, mask, rows, moments)
    ops.squared_gradients_experts(a, d, rows, squares)

    wanted = [torch.ones(x.shape, dtype=torch.float64) for x in (scores, dense, sketch)]
    factors = [0.0, 0.0, 0.0]  # what the sizes of a and d are multiplied with, of all terms together
    for n, (q, p, own_columns, weights) in enumerate(projections):
        first, last = rows.bounds[n], rows.bounds[n + 1]
        own_a, own_d = a[first:last], d[first:last]
        gradients = _gradients(own_a, own_d, rows.of_experts[n].offsets, bias)
        factors[0] += float(u[n].abs().sum() * v[n].abs().sum())
        factors[1] += 0.0 if w[n] is None else float(w[n].abs().sum())
        factors[2] += float(p.abs().sum() * q.abs().sum() * weights.abs().sum())
        for s, (c, end) in enumerate(pairwise(seeds[n].bounds)):
            wanted[0][:, s] += (gradients * (u[n][:, c:end].double() @ v[n][:, c:end].double().T)).sum((1, 2))
            if w[n] is not None:
                wanted[1][:, s] += (gradients * w[n][s].double()).sum((1, 2))
        wanted[2].index_add_(1, own_columns, (p.double() @ gradients @ q.double().T).flatten(1) * weights.double())
        x = own_a.double() * mask[first:last, None].double()
        x = torch.cat([x, mask[first:last, None].double()], 1) if bias else x
        _close(moments[n], 1 + x.T @ x, len(x) + 1, 1 + float(x.abs().sum()) ** 2)
        if squares[n] is not None:
            gradients = _gradients(own_a, own_d, rows.of_experts[n].offsets, False)
            size = 1 + float(gradients.abs().sum() + own_a.double().abs().sum() * own_d.double().abs().sum()) ** 2
            _close(squares[n], 1 + gradients.square().sum(0), 2 * rows.end + lines + 1, size)
    terms = i + o + rows.end + sum(own.end for own in seeds) + side * side + 2 * o * i
    tokens = float((a.double().abs().sum() + rows.end) * d.double().abs().sum())
    for got, want, size in zip((scores, dense, sketch), wanted, factors, strict=True):
        _close(got, want, terms, 1 + tokens * size)


def test_rows_of_experts_that_do_not_fit_are_refused():
    rows = expert_rows([[2, 1], [0, 3]])
    assert len(rows) == 2 and rows.examples == 2 and rows.bounds == [0, 3, 6] and rows.longest == 3
    assert [own.bounds for own in rows.of_experts] == [[0, 2, 3], [0, 0, 3]]
    assert rows.segments(1, 2).bounds == [0, 0, 3] and rows.segments(0, 2).bounds == [0, 2, 3, 3, 6]
    for offsets in ([[0, 2], [1, 3]], [[0, 2], [2, 1]], [[1, 2]]):
        with pytest.raises(ValueError, match="offsets: expected numbers that rise from 0, each expert's"):
            ExpertRows(torch.tensor(offsets))
    with pytest.raises(ValueError, match=r"offsets: expected int64 \[E, B \+ 1\] on the CPU"):
        ExpertRows(torch.zeros(3, dtype=torch.int64))
    x, sums = torch.ones(6, 2), [torch.zeros(2, 2)] * 2
    seeds, factors = [Segments(torch.tensor([0, 1]))] * 2, [torch.ones(2, 1)] * 2
    projections = [(torch.ones(1, 2), torch.ones(1, 2), torch.zeros(1, dtype=torch.int64), torch.ones(1))] * 2
    calls = [
        lambda x, rows: ops.score_experts(x, x, rows, factors, factors, seeds, torch.zeros(2, 1)),
        lambda x, rows: ops.score_dense_experts(x, x, rows, [None] * 2, torch.zeros(2, 1), scale=[None] * 2),
        lambda x, rows: ops.project_experts(x, x, rows, projections, torch.zeros(2, 1)),
        lambda x, rows: ops.covariance_experts(x, torch.ones(len(x)), rows, sums),
        lambda x, rows: ops.squared_gradients_experts(x, x, rows, sums),
    ]
    for call in calls:
        call(x, rows)
        for other_x, other_rows in ((torch.ones(5, 2), rows), (x, expert_rows([[3, 3]]))):
            with pytest.raises(ValueError, match=r"of (the same rows|[12] experts)"):
                call(other_x, other_rows)
