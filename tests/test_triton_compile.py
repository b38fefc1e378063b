"""How the tests treat Triton without a GPU: interpreted in this process, compiled for real GPUs in another."""

from __future__ import annotations

import pytest

pytest.importorskip("triton", reason="triton is not installed: it has no wheel for this platform")

from tests.support.triton_compile import TENSOR_CORES, Compiled, compile_elsewhere

pytestmark = pytest.mark.triton


def test_here_kernels_are_interpreted():
    from tests.support.compile_example import gram

    # Exact products of float16, 70 terms below 16 each: the float32 sum is off by at most 70 * 2^-24 * 70 * 16.
    assert gram(16, 4, 2) < 70 * 2.0**-24 * 70 * 16


@pytest.mark.slow
def test_elsewhere_they_are_compiled():
    for warps in (8, 1):
        reports = compile_elsewhere("tests.support.compile_example:gram", 80, 90, 100, arguments=[128, warps, 3])
        assert [report.arch for report in reports] == [80, 90, 100]
        for report in reports:
            assert report.kernel == "_gram" and report.shared > 0
            if warps == 8:
                report.check(TENSOR_CORES[report.arch])
            elif report.arch != 100:  # sums are kept in registers, and one warp cannot hold 128 x 128 of them
                assert any("spills" in fault for fault in report.faults())


def test_a_kernel_that_does_not_fit_is_told():
    wide = Compiled("k", 80, ("mma.sync",), 255, 8, 200_000)
    assert [fault.split()[0] for fault in wide.faults()] == ["spills", "wants"]
    with pytest.raises(AssertionError, match="spills 8 bytes a thread"):
        wide.check()
    with pytest.raises(AssertionError, match=r"expected \('wgmma',\)"):
        Compiled("k", 80, ("mma.sync",), 64, 0, 0).check("wgmma")


def test_what_does_not_compile_says_why():
    with pytest.raises(AssertionError, match=r"compile_example:gram for \(80,\):\n[^$]*power of 2"):
        compile_elsewhere("tests.support.compile_example:gram", 80, arguments=[24, 4, 3])
