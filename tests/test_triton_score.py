"""The scores in Triton: interpreted against float64, compiled for three generations."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed: it has no wheel for this platform")

from hypothesis import given, settings
from hypothesis import strategies as st

from gdig import ops
from gdig.errors import ConfigError
from gdig.kernels.score.prepared import chunk_of
from gdig.ops import Segments
from tests.support import cases_score as cases
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
    st.lists(st.integers(0, 40), min_size=1, max_size=4),
    st.integers(1, 40),
    st.integers(1, 40),
    st.booleans(),
)
def test_any_shape(lengths, ranks, i, o, bias):
    cases.score(CPU, torch.float16, lengths, ranks, i, o, bias, 1, cases.SMALL)


def test_it_is_reached_through_the_door_with_and_without_prepared_factors():
    g = torch.Generator().manual_seed(0)
    a, d, u, v = (torch.randn(40, w, generator=g) for w in (40, 40, 6, 6))
    v, offsets, columns = torch.cat([v, v[:1]]), torch.tensor([0, 10, 40]), torch.tensor([0, 2, 6])
    want, direct, through = torch.zeros(2, 2), torch.zeros(2, 2), torch.zeros(2, 2)
    ops.score(a, d, offsets, u, v, columns, want)
    ops.score(a, d, offsets, u, v, columns, direct, impl="triton")
    prepared = ops.prepare_factors(u, v, columns, 40, torch.float32, impl="triton")
    ops.score(a, d, offsets, u, v, columns, through, impl="triton", prepared=prepared)
    # 30 * 4 * 40 * 41 terms of size 1 or so at most, added by size: 2 (40 + 34 + ...) u of them.
    assert torch.allclose(direct, want, rtol=0, atol=400 * 2.0**-24 * 30 * 4 * 40 * 41)
    assert torch.equal(direct, through)
    assert want.abs().min() > 1
    assert ops.prepare_factors(u, v, columns, 40, torch.float32) is None
    with pytest.raises(ValueError, match="prepared: expected what prepare_factors made of these"):
        ops.score(a, d, offsets, u, v[:40], columns, want, impl="triton", prepared=prepared)
    with pytest.raises(ValueError, match=r"d: expected torch\.float32, the dtype of a, got torch\.float16"):
        ops.score(a, d.half(), offsets, u, v, columns, want, impl="triton")
    with pytest.raises(ConfigError, match="float64 inputs ask for impl='reference'"):
        ops.score(a.double(), d.double(), offsets, u, v, columns, want.double(), impl="triton")


def test_what_is_not_finite_stays_in_its_example():
    a, d = torch.ones(48, 4), torch.ones(48, 4)
    a[16:32, 1] = float("inf")
    d[47] = float("nan")  # also the row that rows past the end read
    out = torch.zeros(3, 1)
    ops.score(a, d, torch.tensor([0, 16, 32, 48]), torch.ones(4, 2), torch.ones(4, 2), torch.tensor([0, 2]), out,
              impl="triton")  # fmt: skip
    assert out[0, 0] == 16 * 2 * 16 and not out[1:].isfinite().any()


def test_chunks_waste_little():
    assert chunk_of(torch.tensor([32] * 9)) == 32
    assert chunk_of(torch.tensor([64, 128, 0])) == 64
    assert chunk_of(torch.tensor([17, 33, 49])) == 16
    assert chunk_of(torch.tensor([], dtype=torch.int64)) == 64


def test_groups_of_tokens_never_span_two_examples():
    for lengths, grain in (([72, 72], 8), ([64, 64, 64], 64), ([8, 5], 8), ([5], 0), ([3, 1, 0], 1), ([0, 4, 0], 0)):
        assert Segments(torch.tensor([0, *lengths]).cumsum(0)).grain == grain


@pytest.mark.slow
def test_pinned_configurations_compile_for_every_generation():
    """Generation 8 is also that of GPUs with 99 KB of shared memory, which the pinned configurations fit."""
    reports = compile_elsewhere("tests.support.launch_score:pinned", 80, 90, 100)
    assert {report.arch for report in reports} == {80, 90, 100}
    for report in reports:
        report.check(*([TENSOR_CORES[report.arch]] if report.kernel in ("_products",) else []))
        assert report.arch != 80 or report.shared <= SHARED_LIMIT[86]
