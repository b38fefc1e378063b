"""The sketch in Triton: interpreted against float64, compiled for three generations."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed: it has no wheel for this platform")

from hypothesis import given, settings
from hypothesis import strategies as st

from gdig import ops
from gdig.errors import ConfigError
from gdig.kernels.project import triton
from gdig.kernels.project.prepared import prepare
from gdig.kernels.project.triton import split
from tests.support import cases_project as cases
from tests.support.profiles import examples
from tests.support.triton_compile import SHARED_LIMIT, TENSOR_CORES, compile_elsewhere

pytestmark = pytest.mark.triton
CPU = torch.device("cpu")
CHECKS = dict(cases.checks(CPU))


@pytest.mark.parametrize("name", CHECKS)
def test_against_float64(name):
    CHECKS[name]()


@settings(max_examples=examples(15), deadline=None)
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=5),
    st.integers(1, 40),
    st.integers(1, 40),
    st.integers(1, 20),
    st.integers(1, 60),
    st.booleans(),
    st.integers(1, 9),
)
def test_any_shape(lengths, i, o, side, dim, bias, programs):
    cases.project(CPU, torch.float16, lengths, i, o, side, dim, bias, 1, {**cases.SMALL, "programs": programs})


def _inputs(side: int = 6):
    g = torch.Generator().manual_seed(0)
    a, d, q, p = (torch.randn(n, w, generator=g) for n, w in ((40, 9), (40, 7), (side, 10), (side, 7)))
    columns = torch.randint(0, 11, (side * side,), generator=g)
    return a, d, torch.tensor([0, 10, 40]), q, p, columns, torch.randn(side * side, generator=g)


def test_it_is_reached_through_the_door_with_and_without_prepared_projections():
    a, d, offsets, q, p, columns, weights = _inputs()
    want, direct, through, shared, half = (torch.zeros(2, 11) for _ in range(5))
    ops.project(a, d, offsets, q, p, columns, weights, want)
    ops.project(a, d, offsets, q, p, columns, weights, direct, impl="triton")
    prepared = ops.prepare_projection(q, p, columns, weights, 9, 11, torch.float32, impl="triton")
    ops.project(a, d, offsets, q, p, columns, weights, through, impl="triton", prepared=prepared)
    right = ops.project_inputs(a, q, dtype=torch.float32, impl="triton", prepared=prepared)
    ops.project(right, d, offsets, None, p, columns, weights, shared, impl="triton", prepared=prepared)
    right = ops.project_inputs(a, q, dtype=torch.float32, impl="triton")
    ops.project(right, d, offsets, None, p, columns, weights, half, impl="triton")
    # 36 entries of 30 * 7 * 10 terms, each of size 4^4 at most.
    for got in (direct, shared, half):
        assert torch.allclose(got, want, rtol=0, atol=2 * 300 * 2.0**-24 * 36 * 30 * 7 * 10)
    assert torch.equal(direct, through) and want.abs().max() > 1
    assert ops.prepare_projection(q, p, columns, weights, 9, 11, torch.float32) is None


def test_what_cannot_be_is_told():
    a, d, offsets, q, p, columns, weights = _inputs()
    out = torch.zeros(2, 11)
    prepared = ops.prepare_projection(q, p, columns, weights, 9, 11, torch.float16, impl="triton")
    with pytest.raises(ValueError, match="prepared: expected what prepare_projection made of these"):
        ops.project(a, d, offsets, q, p, columns, weights, out, impl="triton", prepared=prepared)
    with pytest.raises(ValueError, match="prepared: expected what was prepared for a layer of such an input"):
        ops.project_inputs(a, q, dtype=torch.float32, impl="triton", prepared=prepared)
    with pytest.raises(ValueError, match=r"a: expected torch\.float32, the dtype of d, got torch\.float16"):
        ops.project(a.half(), d, offsets, q, p, columns, weights, out, impl="triton")
    a, d, offsets, q, p, columns, weights = _inputs(65)
    ops.project(a, d, offsets, q, p, columns, weights, out)
    with pytest.raises(ConfigError, match="takes a side of at most 64, got 65"):
        ops.project(a, d, offsets, q, p, columns, weights, out, impl="triton")


@pytest.mark.parametrize("length", [16, 72])
def test_what_is_not_finite_stays_in_its_example(length):
    """Of examples that share a program, and of those that do not."""
    offsets = torch.arange(4) * length
    a, d = torch.ones(3 * length, 9), torch.ones(3 * length, 7)
    a[length + 3, 1] = float("inf")
    d[2 * length - 1, 0] = float("nan")
    _, _, _, q, p, columns, weights = _inputs()
    out = torch.zeros(3, 11)
    ops.project(a, d, offsets, q, p, columns, weights, out, impl="triton")
    # The other two are the same sums, in orders that depend on where in a tile their tokens stand.
    assert out[0].isfinite().all() and torch.allclose(out[0], out[2], atol=1e-3) and out[0].abs().max() > 1
    assert not out[1][columns].isfinite().any()


@pytest.mark.parametrize("lengths", [[8] * 5, [72] * 2, [5, 0, 40], [260]], ids=str)
def test_a_gather_of_its_own_changes_no_bit(lengths):
    """Examples that share a program, fill some, are ragged, and are split between programs."""
    segments = ops.Segments(torch.tensor([0, *lengths]).cumsum(0))
    g = torch.Generator().manual_seed(0)
    a, d = (torch.randn(segments.end, n, generator=g).half() for n in (24, 20))
    p, q = (torch.randn(6, n, generator=g) for n in (20, 24))
    columns = torch.randint(0, 30, (36,), generator=g)
    prepared = prepare(q, p, columns, torch.ones(36), 24, 30, torch.float16)
    results = []
    for gather in (0, 1):
        out = torch.ones(len(lengths), 30)
        triton.project(a, d, segments, 6, prepared, out, shared=False, config={**cases.SMALL, "gather": gather})
        results.append(out)
    assert torch.equal(*results) and results[0].abs().max() > 2


def test_long_examples_are_split_between_programs():
    assert split(128, 128, 128, 264) == (1, 128)
    assert split(32, 512, 128, 264) == (4, 128)
    assert split(300, 4096, 128, 264) == (1, 4096)
    assert split(4, 4096, 128, 264) == (32, 128)
    assert split(20, 1000, 128, 264) == (8, 128)
    assert split(100, 1000, 128, 264) == (2, 512)


@pytest.mark.slow
def test_pinned_configurations_compile_for_every_generation():
    """Generation 8 is also that of GPUs with 99 KB of shared memory, which the pinned configurations fit."""
    reports = compile_elsewhere("tests.support.launch_project:pinned", 80, 90, 100)
    assert {report.arch for report in reports} == {80, 90, 100}
    for report in reports:
        report.check(*([TENSOR_CORES[report.arch]] if report.kernel in ("_blocks", "_inputs") else []))
        assert report.arch != 80 or report.shared <= SHARED_LIMIT[86]
