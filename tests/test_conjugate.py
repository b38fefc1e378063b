"""Conjugate gradients against the dense Gauss-Newton matrix of all layers together, built from Jacobians in float64."""

from __future__ import annotations

import numpy as np
import oracle
import pytest
import torch
from tiny_models import MODELS, make_examples, wrapped

from gdig.errors import ModelError
from gdig.model.layers import choose_layers
from gdig.ops import Segments
from gdig.progress import Progress
from gdig.stages import conjugate
from gdig.stages.conjugate import shifts, solve
from gdig.stages.curvature import fit_curvature
from gdig.stages.gauss_newton import GaussNewton
from gdig.stages.inverse import Inverse
from gdig.stages.seeds import precondition_seeds
from gdig.stages.sweep import Sweeper

QUIET = Progress(quiet=True)
SAMPLE, SEEDS, POOL = make_examples(8, 1, 3, 7), make_examples(4, 2), make_examples(9, 3)
EXACT = {"seed_energy": 1.0, "seed_rank": 10_000, "projection_dim": 8, "projection_side": 2}
CG = {"inversion": "cg", "filter_modules": r"layers\.1\.mlp|h\.1\.mlp", "token_batch_size": 64, **EXACT}


def jacobian(model, names, example):
    """d logits / d weights at the labelled positions, [M, V, P], and the logits [M, V]; the weights of a layer in the
    order of vec([W, b]), rows first. One derivative at a time, by plain autograd."""
    modules = dict(model.named_modules())
    weights = [p for name in names for p in modules[name].parameters(recurse=False)]
    for p in weights:
        p.requires_grad_(True)
    logits = model(input_ids=torch.tensor(np.array(example.input_ids))[None].long()).logits[0, :-1]
    logits = logits[torch.tensor(np.array(example.labels[1:])) != -100]
    rows = []
    for z in logits.flatten():
        model.zero_grad()
        z.backward(retain_graph=True)
        rows.append(torch.cat([oracle.weight_gradient(model, name).flatten() for name in names]))
    for p in weights:
        p.requires_grad_(False)
    return torch.stack(rows).unflatten(0, logits.shape), logits.detach()


def dense(model, names, sample, config):
    """G [P, P], by its definition."""
    total = 0
    for example in sample:
        if config.use_empirical_fisher:
            pairs, _ = oracle.captured(model, names, example, config.loss_reduction)
            g = torch.cat([oracle.gradient(pairs[name]).flatten() for name in names])
            total = total + torch.outer(g, g)
            continue
        k, z = jacobian(model, names, example)
        w = 1 / len(z) if config.loss_reduction == "mean" else 1.0
        for at, p in zip(k, z.softmax(-1), strict=True):
            total = total + w**2 * at.T @ (torch.diag(p) - torch.outer(p, p)) @ at
    return total / len(sample)


def setting(kind, sample=SAMPLE, **options):
    model, config = wrapped(MODELS[kind](), **{**CG, **options})
    factors, _ = fit_curvature(model, sample, np.arange(len(sample), dtype=np.uint64), config, QUIET)
    names = [layer.name for layer in model.layers]
    return model, config, factors, names


def vectors(model, names, seeds, reduction="mean"):
    """The seeds' gradients, a matrix a layer."""
    pairs = [oracle.captured(model, names, seed, reduction)[0] for seed in seeds]
    return [[oracle.gradient(pair[name]) for name in names] for pair in pairs]


def flat(vector):
    return torch.cat([x.flatten() for x in vector])


CASES = {
    "mean": ("llama", {}),
    "sum": ("llama", {"loss_reduction": "sum"}),
    "bias": ("llama-bias", {}),
    "Conv1D": ("gpt2", {}),
    "absolute": ("gpt2", {"damping_mode": "absolute", "damping_factor": 1e-4}),
    "own labels": ("llama", {"use_empirical_fisher": True}),
    "own labels, sum": ("gpt2", {"use_empirical_fisher": True, "loss_reduction": "sum"}),
    "whole model": ("llama", {"filter_modules": r"self_attn|mlp"}),
}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_products_and_solutions_are_those_of_the_dense_matrix(case):
    kind, options = CASES[case]
    model, config, factors, names = setting(kind, cg_iterations=400, cg_tolerance=1e-7, **options)
    g = dense(model.module, names, SAMPLE, config)
    added = shifts(factors, config)
    sizes = torch.tensor([layer.out_features * layer.width for layer in model.layers])
    h = g + torch.diag(torch.tensor(added, dtype=torch.float64).repeat_interleave(sizes))
    product = GaussNewton(model, SAMPLE, added, config, QUIET)
    seeds = vectors(model.module, names, SEEDS, config.loss_reduction)
    for v, got in zip(seeds, product.multiply(seeds), strict=True):
        want = h @ flat(v)
        # Float64 through some hundred operations.
        assert (flat(got) - want).norm() <= 1e-11 * want.norm()
    inverses = [Inverse(f, config) for f in factors]
    m = torch.block_diag(*[dense_inverse(inverse, layer) for inverse, layer in zip(inverses, model.layers, strict=True)])
    starts = [flat(v) for v in seeds]
    found = solve(product, [[x.clone() for x in v] for v in seeds], inverses, config, ["a seed"] * len(seeds))
    root = torch.linalg.cholesky((m + m.T) / 2)
    least = float(torch.linalg.eigvalsh(root.T @ h @ root)[0])
    for b, search in zip(starts, found, strict=True):
        assert search.converged and search.residual <= 1e-7
        error = flat(search.x) - torch.linalg.solve(h, b)
        # r = h e, so e^T h e = r^T h^-1 r <= r^T m r / least, least the smallest eigenvalue of m^1/2 h m^1/2; twice,
        # since the residual is carried along and not computed anew.
        assert error @ h @ error <= 2 * search.residual**2 * (b @ m @ b) / least


def dense_inverse(inverse, layer):
    """[O J, O J] on row-major vec."""
    unit = torch.eye(layer.out_features * layer.width, dtype=torch.float64)
    return torch.stack([inverse.dense(x.view(layer.out_features, layer.width)).flatten() for x in unit], 1)
