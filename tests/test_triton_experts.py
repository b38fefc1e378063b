"""The kernels over the rows of several experts in Triton: interpreted against float64, compiled for three GPUs."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed: it has no wheel for this platform")

from gdig import ops
from gdig.kernels.score import triton_experts
from gdig.ops import Segments
from tests.support import cases_experts as cases
from tests.support.triton_compile import SHARED_LIMIT, TENSOR_CORES, compile_elsewhere

pytestmark = pytest.mark.triton
CPU = torch.device("cpu")
CHECKS = dict(cases.checks(CPU))


@pytest.mark.parametrize("name", CHECKS)
def test_against_float64(name):
    CHECKS[name]()


def test_scores_whose_partials_take_several_launches_differ_by_rounding_alone(monkeypatch):
    """A launch adds up the experts that it has before it adds to the sums: at most 64 roundings of 40 * 24 terms."""
    rows = cases.expert_rows([[3, 9], [20, 1], [0, 0], [5, 5]])
    g = torch.Generator().manual_seed(0)
    a, d = (torch.randn(rows.end, n, generator=g) for n in (24, 40))
    seeds = [Segments(torch.tensor([0, 4, 9]))] * 4
    u, v = ([torch.randn(n, 9, generator=g) for _ in seeds] for n in (40, 24))
    results, launches = [], []
    plain = triton_experts._launches
    for most in (1 << 24, 60, 1):
        monkeypatch.setattr(triton_experts, "_PARTIALS", most)
        monkeypatch.setattr(
            triton_experts, "_launches", lambda sizes: (launches.append(list(plain(sizes))), iter(launches[-1]))[1]
        )
        out = torch.zeros(2, 2)
        ops.score_experts(a, d, rows, u, v, seeds, out, impl="triton")
        results.append(out)
    assert [len(x) for x in launches] == [1, 3, 4]
    assert all(torch.allclose(results[0], x, rtol=0, atol=64 * 2.0**-24 * 64 * 40 * 24) for x in results[1:])
    assert results[0].abs().max() > 1


def test_what_is_not_finite_stays_in_its_example():
    rows = cases.expert_rows([[8, 8, 8], [3, 3, 3]])
    a, d = torch.ones(rows.end, 9), torch.ones(rows.end, 7)
    a[10, 1], d[30, 0] = float("inf"), float("nan")  # of example 1 at expert 0, of example 2 at expert 1
    scores, sketch = torch.zeros(3, 1), torch.zeros(3, 11)
    seeds = [Segments(torch.tensor([0, 2]))] * 2
    ops.score_experts(a, d, rows, [torch.ones(7, 2)] * 2, [torch.ones(9, 2)] * 2, seeds, scores, impl="triton")
    projections = [(torch.ones(3, 9), torch.ones(3, 7), torch.arange(9), torch.ones(9))] * 2
    ops.project_experts(a, d, rows, projections, sketch, impl="triton")
    assert scores[0, 0] == 11 * 2 * 63 and not scores[1:].isfinite().any()
    assert (sketch[0, :9] == 11 * 63).all() and not sketch[1:, :9].isfinite().any()


@pytest.mark.slow
def test_pinned_configurations_compile_for_every_generation():
    """Generation 8 is also that of GPUs with 99 KB of shared memory, which the pinned configurations fit."""
    reports = compile_elsewhere("tests.support.launch_experts:pinned", 80, 90, 100)
    assert {report.arch for report in reports} == {80, 90, 100}
    assert {report.kernel for report in reports} == {"_products", "_gather", "_sides", "_columns", "_gram", "_squares"}
    for report in reports:
        dot = report.kernel not in ("_gather", "_columns")
        report.check(*([TENSOR_CORES[report.arch]] if dot else []))
        assert report.arch != 80 or report.shared <= SHARED_LIMIT[86]
