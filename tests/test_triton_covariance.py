"""The second moments in Triton: interpreted against float64, compiled for three generations."""

from __future__ import annotations

from itertools import product

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed: it has no wheel for this platform")

from hypothesis import given, settings
from hypothesis import strategies as st

from gdig import ops
from gdig.errors import ConfigError
from gdig.kernels.covariance import triton as kernels
from tests.support import cases_covariance as cases
from tests.support.profiles import examples
from tests.support.triton_compile import SHARED_LIMIT, TENSOR_CORES, compile_elsewhere

pytestmark = pytest.mark.triton
CPU = torch.device("cpu")
CHECKS = dict(cases.checks(CPU))


@pytest.mark.parametrize("name", CHECKS)
def test_against_float64(name):
    CHECKS[name]()


@settings(max_examples=examples(8), deadline=None)
@given(st.integers(1, 60), st.integers(1, 40), st.booleans(), st.integers(0, 4), st.integers(1, 40))
def test_any_shape_of_covariance(tokens, width, bias, pads, programs):
    cases.covariance(CPU, torch.float16, tokens, width, bias, 0, pads, {**cases.SMALL, "programs": programs})


@settings(max_examples=examples(8), deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(1, 40), st.integers(1, 40), st.integers(1, 40))
def test_any_shape_of_squares(lengths, i, o, programs):
    cases.squares(CPU, torch.float16, lengths, i, o, {**cases.SMALL, "programs": programs})


def test_it_is_reached_through_the_door():
    x, keep = torch.randn(40, 8, generator=torch.Generator().manual_seed(0)), torch.ones(40)
    got, want = torch.zeros(9, 9), torch.zeros(9, 9)
    ops.covariance(x, keep, got, impl="triton")
    ops.covariance(x, keep, want, impl="reference")
    assert got[8, 8] == 40 and torch.allclose(got, want, rtol=0, atol=2 * 60 * 2.0**-24 * 40 * 16)
    offsets = torch.tensor([0, 10, 40])
    squares, plain = torch.zeros(8, 8), torch.zeros(8, 8)
    ops.squared_gradients(x, x, offsets, squares, impl="triton")
    ops.squared_gradients(x, x, offsets, plain)
    assert torch.allclose(squares, plain, rtol=1e-4, atol=0)
    with pytest.raises(ConfigError, match="float64 inputs ask for impl='reference'"):
        ops.covariance(x.double(), keep.double(), want.double(), impl="triton")
    ops.covariance(x.double(), keep.double(), want.double())


def test_a_transposed_out_and_a_strided_input():
    x = torch.randn(8, 40, generator=torch.Generator().manual_seed(0)).T
    got, want = torch.zeros(8, 8), torch.zeros(8, 8)
    kernels.covariance(x, torch.ones(40), got.T)
    ops.covariance(x, torch.ones(40), want)
    assert torch.allclose(got, want, rtol=0, atol=2 * 60 * 2.0**-24 * 40 * 16)


def test_a_split_fills_the_gpu_and_costs_no_more_than_it_gives():
    assert kernels.split_count(21, 16_384, 132) == 6  # one round instead of a sixth of one
    assert kernels.split_count(2_080, 16_384, 132) <= 2  # 16 rounds: little to win
    assert kernels.split_count(1, 64, 132) == 1  # too few tokens to share
    for tiles, tokens in product((1, 21, 78, 300), (64, 1_000, 16_384)):
        assert 1 <= kernels.split_count(tiles, tokens, 132) <= 16


@pytest.mark.slow
def test_pinned_configurations_compile_for_every_generation():
    """Generation 8 is also that of GPUs with 99 KB of shared memory, which the pinned configurations fit."""
    reports = compile_elsewhere("tests.support.launch_covariance:pinned", 80, 90, 100)
    assert {report.arch for report in reports} == {80, 90, 100}
    for report in reports:
        report.check(*([TENSOR_CORES[report.arch]] if report.kernel in ("_gram", "_squares") else []))
        assert report.arch != 80 or report.shared <= SHARED_LIMIT[86]
