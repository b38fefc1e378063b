"""Conjugate gradients against the dense Gauss-Newton matrix of all layers together, built from Jacobians in float64."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch

import gdig
from gdig.data.tokens import Example
from gdig.errors import ModelError
from gdig.influence import conjugate_gradients as conjugate
from gdig.influence import seed_preconditioner as inverting
from gdig.influence.conjugate_gradients import Search, shifts, solve
from gdig.influence.curvature import fit_curvature
from gdig.influence.gauss_newton import GaussNewton
from gdig.influence.inverse import Inverse
from gdig.influence.precondition_seeds import precondition_seeds
from gdig.passes.influence_pass import make_influence_pass
from gdig.progress import Progress
from tests.support import oracle
from tests.support.project_fixtures import flags, stages
from tests.support.tiny_models import MODELS, make_examples, wrapped
from tests.support.torchrun import finish_on_ranks

QUIET = Progress(quiet=True)
# Few and short: a Jacobian of the sample is a backward pass for each of its labels and words.
SAMPLE, SEEDS, POOL = make_examples(5, 1, 3, 6), make_examples(3, 2), make_examples(9, 3)
FITTED = make_examples(40, 4)
EXACT = {"seed_energy": 1.0, "seed_rank": 10_000, "projection_dim": 8, "projection_side": 2}
LAYERS = r"mlp\.down_proj|layers\.1\.self_attn\.[qk]_proj|h\.0\.mlp\.c_proj|h\.1\.attn\.c_proj"
CG = {"inversion": "cg", "filter_modules": LAYERS, "damping_factor": 1.0, "token_batch_size": 64, **EXACT}


def jacobian(model, names, example):
    """d logits / d weights at the labelled positions, [M, V, P], and the logits [M, V]; the weights of a layer in the
    order of vec([W, b]), rows first. By plain autograd, all derivatives of an example in one call."""
    modules = dict(model.named_modules())
    weights = [p for name in names for p in modules[name].parameters(recurse=False)]
    for p in weights:
        p.requires_grad_(True)
    logits = model(input_ids=torch.tensor(np.array(example.input_ids))[None].long()).logits[0, :-1]
    logits = logits[torch.tensor(np.array(example.labels[1:])) != -100]
    units = torch.eye(logits.numel(), dtype=logits.dtype)
    gradients = iter(torch.autograd.grad(logits.flatten(), weights, units, is_grads_batched=True))
    columns = []
    for name in names:
        g = next(gradients).mT if type(modules[name]).__name__ == "Conv1D" else next(gradients)
        g = g if modules[name].bias is None else torch.cat([g, next(gradients)[:, :, None]], 2)
        columns.append(g.flatten(1))
    for p in weights:
        p.requires_grad_(False)
    return torch.cat(columns, 1).unflatten(0, logits.shape), logits.detach()


@functools.cache
def jacobians(kind):
    """Those of the sample; each model of a kind has the same weights."""
    model, _ = wrapped(MODELS[kind](), **CG)
    return [jacobian(model.module, [layer.name for layer in model.layers], example) for example in SAMPLE]


def dense(kind, model, names, config):
    """G [P, P] over the sample, by its definition."""
    total = 0
    for number, example in enumerate(SAMPLE):
        if config.use_empirical_fisher:
            pairs, _ = oracle.captured(model, names, example, config.loss_reduction)
            g = torch.cat([oracle.gradient(pairs[name]).flatten() for name in names])
            total = total + torch.outer(g, g)
            continue
        k, z = jacobians(kind)[number]
        w = 1 / len(z) if config.loss_reduction == "mean" else 1.0
        for at, p in zip(k, z.softmax(-1), strict=True):
            total = total + w**2 * at.T @ (torch.diag(p) - torch.outer(p, p)) @ at
    return total / len(SAMPLE)


def setting(kind, **options):
    model, config = wrapped(MODELS[kind](), **{**CG, **options})
    factors, _ = fit_curvature(model, FITTED, np.arange(len(FITTED), dtype=np.uint64), config, QUIET)
    return model, config, factors, [layer.name for layer in model.layers]


def vectors(model, names, seeds, reduction="mean"):
    """The seeds' gradients, a matrix a layer."""
    pairs = [oracle.captured(model, names, seed, reduction)[0] for seed in seeds]
    return [[oracle.gradient(pair[name]) for name in names] for pair in pairs]


def flat(vector):
    return torch.cat([x.flatten() for x in vector])


def searched(product, seeds, inverses, config, names):
    """The searches for some gradients, from their beginning to their end."""
    searches = [Search.begin(g, inverses) for g in seeds]
    solve(product, searches, inverses, config, names)
    return searches


