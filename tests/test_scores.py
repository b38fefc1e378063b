"""Influence against the float64 oracle: every inversion, damping, Fisher and kind of layer."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

from gdig.influence.curvature import fit_curvature
from gdig.influence.precondition_seeds import precondition_seeds
from gdig.model.choice import choose_layers
from gdig.model.load_trial import try_model
from gdig.passes.influence_pass import make_influence_pass
from gdig.progress import Progress
from gdig.store.tensor_file import CheckedFile
from tests.support import oracle
from tests.support.tiny_models import MODELS, llama, make_examples, wrapped

SAMPLE, SEEDS, POOL = make_examples(40, 1), make_examples(5, 2), make_examples(12, 3)
EXACT = {"seed_energy": 1.0, "seed_rank": 10_000, "projection_dim": 32, "projection_side": 4, "token_batch_size": 128}


def scores(model, config, sample=SAMPLE, seeds=SEEDS, pool=POOL):
    """[pool, seeds] as the stages compute them."""
    progress = Progress(quiet=True)
    factors = [None] * len(model.layers)
    if config.inversion != "identity":
        factors, _ = fit_curvature(model, sample, np.arange(len(sample), dtype=np.uint64), config, progress)
    joined, report = precondition_seeds(model, factors, seeds, pool[:4], config, progress)
    return make_influence_pass(model, joined, config, progress).compute(pool)[0], report


@pytest.mark.parametrize("inversion", ["kfac", "ekfac"])
def test_factors_that_were_read_from_files_give_the_same_bits(tmp_path, inversion):
    """A fit that goes on reads its curvature. On some processors the order of a product's sums depends on the layout
    of a matrix, which a file does not keep."""
    model, config = wrapped(llama(), torch.float32, inversion=inversion)
    progress = Progress(quiet=True)
    factors, _ = fit_curvature(model, SAMPLE, np.arange(len(SAMPLE), dtype=np.uint64), config, progress)
    files = [CheckedFile(tmp_path / f"{i}.safetensors") for i in range(len(factors))]
    for i, (f, file) in enumerate(zip(factors, files, strict=True)):
        f.save(file, str(i))
    read = [type(f).load(file, layer) for f, file, layer in zip(factors, files, model.layers, strict=True)]
    for f, g in zip(factors, read, strict=True):
        for name in ("q_a", "q_s", "l_a", "l_s"):
            assert getattr(f, name).stride() == getattr(g, name).stride(), name
    joined, again = (precondition_seeds(model, fs, SEEDS, [], config, progress)[0] for fs in (factors, read))
    for x, y in zip(joined, again, strict=True):
        assert torch.equal(x.u, y.u) and torch.equal(x.v, y.v)


CASES = {
    "identity": ("identity", "relative", 0.1, {}),
    "kfac": ("kfac", "relative", 0.1, {}),
    "ekfac": ("ekfac", "relative", 0.1, {}),
    "ekfac absolute": ("ekfac", "absolute", 1e-4, {}),
    "kfac absolute": ("kfac", "absolute", 1e-4, {}),
    "tikhonov": ("kfac", "factored_tikhonov", 1e-3, {}),
    "tikhonov reduce": ("kfac", "factored_tikhonov", 0.5, {"kfac_approx": "reduce"}),
    "kfac reduce": ("kfac", "relative", 0.1, {"kfac_approx": "reduce"}),
    "ekfac sum": ("ekfac", "relative", 0.1, {"loss_reduction": "sum"}),
}


@functools.cache
def plain_gradients(kind, reduction="mean", random_seed=None):
    """What the oracle captures of a model: each call makes the same weights, and the cases differ behind it."""
    model, _ = wrapped(MODELS[kind]())
    names = [layer.name for layer in model.layers]
    return oracle.all_captured(model.module, names, SAMPLE, SEEDS, POOL, reduction, random_seed)


@pytest.mark.parametrize("empirical", [True, False], ids=["empirical", "true fisher"])
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_scores_match_the_dense_oracle(kind, case, empirical):
    inversion, mode, damping, extra = CASES[case]
    model, config = wrapped(
        MODELS[kind](), inversion=inversion, damping_mode=mode, damping_factor=damping,
        use_empirical_fisher=empirical, **extra, **EXACT,
    )  # fmt: skip
    got, _ = scores(model, config)
    pairs = plain_gradients(kind, config.loss_reduction, None if empirical else config.random_seed)
    want = oracle.influence(pairs, inversion, mode, damping, config.kfac_approx == "reduce")
    # All float64 but for the result, stored as float32 (2^-24 of each); what float64 itself leaves, including the
    # condition of the damped Hessian (at most 1 / damping relative, 1e4 here), stays below 1e-9 of the largest score.
    assert np.all(np.abs(got - want) <= 2.0**-24 * np.abs(want) + 1e-9 * np.abs(want).max())


@pytest.mark.parametrize("kind", ["llama-bias", "llama-tied"])
def test_scores_with_bias_and_with_tied_embeddings(kind):
    model, config = wrapped(MODELS[kind](), use_empirical_fisher=True, **EXACT)
    got, _ = scores(model, config)
    want = oracle.influence(plain_gradients(kind))
    assert np.all(np.abs(got - want) <= 2.0**-24 * np.abs(want) + 1e-9 * np.abs(want).max())


def test_oracle_captures_the_weight_gradient():
    """sum_t d_t a_t^T is the gradient that autograd gives the weight and the bias: the oracle's own ground."""
    for kind in MODELS:
        model = MODELS[kind]().double().eval()
        names = [
            layer.name
            for layer in choose_layers(model, try_model(model, model.base_model, model.lm_head), head=model.lm_head)
        ]
        pairs, _ = oracle.captured(model, names, POOL[0])
        for name in names:
            got, want = oracle.gradient(pairs[name]), oracle.weight_gradient(model, name)
            assert torch.allclose(got, want, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_low_precision_adds_no_more_than_the_arithmetic_itself(kind, dtype):
    """The tolerance is the error of a plain implementation in the same precision: the oracle on the model in `dtype`,
    one example at a time, everything behind the captured tensors in float64. Ours may round in another order."""
    module = MODELS[kind]().to(dtype)
    options = {"use_empirical_fisher": True, **EXACT}
    model, config = wrapped(module, dtype, **options)
    names = [layer.name for layer in model.layers]
    got, _ = scores(model, config)
    plain = oracle.influence(oracle.all_captured(model.module, names, SAMPLE, SEEDS, POOL))
    want = oracle.influence(oracle.all_captured(model.module.double(), names, SAMPLE, SEEDS, POOL))
    budget = np.linalg.norm(plain - want)
    assert 0 < budget < 0.2 * np.linalg.norm(want)
    # float32: the factors themselves are float32 sums and products too, of the same order as the model's own rounding.
    assert np.linalg.norm(got - want) <= (2 if dtype == torch.bfloat16 else 4) * budget


def test_truncated_rank_loses_what_it_says_and_the_probe_reports_it():
    model, config = wrapped(llama(), use_empirical_fisher=True, **{**EXACT, "seed_energy": 0.9, "probe_rows": 4})
    exact_config = config.with_options(seed_energy=1.0)
    cut, report = scores(model, config)
    exact, full = scores(model, exact_config)
    assert report.columns < full.columns and report.least_energy >= 0.9
    probe = np.linalg.norm(cut[:4] - exact[:4]) / np.linalg.norm(exact[:4])
    assert report.relative_error == pytest.approx(probe, rel=1e-4)
    assert full.relative_error < 1e-12 and full.correlation > 1 - 1e-12


@pytest.mark.slow
def test_positive_influence_means_a_step_lowers_the_loss():
    """To first order a step along -G_e changes a seed's loss by -lr <G_e, G_s>, and one along -H^-1 G_e by -lr times
    the influence under H: the sign must be right for all but pairs near zero. For a plain step and EK-FAC's influence
    the claim is weaker, most pairs: more than chance gives once in a hundred (normal bound of the binomial)."""
    pool = make_examples(30, 5)
    n = len(pool) * len(SEEDS)
    for inversion, claims in (
        ("identity", {False: 0.98 * n}),
        ("ekfac", {True: 0.98 * n, False: n / 2 + 2.33 * n**0.5 / 2}),
    ):
        model, config = wrapped(llama(random_seed=4), inversion=inversion, use_empirical_fisher=True, **EXACT)
        got, _ = scores(model, config, pool=pool)
        names = [layer.name for layer in model.layers]
        before = np.array([oracle.captured(model.module, names, s)[1] for s in SEEDS])
        fitted = [oracle.captured(model.module, names, e)[0] for e in SAMPLE]
        lu = {
            k: torch.linalg.lu_factor(oracle.hessian([f[k] for f in fitted], inversion, "relative", 0.1)) for k in names
        }
        right = dict.fromkeys(claims, 0)
        for e, candidate in enumerate(pool):
            pairs, _ = oracle.captured(model.module, names, candidate)
            plain = {name: oracle.gradient(pair) for name, pair in pairs.items()}
            for preconditioned in claims:
                step = plain
                if preconditioned:
                    step = {k: torch.linalg.lu_solve(*lu[k], g.reshape(-1, 1)).view(g.shape) for k, g in plain.items()}
                length = 1e-4 / float(sum(g.square().sum() for g in step.values())) ** 0.5
                _move(model, step, -length)
                after = np.array([oracle.loss(model.module, s) for s in SEEDS])
                _move(model, step, length)
                right[preconditioned] += int(((after < before) == (got[e] > 0)).sum())
        for preconditioned, least in claims.items():
            assert right[preconditioned] >= least, (inversion, preconditioned, right, n)


@torch.no_grad()
def _move(model, step, length):
    for layer in model.layers:
        layer.module.weight += length * step[layer.name]
