"""The slow truth: per-example gradients by plain autograd, one at a time, and dense Kronecker algebra in float64.

Nothing here shares code with gdig but the stream of uniform numbers that labels are drawn with.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from gdig.philox import stream_key, uniform


def _labels(model, example, drawn_with):
    """Targets at positions 1.., -100 where there is none; drawn from the model by `drawn_with`, (random seed, key)."""
    targets = torch.tensor(np.array(example.labels[1:]), dtype=torch.long)
    if drawn_with is None:
        return targets
    with torch.no_grad():
        logits = model(input_ids=torch.tensor(np.array(example.input_ids))[None].long()).logits[0, :-1]
    places = torch.nonzero(targets != -100)[:, 0]
    noise = uniform(stream_key("labels", *drawn_with), len(places))
    for place, u in zip(places.tolist(), noise, strict=True):
        p = torch.softmax(logits[place].double(), -1).numpy()
        targets[place] = int(np.searchsorted(np.cumsum(p), u * p.sum(), side="right"))
    return targets


def captured(model, names, example, reduction="mean", drawn_with=None):
    """Inputs with the bias' constant [T, J] and output gradients [T, O] of each named layer, float64; and the loss."""
    modules = dict(model.named_modules())
    inputs, outputs, handles = {}, {}, []

    def keep(name):
        def hook(module, args, output):
            output.retain_grad()
            inputs[name], outputs[name] = args[0].detach(), output

        return hook

    for p in model.parameters():
        p.requires_grad_(True)
    targets = _labels(model, example, drawn_with)
    for name in names:
        handles.append(modules[name].register_forward_hook(keep(name)))
    logits = model(input_ids=torch.tensor(np.array(example.input_ids))[None].long()).logits[0, :-1]
    for handle in handles:
        handle.remove()
    loss = _loss(logits, targets, reduction)
    model.zero_grad()
    loss.backward()
    for p in model.parameters():
        p.requires_grad_(False)
    tokens = {}
    for name in names:
        a, d = inputs[name].reshape(-1, inputs[name].shape[-1]).double(), outputs[name].grad
        if modules[name].bias is not None:
            a = torch.cat([a, torch.ones(len(a), 1, dtype=a.dtype)], 1)
        tokens[name] = (a, d.reshape(-1, d.shape[-1]).double())
    return tokens, float(loss.detach())


def _loss(logits, targets, reduction):
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return torch.nn.functional.cross_entropy(wide, targets, ignore_index=-100, reduction=reduction)


@torch.no_grad()
def loss(model, example):
    """The mean loss of an example, as `captured` gives it, without a backward pass."""
    logits = model(input_ids=torch.tensor(np.array(example.input_ids))[None].long()).logits[0, :-1]
    return float(_loss(logits, _labels(model, example, None), "mean"))


def weight_gradient(model, name):
    """[O, J] gradient that the last backward pass left at the layer's own parameters."""
    module = dict(model.named_modules())[name]
    g = module.weight.grad.double()
    g = g.T if type(module).__name__ == "Conv1D" else g
    return g if module.bias is None else torch.cat([g, module.bias.grad.double()[:, None]], 1)


def gradient(pair):
    """G = sum_t d_t a_t^T, [O, J]."""
    a, d = pair
    g = torch.zeros(d.shape[1], a.shape[1], dtype=torch.float64)
    for x, y in zip(a, d, strict=True):
        g += torch.outer(y, x)
    return g


def moments(pairs, reduce=False):
    """A [J, J] and S [O, O] of one layer over examples, and tokens per example."""
    if reduce:
        rows = [(a.sum(0), d.sum(0)) for a, d in pairs]
    else:
        rows = [(x, y) for a, d in pairs for x, y in zip(a, d, strict=True)]
    a = sum(torch.outer(x, x) for x, _ in rows) / len(rows)
    s = sum(torch.outer(y, y) for _, y in rows) / len(rows)
    return a, s, 1.0 if reduce else len(rows) / len(pairs)


def hessian(pairs, inversion, damping_mode, damping, reduce=False):
    """The damped Hessian [O * J, O * J] of one layer, dense, acting on row-major vec(G)."""
    o, j = pairs[0][1].shape[1], pairs[0][0].shape[1]
    if inversion == "identity":
        return torch.eye(o * j, dtype=torch.float64)
    a, s, per_example = moments(pairs, reduce)
    if damping_mode == "factored_tikhonov":
        pi = math.sqrt((torch.trace(a) / j) / (torch.trace(s) / o))
        root = math.sqrt(damping)
        return torch.kron(
            s + root / pi * torch.eye(o, dtype=torch.float64), a + pi * root * torch.eye(j, dtype=torch.float64)
        )
    h = torch.kron(s, a) * per_example
    if inversion == "ekfac":
        _, q_s = torch.linalg.eigh(s)
        _, q_a = torch.linalg.eigh(a)
        basis = torch.kron(q_s, q_a)
        squares = sum((q_s.T @ gradient(pair) @ q_a) ** 2 for pair in pairs) / len(pairs)
        h = (basis * squares.flatten()) @ basis.T
    size = damping * (float(torch.trace(h)) / len(h) if damping_mode == "relative" else 1.0)
    return h + size * torch.eye(len(h), dtype=torch.float64)


def all_captured(model, names, sample, seeds, candidates, reduction="mean", random_seed=None):
    """What `captured` gives for each example of the sample, whose labels may be drawn, the seeds and the candidates."""
    drawn = [None if random_seed is None else (random_seed, key) for key in range(len(sample))]
    return (
        [captured(model, names, e, reduction, k)[0] for e, k in zip(sample, drawn, strict=True)],
        [captured(model, names, e, reduction)[0] for e in seeds],
        [captured(model, names, e, reduction)[0] for e in candidates],
    )


def influence(pairs, inversion="ekfac", damping_mode="relative", damping=0.1, reduce=False):
    """[candidates, seeds] sum over layers of <G_e, H^-1 G_s>, float64. `pairs` is what `all_captured` gives; the
    curvature is fitted on its sample."""
    fitted, g_seed, g_pool = pairs
    total = torch.zeros(len(g_pool), len(g_seed), dtype=torch.float64)
    for name in fitted[0]:
        h = hessian([f[name] for f in fitted], inversion, damping_mode, damping, reduce)
        right = torch.linalg.solve(h, torch.stack([gradient(g[name]).flatten() for g in g_seed], 1))
        total += torch.stack([gradient(g[name]).flatten() for g in g_pool]) @ right
    return total.numpy()