CASES = {
    "mean": ("llama", {}),
    "sum": ("llama", {"loss_reduction": "sum"}),
    "bias": ("llama-bias", {}),
    "Conv1D": ("gpt2", {}),
    "absolute": ("gpt2", {"damping_mode": "absolute", "damping_factor": 1e-3}),
    "own labels": ("gpt2", {"use_empirical_fisher": True}),
    "own labels, sum": ("llama", {"use_empirical_fisher": True, "loss_reduction": "sum"}),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=str)
def test_products_and_solutions_are_those_of_the_dense_matrix(case):
    kind, options = CASES[case]
    model, config, factors, names = setting(kind, cg_iterations=100, cg_tolerance=1e-4, **options)
    added = shifts(factors, config)
    sizes = torch.tensor([layer.out_features * layer.width for layer in model.layers])
    h = dense(kind, model.module, names, config)
    h += torch.diag(torch.tensor(added, dtype=torch.float64).repeat_interleave(sizes))
    product = GaussNewton(model, SAMPLE, added, config, QUIET)
    seeds = vectors(model.module, names, SEEDS, config.loss_reduction)
    starts = [flat(v) for v in seeds]
    for b, got in zip(starts, product.multiply(seeds), strict=True):
        # Float64 through some hundred operations.
        assert (flat(got) - h @ b).norm() <= 1e-11 * (h @ b).norm()
    inverses = [Inverse(f, config) for f in factors]
    m = torch.block_diag(*map(dense_inverse, inverses, model.layers))
    root = torch.linalg.cholesky((m + m.T) / 2)
    values = torch.linalg.eigvalsh(root.T @ h @ root)
    for b, search in zip(starts, searched(product, seeds, inverses, config, ["seed"] * len(seeds)), strict=True):
        assert search.converged == (search.residual <= 1e-4) and search.residual < 0.1
        error = flat(search.x) - torch.linalg.solve(h, b)
        # r = h e, so e^T h e = r^T h^-1 r = (m^1/2 r)^T (m^1/2 h m^1/2)^-1 (m^1/2 r) lies between the residual's square
        # divided by the extreme eigenvalues. The residual is carried along rather than computed anew; 1e-4 of the first
        # is far above what rounding adds to it.
        square = search.residual**2 * float(b @ m @ b)
        assert 0.99 * square / values[-1] <= error @ h @ error <= 1.01 * square / values[0]


def dense_inverse(inverse, layer):
    """[O J, O J] on row-major vec."""
    unit = torch.eye(layer.out_features * layer.width, dtype=torch.float64)
    return torch.stack([inverse.dense(x.view(layer.out_features, layer.width)).flatten() for x in unit], 1)


def test_the_first_iteration_is_a_multiple_of_ekfac_and_more_come_nearer():
    model, config, factors, names = setting("llama")
    added, inverses = shifts(factors, config), [Inverse(f, config) for f in factors]
    product = GaussNewton(model, SAMPLE, added, config, QUIET)
    before = None
    for n in (1, 2, 4, 8):
        seeds = vectors(model.module, names, SEEDS)
        searches = searched(product, seeds, inverses, config.with_options(cg_iterations=n), ["seed"] * len(seeds))
        assert [search.iterations for search in searches] == [n] * len(seeds)
        start = vectors(model.module, names, SEEDS)
        if n == 1:
            for search, v in zip(searches, start, strict=True):
                wanted = flat([inverse.dense(x) for inverse, x in zip(inverses, v, strict=True)])
                step = flat(search.x) @ wanted / (wanted @ wanted)
                assert step > 0 and (flat(search.x) - step * wanted).norm() <= 1e-12 * flat(search.x).norm()
        # What the iteration makes as small as it can: x^T (G + D) x / 2 - g^T x.
        values = []
        for search, v, q in zip(searches, start, product.multiply([search.x for search in searches]), strict=True):
            values.append(float(flat(search.x) @ flat(q) / 2 - flat(v) @ flat(search.x)))
        assert before is None or all(new < old for new, old in zip(values, before, strict=True))
        before = values


