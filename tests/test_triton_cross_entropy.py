"""The loss and its gradient in Triton: interpreted against float64, compiled for three generations."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("triton", reason="triton is not installed: it has no wheel for this platform")

from gdig import ops
from tests.support import cases_cross_entropy as cases
from tests.support.triton_compile import SHARED_LIMIT, compile_elsewhere

pytestmark = pytest.mark.triton
CHECKS = dict(cases.checks(torch.device("cpu")))


@pytest.mark.parametrize("name", CHECKS)
def test_against_float64(name):
    CHECKS[name]()


def test_the_reference_is_that_of_autograd():
    g = torch.Generator().manual_seed(0)
    logits = torch.randn(7, 11, generator=g, dtype=torch.float64, requires_grad=True)
    labels, targets = (torch.randint(0, 11, (7,), generator=g) for _ in range(2))
    weights = torch.rand(7, generator=g, dtype=torch.float64)
    nll, gradient = ops.cross_entropy(logits.detach(), labels, targets, weights)
    losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    (want,) = torch.autograd.grad((losses * weights).sum(), logits)
    assert torch.allclose(gradient, want, rtol=0, atol=1e-15)
    own = torch.nn.functional.cross_entropy(logits, labels, reduction="none").detach()
    assert torch.allclose(nll, own, rtol=1e-14, atol=0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite_has_no_finite_loss_and_spoils_no_other(bad):
    logits = torch.zeros(3, 40)
    logits[1, 7] = bad
    labels = torch.tensor([1, 2, 3])
    for impl in ("reference", "triton"):
        nll, gradient = ops.cross_entropy(logits, labels, labels, torch.ones(3, dtype=torch.float64), impl=impl)
        assert nll.isfinite().tolist() == [True, False, True]
        assert gradient[::2].isfinite().all() and not gradient[1].isfinite().all()


def test_a_word_that_cannot_come_has_no_gradient():
    logits = torch.full((2, 70), float("-inf"))
    logits[:, 33:35] = 1.0
    labels = torch.tensor([33, 34])
    for impl in ("reference", "triton"):
        nll, gradient = ops.cross_entropy(logits, labels, labels, torch.ones(2, dtype=torch.float64), impl=impl)
        assert torch.allclose(nll, torch.full_like(nll, 0.6931471805599453), rtol=1e-6, atol=0)
        assert torch.equal(gradient[:, 33:35], torch.tensor([[-0.5, 0.5], [0.5, -0.5]]))
        assert not gradient[:, :33].any() and not gradient[:, 35:].any()


def test_wrong_shapes_are_said():
    logits, labels = torch.zeros(3, 5), torch.zeros(3, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"cross_entropy: targets: expected shape \(3,\), got \(2,\)"):
        ops.cross_entropy(logits, labels, labels[:2], torch.zeros(3))
    with pytest.raises(ValueError, match=r"cross_entropy: logits: expected \[M, V\], got \(5,\)"):
        ops.cross_entropy(logits[0], labels, labels, torch.zeros(3))


@pytest.mark.slow
def test_pinned_configurations_compile_for_every_generation():
    reports = compile_elsewhere("tests.support.launch_cross_entropy:pinned", 80, 90, 100)
    assert {report.arch for report in reports} == {80, 90, 100}
    for report in reports:
        report.check()
        assert report.arch != 80 or report.shared <= SHARED_LIMIT[86]
