"""The curvature of experts against dense matrices over the tokens of each, in float64, and the scores that follow."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
import transformers

from gdig.influence.curvature import fit_curvature
from gdig.influence.precondition_seeds import precondition_seeds
from gdig.passes.influence_pass import make_influence_pass
from gdig.progress import Progress
from tests.support import oracle
from tests.support.mixtures import captured_tokens, mixture
from tests.support.tiny_models import make_examples

pytestmark = pytest.mark.skipif(
    int(transformers.__version__.split(".")[0]) < 5, reason="experts are fused since transformers 5"
)
SAMPLE, SEEDS, POOL = make_examples(12, 1, 4, 20), make_examples(3, 2), make_examples(4, 3)
EXACT = {"seed_energy": 1.0, "seed_rank": 10_000, "projection_dim": 32, "projection_side": 4, "token_batch_size": 128,
         "use_empirical_fisher": True, "filter_modules": r"\.1\.mlp\.experts\."}  # fmt: skip
N_EXPERTS = 4
_ROUNDING = 64 * 2.0**-24
"""Of a gradient: 64 operations deep, and the router computes in float32."""


@functools.cache
def tokens_of(which):
    examples = {"sample": SAMPLE, "seeds": SEEDS, "pool": POOL}[which]
    model, _ = mixture("qwen3_moe", **EXACT)
    return [captured_tokens(model, example) for example in examples]


def hessian(layer, sample, inversion, mode, damping, reduce, shared):
    """The damped mean Hessian over the sample, [O * J, O * J] (see gdig.influence.expert_moments)."""
    n = len(sample)
    if shared:  # the mean expert of the block
        matrix = layer.expert.matrix
        pairs = [tokens[f"{matrix}.{number}"] for tokens in sample for number in range(N_EXPERTS)]
        inversion, n = "kfac", n * N_EXPERTS
    else:
        pairs = [tokens[layer.name] for tokens in sample]
    visited = [pair for pair in pairs if len(pair[0])]
    if mode == "factored_tikhonov":
        terms = sum(len(a) for a, _ in visited)
        all_tokens = sum(len(example) for example in SAMPLE[: len(sample)]) * (N_EXPERTS if shared else 1)
        root = (len(visited) / n if reduce else terms / all_tokens) ** 0.25
        return oracle.hessian([(a * root, d * root) for a, d in visited], inversion, mode, damping, reduce)
    share = len(visited) / n
    return oracle.hessian(visited, inversion, mode, damping / (share if mode == "absolute" else 1), reduce) * share


CASES = {
    "ekfac": ("ekfac", "relative", 0.1, {}),
    "kfac": ("kfac", "relative", 0.1, {}),
    "kfac absolute": ("kfac", "absolute", 1e-3, {}),
    "tikhonov": ("kfac", "factored_tikhonov", 1e-3, {}),
    "tikhonov reduce": ("kfac", "factored_tikhonov", 0.5, {"kfac_approx": "reduce"}),
    "kfac reduce": ("kfac", "relative", 0.1, {"kfac_approx": "reduce"}),
}


@pytest.mark.parametrize("rows", [len(SAMPLE), 2], ids=["own factors", "shared factors"])
@pytest.mark.parametrize("case", CASES)
def test_scores_match_the_dense_oracle(case, rows):
    inversion, mode, damping, extra = CASES[case]
    options = {"inversion": inversion, "damping_mode": mode, "damping_factor": damping, **extra, **EXACT}
    model, config = mixture("qwen3_moe", **options)
    quiet, keys = Progress(quiet=True), np.arange(rows, dtype=np.uint64)
    factors, _ = fit_curvature(model, SAMPLE[:rows], keys, config, quiet)
    sample = tokens_of("sample")[:rows]
    want = np.zeros((len(POOL), len(SEEDS)))
    squares = np.zeros(len(POOL) + len(SEEDS))
    for layer, f in zip(model.layers, factors, strict=True):
        seen = sum(len(tokens[layer.name][0]) for tokens in sample)
        assert f.seen == seen and f.shared == (seen < max(layer.width, layer.out_features))
        h = hessian(layer, sample, inversion, mode, damping, config.kfac_approx == "reduce", f.shared)
        g = [oracle.gradient(tokens[layer.name]).flatten() for tokens in (*tokens_of("pool"), *tokens_of("seeds"))]
        solved = torch.linalg.solve(h, torch.stack(g, 1))
        products = (torch.stack(g) @ solved).numpy()
        want += products[: len(POOL), len(POOL) :]
        squares += products.diagonal()
    assert any(f.shared for f in factors) == (rows < len(SAMPLE)) and not all(f.shared for f in factors)
    joined, report = precondition_seeds(model, factors, SEEDS, POOL[:2], config, quiet)
    got = make_influence_pass(model, joined, config, quiet).compute(POOL).numbers
    lengths = np.sqrt(squares)
    # Of both gradients, and twice of the Hessian, which is made of products of two gradients.
    bound = 4 * _ROUNDING * np.outer(lengths[: len(POOL)], lengths[len(POOL) :])
    assert np.all(np.abs(got - want) <= bound)
    assert report.relative_error < 1e-6