@pytest.mark.slow
def test_ekfac_makes_it_quicker():
    """What is left to gain after eight iterations, of x^T (G + D) x / 2 - g^T x, is less than half of what is left
    without EK-FAC, with the damping alone as the preconditioner."""
    model, config, factors, names = setting("gpt2", damping_factor=0.01, cg_tolerance=0.0)
    added, inverses = shifts(factors, config), [Inverse(f, config) for f in factors]
    product = GaussNewton(model, FITTED[:15], added, config, QUIET)

    class Plain(Inverse):
        def __init__(self, shift):
            self.shift = shift

        def dense(self, g):
            return g / self.shift

    def value(inverses, iterations):
        seeds = vectors(model.module, names, SEEDS)
        searches = searched(product, seeds, inverses, config.with_options(cg_iterations=iterations), "abc")
        start, q = vectors(model.module, names, SEEDS), product.multiply([search.x for search in searches])
        return np.array(
            [float(flat(s.x) @ (flat(y) / 2 - flat(b))) for s, y, b in zip(searches, q, start, strict=True)]
        )

    best, quick, slow = value(inverses, 40), value(inverses, 8), value([Plain(x) for x in added], 8)
    assert np.all(quick - best < (slow - best) / 2)


def scores(kind, pool=POOL, **options):
    """[pool, seeds] as the stages compute them, and the report."""
    model, config, factors, _ = setting(kind, **options)
    joined, report = precondition_seeds(model, factors, SEEDS, pool[:4], config, QUIET, sample=SAMPLE)
    return make_influence_pass(model, joined, config, QUIET).compute(pool)[0], report, model, config, factors


@pytest.mark.parametrize("kind", ["llama-bias", "gpt2"])
def test_scores_are_those_of_the_search(kind):
    got, report, model, config, factors = scores(kind, cg_iterations=5)
    assert report.iterations == (5,) * len(SEEDS) and report.unconverged == len(SEEDS)
    assert all(0 < residual < np.inf for residual in report.residuals)
    assert report.relative_error < 1e-12 and report.correlation > 1 - 1e-12
    names = [layer.name for layer in model.layers]
    product = GaussNewton(model, SAMPLE, shifts(factors, config), config, QUIET)
    searches = searched(
        product, vectors(model.module, names, SEEDS), [Inverse(f, config) for f in factors], config, "abc"
    )
    pool = torch.stack([flat(v) for v in vectors(model.module, names, POOL)])
    want = (pool @ torch.stack([flat(search.x) for search in searches], 1)).numpy()
    # Float64 but for the result, stored as float32; the two gradients of a seed differ by their rounding, which five
    # iterations of a matrix of condition 1e4 or less carry on.
    assert np.all(np.abs(got - want) <= 2.0**-24 * np.abs(want) + 1e-9 * np.abs(want).max())


def test_batches_and_how_many_seeds_are_side_by_side_change_nothing(monkeypatch):
    whole = scores("llama", token_batch_size=4096)[0]
    single = scores("llama", token_batch_size=1)[0]
    assert np.all(np.abs(whole - single) <= 2.0**-23 * np.abs(whole) + 1e-9 * np.abs(whole).max())
    layers = setting("llama")[0].layers
    a_seed = sum(5 * layer.out_features * layer.width * 8 for layer in layers)
    monkeypatch.setattr(conjugate, "free_memory", lambda device: 2 * a_seed)
    calls = []
    multiply = GaussNewton.multiply
    monkeypatch.setattr(
        GaussNewton, "multiply", lambda self, p, *more: (calls.append(len(p)), multiply(self, p, *more))[1]
    )
    assert np.array_equal(scores("llama", token_batch_size=4096)[0], whole) and set(calls) == {1}
    monkeypatch.setattr(conjugate, "free_memory", lambda device: 2 * a_seed - 1)
    with pytest.raises(ModelError, match=r"inversion: cg needs .* GiB of cpu for one seed .* filter_modules"):
        scores("llama")


def test_gradient_checkpointing_gives_the_same():
    plain, checkpointed = scores("llama")[0], scores("llama", gradient_checkpointing=True)[0]
    assert np.all(np.abs(plain - checkpointed) <= 2.0**-23 * np.abs(plain) + 1e-9 * np.abs(plain).max())


def test_a_row_without_a_finite_loss_is_left_out():
    model, config, factors, _ = setting("llama")
    poisoned = Example(np.full(5, 47, np.int32), np.full(5, 47, np.int32))
    assert not any((example.input_ids == 47).any() for example in SAMPLE[:2])
    with torch.no_grad():
        model.module.get_input_embeddings().weight[47] = float("nan")
    clean, mixed = (
        GaussNewton(model, rows, shifts(factors, config), config, QUIET).multiply(vectors_of_ones(model))
        for rows in (SAMPLE[:2], [*SAMPLE[:2], poisoned])
    )
    assert torch.allclose(flat(clean[0]), flat(mixed[0]), rtol=1e-12, atol=0)
    with pytest.raises(ModelError, match="no row of the cg_rows has a finite loss"):
        GaussNewton(model, [poisoned], shifts(factors, config), config, QUIET).multiply(vectors_of_ones(model))


