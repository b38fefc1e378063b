"""The loss at the labelled positions and its gradient, against autograd, and the labels drawn from the model."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from gdig.model import head
from gdig.model.batches import make_batches
from gdig.model.capture import GradientPass
from gdig.model.head_cache import HeadCache
from tests.support.tiny_models import llama, make_examples, wrapped


@pytest.mark.parametrize("whole", [True, False], ids=["one part", "parts"])
@pytest.mark.parametrize("with_head", [True, False], ids=["head", "logits"])
def test_loss_and_gradient_are_those_of_autograd(whole, with_head, monkeypatch):
    model, _ = wrapped(llama())
    if not whole:
        monkeypatch.setattr(head, "_LOGITS_CPU", 1)
        monkeypatch.setattr(head, "_LEAST_POSITIONS", 3)
    if not with_head:
        model = type(model)(**{**model.__dict__, "head": None})
    g = torch.Generator().manual_seed(0)
    x = torch.randn(10, 16 if with_head else 48, generator=g, dtype=torch.float64).requires_grad_()
    labels, weights = torch.randint(0, 48, (10,), generator=g), torch.rand(10, generator=g, dtype=torch.float64)
    nll, gradient, drawn = head.head_loss(model, x.detach(), labels, weights)
    logits = model.head(x) if model.head is not None else x
    want = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    (want_gradient,) = torch.autograd.grad((want * weights).sum(), x)
    assert drawn is None
    assert torch.allclose(nll, want, rtol=1e-12) and torch.allclose(gradient, want_gradient, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("whole", [True, False], ids=["one part", "parts"])
@pytest.mark.parametrize("with_head", [True, False], ids=["head", "logits"])
def test_fisher_products_are_those_of_the_hessian_of_the_loss(with_head, whole, monkeypatch):
    """By autograd's Hessian of -log p_label, which for a softmax does not depend on the label."""
    model, _ = wrapped(llama())
    if not whole:
        monkeypatch.setattr(head, "_LOGITS_CPU", 1)
        monkeypatch.setattr(head, "_LEAST_POSITIONS", 3)
    if with_head:
        model.head.bias = torch.nn.Parameter(torch.randn(48, dtype=torch.float64), requires_grad=False)
    else:
        model = type(model)(**{**model.__dict__, "head": None})
    g = torch.Generator().manual_seed(0)
    width = 16 if with_head else 48
    x, *changes = (torch.randn(7, width, generator=g, dtype=torch.float64) for _ in range(3))
    weights = torch.rand(7, generator=g, dtype=torch.float64)

    def loss(x):
        return torch.nn.functional.cross_entropy((model.head(x) if with_head else x)[None], torch.tensor([5]))

    hessians = [w * torch.autograd.functional.hessian(loss, row) for w, row in zip(weights, x, strict=True)]
    for u, got in zip(changes, head.head_fisher(model, x, weights, changes), strict=True):
        want = torch.stack([h @ row for h, row in zip(hessians, u, strict=True)])
        assert torch.allclose(got, want, rtol=1e-10, atol=1e-13)


def test_a_word_of_next_to_no_probability_has_a_finite_loss():
    """exp(-200) is below float32's range; its logarithm is not."""
    model = type(wrapped(llama())[0])(**{**wrapped(llama())[0].__dict__, "head": None})
    logits = torch.zeros(1, 48)
    logits[0, 7] = -200.0
    nll, gradient, _ = head.head_loss(model, logits, torch.tensor([7]), torch.ones(1, dtype=torch.float64))
    assert nll[0] == pytest.approx(200 + np.log(47), rel=1e-6)
    assert gradient[0, 7] == -1


@pytest.mark.parametrize("words", [5, 128, 300])
def test_labels_are_drawn_by_inverting_the_distribution_function(words):
    """Against a plain search of the running sum in float64, for numbers that are spread evenly."""
    p = torch.softmax(2 * torch.randn(1, words, generator=torch.Generator().manual_seed(words)), -1)
    noise = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    got = head.draw_labels(p.expand(4000, -1), noise)
    cumulative = p[0].double().cumsum(0)
    want = torch.searchsorted(cumulative, noise * cumulative[-1], right=True)
    # Two orders of the same float64 sum: a number within 1e-12 of a boundary may fall on the other side.
    near = ((noise[:, None] * cumulative[-1] - cumulative).abs() < 1e-12).any(1)
    assert torch.equal(got[~near], want[~near]) and near.sum() <= 1
    counts = torch.bincount(got, minlength=words) / 4000
    assert (counts - p[0]).abs().max() <= 1 / 4000 + 1e-6


def test_words_that_cannot_come_are_not_drawn():
    p = torch.zeros(3, 200)
    p[0, 0] = p[1, 150] = p[2, 199] = 1
    for noise in (1e-9, 0.5, 1 - 1e-9):
        assert head.draw_labels(p, torch.full((3,), noise, dtype=torch.float64)).tolist() == [0, 150, 199]


def test_a_second_pass_has_the_labels_of_the_first(monkeypatch):
    model, _ = wrapped(llama())
    passes, draws, seen = GradientPass(model, random_seed=3), [], []
    real = head.draw_labels
    monkeypatch.setattr(head, "draw_labels", lambda p, noise: (draws.append(1), real(p, noise))[1])
    (batch, *_) = make_batches(make_examples(6, 4), 512)
    for _ in range(2):
        gradients = []
        passes.run(batch, lambda index, a, d, mask, gradients=gradients: gradients.append(d.clone()))
        seen.append(gradients)
    assert len(draws) == 1
    heads = GradientPass(model, random_seed=3, heads=HeadCache(1 << 20))
    monkeypatch.setattr(
        head.torch.Tensor,
        "log_softmax",
        lambda *_, real=torch.Tensor.log_softmax, **k: (draws.append(1), real(*_, **k))[1],
    )
    for _ in range(2):
        gradients = []
        heads.run(batch, lambda index, a, d, mask, gradients=gradients: gradients.append(d.clone()))
        seen.append(gradients)
    assert len(draws) == 3  # once through the head, with one draw
    assert all(torch.equal(x, y) for x, y in zip(*seen[:2], strict=True))
    assert all(torch.equal(x, y) for later in seen[1:] for x, y in zip(seen[0], later, strict=True))


@pytest.mark.parametrize(("fused", "bytes_a_logit"), [(True, 2 + 2), (False, 2 + 4 + 2)], ids=["kernel", "torch"])
def test_the_plan_counts_the_block_of_either_loss_on_cuda(fused, bytes_a_logit, monkeypatch):
    """Logits and their gradient in bfloat16; without Triton the probabilities in float32 between the two."""
    model, words = wrapped(llama())[0], 1 << 16
    model = replace(model, device=torch.device("cuda"), dtype=torch.bfloat16, vocab_size=words)
    monkeypatch.setattr(head.ops, "resolve", lambda *_: "triton" if fused else "reference")
    steps = {}
    monkeypatch.setattr(head, "_blocks", lambda model, predictors, wide: steps.update(wide=wide) or ())
    x = torch.empty(0, 16, dtype=torch.bfloat16)
    head.head_loss(model, x, torch.empty(0, dtype=torch.int64), torch.empty(0, dtype=torch.float64))
    positions = head.block_positions("cuda", words, wide=steps["wide"])
    assert positions == (2048 if fused else 512)
    assert positions * words * bytes_a_logit <= head.head_bytes(model)[0] <= 1 << 29
