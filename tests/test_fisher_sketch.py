"""Sketches of H^-1/2 G: their inner products stand for <G, H^-1 G'>."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import gdig
from gdig import ops
from gdig.influence.curvature import fit_curvature
from gdig.influence.inverse import Inverse
from gdig.passes.sketch import make_projection, whiten
from gdig.passes.whitening import inverse_roots
from gdig.progress import Progress
from tests.support import oracle
from tests.support.tiny_models import llama, make_examples, wrapped

SAMPLE, POOL = make_examples(60, 1), make_examples(8, 3)
QUIET = Progress(quiet=True)
CASES = {
    "tikhonov": {"inversion": "kfac", "damping_mode": "factored_tikhonov", "damping_factor": 1e-3},
    "kfac": {"inversion": "kfac"},
    "ekfac": {"inversion": "ekfac"},
    "ekfac little damping": {"inversion": "ekfac", "damping_factor": 0.01},
}


def fitted(case, side):
    """One layer with its curvature, and the gradients of the pool at it: [n, O, J] float64."""
    model, config = wrapped(llama(), sketch_space="fisher", projection_side=side, projection_dim=64, **CASES[case])
    factors, _ = fit_curvature(model, SAMPLE, np.arange(len(SAMPLE), dtype=np.uint64), config, QUIET)
    names = [layer.name for layer in model.layers]
    tokens = [oracle.captured(model.module, names, example)[0][names[0]] for example in POOL]
    return model.layers[0], factors[0], config, tokens


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_inner_products_on_average_over_projections(case):
    """The mean over projection seeds against what the sketch stands for: <G, H^-1 G'> exactly when H is separable, else
    H^-1 with the means over blocks of eigendirections in place of its own factors. Within four standard errors."""
    side = 6
    layer, factors, config, tokens = fitted(case, side)
    gradients = [oracle.gradient(pair) for pair in tokens[:2]]
    roots = inverse_roots(factors, config, side)
    if roots.block is None:
        inverse = Inverse(factors, config)
        want = [float((gradients[0] * inverse.dense(g)).sum()) for g in gradients]
    else:
        o, j = (torch.arange(len(x)) * side // len(x) for x in (roots.s, roots.a))
        scale = roots.block[o][:, j]
        x, y = (roots.s @ g @ roots.a.T * scale for g in gradients)
        want = [float((x * x).sum()), float((x * y).sum())]
    products = []
    for random_seed in range(600):
        drawn = config.with_options(projection_seed=random_seed)
        plain = make_projection(layer, side, 64, random_seed, torch.float64, layer.device)
        p = whiten(plain, layer, factors, drawn)
        sketch = torch.zeros(2, 64, dtype=torch.float64)
        for row, (a, d) in enumerate(tokens[:2]):
            ops.project(a, d, torch.tensor([0, len(a)]), p.q, p.p, p.columns, p.weights, sketch[row : row + 1])
        products.append((sketch @ sketch[0]).tolist())
    mean, error = np.mean(products, 0), np.std(products, 0) / len(products) ** 0.5
    assert np.all(np.abs(mean - want) <= 4 * error)
    assert error[0] < 0.1 * want[0]  # small enough that a factor of two would be found


@pytest.mark.parametrize("case", [c for c in CASES if c != "tikhonov"], ids=str)
def test_blocks_come_near_the_inverse_and_nearer_the_more_they_are(case):
    """<G, H^-1 G'> for all pairs with block means: exact with a block an entry; with fewer the relative error falls as
    they grow in number, and is far below that of the plain gradient."""
    _, factors, config, tokens = fitted(case, 4)
    gradients = torch.stack([oracle.gradient(pair) for pair in tokens])
    inverse = Inverse(factors, config)
    want = torch.einsum("aoj,boj->ab", gradients, torch.stack([inverse.dense(g) for g in gradients]))
    errors = []
    for side in (4, 8, 24):
        roots = inverse_roots(factors, config, side)
        o, j = (torch.arange(len(x)) * side // len(x) for x in (roots.s, roots.a))
        x = torch.stack([roots.s @ g @ roots.a.T for g in gradients]) * roots.block[o][:, j]
        errors.append(float((torch.einsum("aoj,boj->ab", x, x) - want).norm() / want.norm()))
    assert errors[2] < 1e-9
    assert errors[1] < errors[0] < 0.15


def test_a_run_with_raw_sketches(project, finished, tmp_path):
    """From end to end; the influence is that of the default run, whose sketches are of Fisher space."""
    gdig.sweep(**project.options(tmp_path / "run", sketch_space="raw"))
    from gdig.store.sketches import SketchStore

    fisher, plain = SketchStore.open(finished / "sweep"), SketchStore.open(tmp_path / "run" / "sweep")
    assert np.array_equal(plain.tensor(0, "influence"), fisher.tensor(0, "influence"))
    assert not np.array_equal(plain.tensor(0, "sketch"), fisher.tensor(0, "sketch"))
    assert np.isfinite(fisher.tensor(0, "sketch").astype(np.float32)).all()
