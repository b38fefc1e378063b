"""Low-rank forms of a matrix, against the singular values in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gdig.influence import low_rank
from gdig.influence.curvature import fit_curvature
from gdig.influence.inverse import Inverse, _sandwich
from gdig.influence.low_rank import compress, factor
from gdig.influence.seed_plan import make_groups
from gdig.progress import Progress
from tests.support.profiles import examples
from tests.support.tiny_models import llama, make_examples, wrapped


def matrix(rows, columns, decay, rank=10**9, dtype=torch.float32, random_seed=0):
    """Random singular vectors, singular values k^-decay, and as good as no more than `rank` of them."""
    generator = torch.Generator().manual_seed(random_seed)
    n = min(rows, columns)
    left, right = (
        torch.linalg.qr(torch.randn(side, n, generator=generator, dtype=torch.float64))[0] for side in (rows, columns)
    )
    values = torch.arange(1, n + 1, dtype=torch.float64) ** -decay
    values[rank:] = 0
    return ((left * values) @ right.T).to(dtype)


def fewest(w, energy):
    """The rank that the singular values ask for, and the share of each rank."""
    squares = torch.linalg.svdvals(w.double()).square()
    shares = squares.cumsum(0) / squares.sum()
    return int((shares < energy).sum()) + 1, shares


def energy_share(w, u, v):
    w, u, v = w.double(), u.double(), v.double()
    return 1 - float((w - u @ v.T).square().sum() / w.square().sum())


SHAPES = [(40, 300), (65, 70), (200, 90), (150, 400)]


@settings(max_examples=examples(40), deadline=None)
@given(
    st.sampled_from(SHAPES), st.sampled_from([0.3, 0.6, 1.0, 2.0]), st.sampled_from([0.5, 0.9, 0.99, 0.9999]),
    st.sampled_from([torch.float32, torch.float64]), st.integers(0, 2**63),
)  # fmt: skip
def test_the_form_keeps_the_energy_and_says_the_true_one(shape, decay, energy, dtype, key):
    w = matrix(*shape, decay, dtype=dtype)
    u, v, share = factor(w, energy, 10**6, key)
    # The share has three terms of the size of 1, each from products in w's dtype.
    rounding = 2.0**-18 if dtype == torch.float32 else 2.0**-45
    assert share == pytest.approx(energy_share(w, u, v), abs=rounding)
    assert share >= energy - rounding
    rank, shares = fewest(w, energy)
    assert u.shape == (shape[0], v.shape[1]) and v.shape[0] == shape[1]
    # No form of rank r keeps more than the r leading singular values.
    assert share <= float(shares[u.shape[1] - 1]) + rounding
    # The spectrum falls slowly, so the last block can be almost as large as the surplus.
    assert rank <= u.shape[1] <= rank + low_rank._BLOCK


@pytest.mark.parametrize("energy", [0.9, 0.99])
@pytest.mark.parametrize("decay", [1.0, 1.4, 1.8])
def test_few_columns_more_than_the_fewest(decay, energy):
    """For spectra that fall like those of seeds, about k^-1.5. The draws are fixed, so this is no matter of chance."""
    w = matrix(300, 700, decay)
    rank, _ = fewest(w, energy)
    for key in range(3):
        assert factor(w, energy, 10**6, key)[0].shape[1] <= max(rank + 2, 1.1 * rank)


@pytest.mark.parametrize("shape", [(40, 300), (90, 200), (200, 90)])
def test_an_energy_of_one_is_exact(shape):
    w = matrix(*shape, 0.5)
    u, v, share = factor(w, 1.0, 10**6)
    assert u.shape[1] == min(shape) and share > 1 - 1e-6
    assert (u.double() @ v.double().T - w.double()).norm() <= 2.0**-24 * 4 * min(shape) ** 0.5 * w.double().norm()


def test_the_cap_takes_the_leading_columns():
    """At a cap, the search has two blocks more than the cap, and loses little against the singular vectors."""
    w = matrix(300, 500, 0.5)
    _, shares = fewest(w, 0.5)
    for cap, energy in ((8, 0.99), (32, 1.0), (100, 1.0)):
        u, _, share = factor(w, energy, cap)
        best = float(shares[cap - 1])
        assert u.shape[1] == cap and 0.98 * best <= share <= best + 1e-6


@pytest.mark.parametrize("rank", [1, 5, 40])
@pytest.mark.parametrize("energy", [0.99, 1.0])
def test_a_rank_below_a_block(rank, energy):
    """What is left of a block is rounding, which must neither count twice nor make columns that are not orthonormal."""
    w = matrix(100, 220, 0.2, rank=rank)
    u, v, share = factor(w, energy, 80)
    assert share == pytest.approx(energy_share(w, u, v), abs=2.0**-18) and share >= energy - 1e-5
    assert energy == 1.0 or u.shape[1] <= rank
    assert (u.double().T @ u.double() - torch.eye(u.shape[1])).abs().max() < 1e-3


def test_sizes_do_not_matter():
    """Tiny and huge gradients: squares of their entries are not float32 numbers."""
    w = matrix(100, 220, 0.7)
    u, _, share = factor(w, 0.95, 100)
    for exponent in (-100, 60):
        u2, _, share2 = factor(torch.ldexp(w, torch.tensor(exponent)), 0.95, 100)
        assert u2.shape == u.shape and share2 == pytest.approx(share, abs=1e-5)


def test_nothing_and_what_is_not_finite():
    u, v, share = factor(torch.zeros(100, 220), 0.99, 10)
    assert share == 1.0 and u.shape[1] == 1 and not v.any()
    for value in (torch.nan, torch.inf):
        w = matrix(100, 220, 0.7)
        w[3, 4] = value
        u, v, _ = factor(w, 0.99, 10)
        assert u.shape == (100, 1) and v.shape == (220, 1) and torch.isnan(u).all() and torch.isnan(v).all()


def test_the_key_decides_the_draws_and_nothing_else():
    w = matrix(100, 220, 0.5)
    first, again, other = factor(w, 0.9, 100, 1), factor(w, 0.9, 100, 1), factor(w, 0.9, 100, 2)
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize("tokens", [3, 30])
def test_a_product_of_tokens_is_shortened(tokens):
    generator = torch.Generator().manual_seed(0)
    u, v = torch.randn(20, tokens, generator=generator), torch.randn(12, tokens, generator=generator)
    short_u, short_v, share = compress(u, v, 0.9, 100)
    assert share == pytest.approx(energy_share(u @ v.T, short_u, short_v), abs=1e-5) and share >= 0.9
    assert short_u.shape[1] == min(fewest(u @ v.T, 0.9)[0], tokens)


@settings(max_examples=examples(30), deadline=None)
@given(st.integers(1, 40), st.integers(1, 24), st.integers(1, 24))
def test_either_way_to_rotate_gives_the_same_product(tokens, outputs, width):
    """Tokens or gradient, on each side: more and fewer tokens than rows and columns."""
    generator = torch.Generator().manual_seed(tokens)
    a, d, left, right = (
        torch.randn(*shape, generator=generator, dtype=torch.float64)
        for shape in ((tokens, width), (tokens, outputs), (outputs, outputs), (width, width))
    )
    want = left.T @ (d.T @ a) @ right
    assert (_sandwich(left, right, a, d) - want).abs().max() <= 1e-12 * tokens * outputs * width


def test_coordinates_keep_products_and_back_returns_to_weights():
    """<G_e, W> is the same in the coordinates of `solve`, and U, V of these turn back to those of `dense`."""
    pool = make_examples(20, 1)
    for inversion, mode in (("ekfac", "relative"), ("kfac", "factored_tikhonov"), ("identity", "relative")):
        model, config = wrapped(llama(), inversion=inversion, damping_mode=mode, use_empirical_fisher=True)
        f = None
        if inversion != "identity":
            f = fit_curvature(model, pool, np.arange(20, dtype=np.uint64), config, Progress(quiet=True))[0][0]
        layer = model.layers[0]
        generator = torch.Generator().manual_seed(0)
        a = torch.randn(9, layer.width, generator=generator, dtype=torch.float64)
        d = torch.randn(9, layer.out_features, generator=generator, dtype=torch.float64)
        inverse = Inverse(f, config)
        w, want = inverse.solve(a, d), inverse.dense(d.T @ a)
        a2, d2 = inverse.coordinates(a, d)
        assert float((d2 @ w * a2).sum()) == pytest.approx(float((d @ want * a).sum()), rel=1e-10)
        u, v = inverse.back(*factor(w, 1.0, 10**6)[:2])
        assert (u @ v.T - want).norm() <= 1e-10 * want.norm()


def test_groups_of_seeds_are_consecutive_and_bounded():
    seeds = make_examples(23, 3, shortest=1, longest=20)
    groups = make_groups(seeds)
    assert [number for group in groups for number in group] == list(range(23))
    assert all(1 <= len(group) <= 4 for group in groups) and make_groups([]) == []
    long = make_examples(6, 4, shortest=400, longest=500) + make_examples(2, 5, shortest=1500, longest=1600)
    for group in make_groups(long):
        assert len(group) == 1 or len(group) * max(len(long[number].input_ids) for number in group) <= 1024
    assert [len(group) for group in make_groups(long)] == [2, 2, 2, 1, 1]