def vectors_of_ones(model):
    return [[torch.ones(layer.out_features, layer.width, dtype=torch.float64) for layer in model.layers]]


def test_a_search_that_is_not_finite_names_the_seed():
    model, config, factors, names = setting("llama")
    product = GaussNewton(model, SAMPLE, shifts(factors, config), config, QUIET)
    seeds = vectors(model.module, names, SEEDS)
    seeds[1][0][0, 0] = float("inf")
    inverses = [Inverse(f, config) for f in factors]
    with pytest.raises(ModelError, match=r"seeds.jsonl:2: iteration 1 of its conjugate gradients is not finite"):
        searched(product, seeds, inverses, config, ["seeds.jsonl:1", "seeds.jsonl:2", "seeds.jsonl:3"])


def test_a_seed_without_gradient_has_no_influence():
    model, config, factors, names = setting("llama")
    product = GaussNewton(model, SAMPLE, shifts(factors, config), config, QUIET)
    nothing = [[torch.zeros_like(x) for x in v] for v in vectors(model.module, names, SEEDS[:1])]
    (search,) = searched(product, nothing, [Inverse(f, config) for f in factors], config, ["seed"])
    assert search.converged and search.iterations == 0 and not flat(search.x).any()


def files_of(run_path):
    """All that a fit leaves, but for run.json, which holds seconds, and the locks."""
    files = {str(path.relative_to(run_path)): path for path in run_path.rglob("*") if path.is_file()}
    return {
        name: path.read_bytes() for name, path in files.items() if not name.endswith(("run.json", ".lock", ".ranks"))
    }


@pytest.fixture(scope="module")
def whole(project, tmp_path_factory):
    """One uninterrupted fit, and its options."""
    options = {"inversion": "cg", "cg_rows": 12, "cg_iterations": 3}
    run_path = tmp_path_factory.mktemp("cg") / "run"
    gdig.fit(**project.options(run_path, **options))
    return run_path, options


def test_a_fit_that_is_stopped_goes_on_after_the_seeds_it_has_done(project, whole, tmp_path, monkeypatch):
    finished, options = whole
    assert len(stages(finished)["fit"]["seeds"]["residuals"]) == 5
    monkeypatch.setattr(conjugate, "_MAX_SEEDS", 2)
    solved, stop = [], [4]

    def counted(product, searches, *more):
        if len(solved) >= stop[0]:
            raise KeyboardInterrupt
        solved.extend(searches)
        return solve(product, searches, *more)

    monkeypatch.setattr(inverting, "solve", counted)
    with pytest.raises(KeyboardInterrupt):
        gdig.fit(**project.options(tmp_path / "run", **options))
    resume_files = sorted((tmp_path / "run" / "seeds" / "resume").iterdir())
    assert [path.stem for path in resume_files] == ["00000000", "00000001", "00000002", "00000003", "products"]
    resume_files[1].write_bytes(resume_files[1].read_bytes()[:-1])  # damaged: done again
    solved.clear()
    stop[0] = 100
    gdig.fit(**project.options(tmp_path / "run", **options))
    assert len(solved) == 2
    assert files_of(tmp_path / "run") == files_of(finished)
    reports = [stages(path)["fit"]["seeds"] for path in (tmp_path / "run", finished)]
    assert reports[0] == reports[1]


@pytest.mark.distributed
def test_two_ranks_leave_the_bytes_of_one(project, whole, tmp_path):
    finished, options = whole
    asked = project.options(tmp_path / "run", **options)
    others = (
        "projection_dim",
        "projection_side",
        "rows_per_shard",
        "n_clusters",
        "budget",
        "method",
        "tau",
        "report",
    )  # of later stages
    of_fit = {name: value for name, value in asked.items() if name not in others}
    finish_on_ranks(2, ["fit", *flags(of_fit)], tmp_path / "two")
    assert files_of(tmp_path / "run") == files_of(finished)


def test_what_is_said_of_the_search(project, tmp_path, capsys):
    options = {"inversion": "cg", "cg_rows": 12, "cg_iterations": 2, "quiet": False, "fit_tokens": 1400}
    gdig.fit(**project.options(tmp_path / "run", **options))
    said = capsys.readouterr().err
    assert "fit: conjugate gradients: 120 products in " in said
    assert "fit: conjugate gradients, 2 to 2 iterations a seed; residual " in said
    assert "; 0 of 5 seeds reached cg_tolerance 0.01" in said
