"""Scores of large layers by products of bfloat16: their error, who takes them, and the option that forbids them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gdig import ops
from gdig.influence import dense_plan, layer_scores
from gdig.influence.dense_plan import SeedShape, plan_dense
from gdig.influence.precondition_seeds import precondition_seeds
from gdig.model import precision
from gdig.ops import Segments
from gdig.passes.influence_pass import make_influence_pass
from gdig.progress import Progress
from tests.support.tiny_models import llama, make_examples, wrapped

UNIT = 2.0**-8
"""The largest relative error of a rounding to bfloat16."""
QUIET = Progress(quiet=True)


def segments(*lengths: int) -> Segments:
    return Segments(torch.tensor([0, *np.cumsum(lengths)]))


def case(lengths, outputs, width, columns, bias, random_seed=0):
    """Inputs, output gradients and factors of entries of several magnitudes, and the float64 scores with the sum of the
    sizes of their terms."""
    g = torch.Generator().manual_seed(random_seed)
    tokens, total = sum(lengths), sum(columns)

    def drawn(*shape):
        return torch.randn(*shape, generator=g) * torch.exp(torch.randn(*shape, generator=g))

    a, d = drawn(tokens, width), drawn(tokens, outputs)
    u, v = drawn(outputs, total), drawn(width + bias, total)
    examples, seeds = segments(*lengths), segments(*columns)
    x = torch.cat([a, torch.ones(tokens, bias)], 1).double()
    scores = torch.zeros(len(lengths), len(columns), dtype=torch.float64)
    sizes = torch.zeros_like(scores)
    for e, (i, j) in enumerate(zip(examples.bounds, examples.bounds[1:], strict=False)):
        for s, (k, m) in enumerate(zip(seeds.bounds, seeds.bounds[1:], strict=False)):
            w = u[:, k:m].double() @ v[:, k:m].double().T
            scores[e, s] = ((d[i:j].double().T @ x[i:j]) * w).sum()
            sizes[e, s] = ((d[i:j].double().abs().T @ x[i:j].abs()) * w.abs()).sum()
    return a, d, examples, u, v, seeds, scores, sizes


CASES = {
    "equal lengths": ((7, 7, 7), 24, 40, (3, 5), 0),
    "ragged, a bias": ((1, 0, 9, 4), 33, 17, (2, 0, 4), 1),
    "rows in blocks": ((5, 6), 300, 130, (4, 4, 1), 1),
}


@pytest.mark.parametrize("name", CASES)
def test_scores_by_w_are_within_the_bound(name, monkeypatch):
    monkeypatch.setattr("gdig.kernels.dense.reference._WEIGHTS", 1 << 14)  # several blocks of rows
    a, d, examples, u, v, seeds, exact, sizes = case(*CASES[name])
    pairs = zip(seeds.bounds, seeds.bounds[1:], strict=False)
    w = torch.stack([u[:, i:j] @ v[:, i:j].T for i, j in pairs]).bfloat16()
    out = torch.zeros(exact.shape)
    ops.score_dense(a, d, examples, w, out)
    error = (out - exact).abs()
    # Five roundings, of a, d, G, W and of each block's product; sums in float32 add less than one of them.
    assert bool((error <= 6 * UNIT * sizes).all())
    assert float(error.sum()) > 0, "bfloat16 must have been used"


@pytest.mark.parametrize("name", CASES)
def test_scores_by_columns_are_within_the_bound(name):
    a, d, examples, u, v, seeds, exact, _ = case(*CASES[name])
    x = torch.cat([a, torch.ones(len(a), v.shape[0] - a.shape[1])], 1).double().abs()
    terms = (d.double().abs() @ u.double().abs()) * (x @ v.double().abs())
    out = torch.zeros(exact.shape)
    ops.score(a, d, examples, u.bfloat16(), v.bfloat16(), seeds, out, impl="reference")
    for e, (i, j) in enumerate(zip(examples.bounds, examples.bounds[1:], strict=False)):
        for s, (k, m) in enumerate(zip(seeds.bounds, seeds.bounds[1:], strict=False)):
            # a, d, u, v, both products, and the bias' sum: seven roundings.
            assert abs(float(out[e, s] - exact[e, s])) <= 8 * UNIT * float(terms[i:j, k:m].sum())


def test_the_unit_is_attained():
    """Of a single term, three factors that are rounded down by nearly 2^-8 each."""
    x = torch.tensor([[1 + UNIT * (1 - 2.0**-9)]])
    out = torch.zeros(1, 1)
    ops.score_dense(x, x, segments(1), x.bfloat16()[None], out)
    exact = float(x.double() ** 3)
    assert 2.9 * UNIT * exact < exact - float(out) <= 6 * UNIT * exact


@pytest.mark.parametrize("way", ["W", "columns"])
def test_a_score_is_off_by_about_the_unit_of_the_root_of_its_squared_terms(way):
    g = torch.Generator().manual_seed(1)
    a, d, u, v = (torch.randn(*shape, generator=g) for shape in ((160, 64), (160, 96), (96, 8), (64, 8)))
    examples, seeds = segments(*[5] * 32), segments(*[1] * 8)
    exact, rounded = torch.zeros(32, 8, dtype=torch.float64), torch.zeros(32, 8)
    ops.score(a.double(), d.double(), examples, u.double(), v.double(), seeds, exact)
    w = torch.einsum("oc,jc->coj", u, v)
    if way == "W":
        ops.score_dense(a, d, examples, w.bfloat16(), rounded)
    else:
        ops.score(a, d, examples, u.bfloat16(), v.bfloat16(), seeds, rounded, impl="reference")
    gradients = torch.stack([d[i : i + 5].T @ a[i : i + 5] for i in range(0, 160, 5)])
    squares = torch.einsum("eoj,coj->ec", gradients.square(), w.square())
    share = float((rounded - exact).square().mean().sqrt() / squares.mean().sqrt())
    assert 0.5 * UNIT < share < 1.5 * UNIT


def test_which_layers_are_brief():
    def shape(o=512, j=512, energy=0.99, item=4, bfloat16=True):
        return SeedShape(o, j, 64 * 35, 64, item, energy, bfloat16=bfloat16)

    w = shape().bytes_of("brief")
    assert w == 64 * 512 * 512 * 2
    assert plan_dense([shape()], w) == ["brief"] and plan_dense([shape()], w - 1) == ["brief columns"]
    assert plan_dense([shape(bfloat16=False)], 2 * w) == ["full"]
    assert plan_dense([shape(128, 512)], 2 * w)[0] == "full", "a small matrix"
    assert plan_dense([shape(item=8)], 4 * w)[0] == "full", "a model in float64"
    # What six roundings, evenly spread up to 2^-8, add to the squared error has to stay below a hundredth of what the
    # low rank loses.
    least = 1 - 100 * 6 * UNIT**2 / 3
    assert plan_dense([shape(energy=least)], 2 * w) == ["brief"]
    assert plan_dense([shape(energy=least + 1e-6)], 2 * w) == ["full"]
    mixed = [shape(), shape(energy=1.0), shape(128, 512)]
    taken = dense_plan.planned_bytes(mixed, 4 * w)
    assert plan_dense(mixed, taken) == plan_dense(mixed, 4 * w) == ["brief", "full", "full"]


def scored(config, model, joined, pool, dense_bytes):
    return make_influence_pass(model, joined, config, QUIET, dense_bytes=dense_bytes).compute(pool)[0]


@pytest.mark.parametrize("dense_bytes", [0, 1 << 30], ids=["columns", "W"])
def test_a_sweep_loses_a_hundredth_of_what_the_low_rank_loses(dense_bytes, monkeypatch):
    monkeypatch.setattr(dense_plan, "_BRIEF_SIZE", 1)
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda: True)
    seeds, pool = make_examples(6, 2), make_examples(30, 3)
    options = {"inversion": "identity", "seed_rank": 1000, "projection_dim": 8, "projection_side": 2}
    model, config = wrapped(llama(), torch.float32, **options, seed_energy=0.9)
    joined, _ = precondition_seeds(model, [None] * len(model.layers), seeds, [], config, QUIET)
    assert {s.brief for s in layer_scores.shapes_of(joined, True)} == {True}
    exactly = config.with_options(matmul_precision="highest")
    brief, highest = (scored(c, model, joined, pool, dense_bytes) for c in (config, exactly))
    whole_config = exactly.with_options(seed_energy=1.0)
    whole, _ = precondition_seeds(model, [None] * len(model.layers), seeds, [], whole_config, QUIET)
    lost = np.square(highest - scored(whole_config, model, whole, pool, 0)).sum()
    assert 0 < np.square(brief - highest).sum() <= lost / 100


@pytest.mark.parametrize(
    "found, vendor, expected",
    [
        ({"avx512_bf16"}, "vendor_id : AuthenticAMD", True),
        ({"avx512_bf16"}, "vendor_id : GenuineIntel", False),
        ({"avx512_bf16", "amx_tile"}, "vendor_id : GenuineIntel", True),
        (set(), "vendor_id : AuthenticAMD", False),
    ],
)
def test_chips_that_multiply_bfloat16(found, vendor, expected, monkeypatch):
    monkeypatch.setattr(precision, "_has", lambda name: name in found)
    monkeypatch.setattr(precision, "_vendor", lambda: vendor)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    assert precision.multiplies_bfloat16.__wrapped__() is expected
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert precision.multiplies_bfloat16.__wrapped__() is False
    monkeypatch.delattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported")
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert precision.multiplies_bfloat16.__wrapped__() is False


def test_only_auto_takes_bfloat16(monkeypatch):
    monkeypatch.setattr(precision, "multiplies_bfloat16", lambda: True)
    _, config = wrapped(llama(), inversion="identity")
    cpu = torch.device("cpu")
    assert precision.takes_bfloat16(config.matmul_precision, cpu)
    assert not precision.takes_bfloat16(config.matmul_precision, torch.device("cuda"))
    for name in ("highest", "high", "medium"):
        assert not precision.takes_bfloat16(name, cpu)


def test_a_resume_file_says_whether_its_products_are_in_bfloat16(monkeypatch):
    """A sweep that goes on elsewhere discards a part in other products, by name, as it does for other options."""
    cpu = torch.device("cpu")
    said = []
    for multiplies in (True, False):
        monkeypatch.setattr(precision, "multiplies_bfloat16", lambda multiplies=multiplies: multiplies)
        said.append([precision.products_made_from(name, cpu) for name in ("auto", "highest")])
    assert said == [["auto, bfloat16", "highest"], ["auto", "highest"]]
