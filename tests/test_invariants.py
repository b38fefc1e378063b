"""What must not change a row's numbers, and what the sketch must preserve."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gdig import ops
from gdig.influence.precondition_seeds import precondition_seeds
from gdig.model.batches import make_batches
from gdig.passes.influence_pass import make_influence_pass
from gdig.passes.row_pass import RowPass
from gdig.passes.sketch import make_projection
from gdig.progress import Progress
from tests.support import oracle
from tests.support.tiny_models import MODELS, gpt2, llama, make_examples, wrapped

SEEDS, POOL = make_examples(3, 2), make_examples(24, 3)


def sweeper(model, config) -> RowPass:
    joined, _ = precondition_seeds(model, [None] * len(model.layers), SEEDS, [], config, Progress(quiet=True))
    return make_influence_pass(model, joined, config, Progress(quiet=True))


def options(**more):
    return {"inversion": "identity", "projection_dim": 24, "projection_side": 4, **more}


@pytest.mark.parametrize("kind", MODELS, ids=str)
def test_a_row_depends_on_nothing_around_it(kind):
    """Batch size, order, neighbours and padding, in float64, where no rounding can hide a leak: 1e-12 of the largest
    number is what reordered float64 sums of some thousand terms may differ by, stored as float32."""
    model, config = wrapped(MODELS[kind](), **options())
    alone = sweeper(model, config.with_options(token_batch_size=1)).compute(POOL)
    together = sweeper(model, config.with_options(token_batch_size=4096)).compute(POOL)
    order = np.random.default_rng(0).permutation(len(POOL))
    shuffled = sweeper(model, config.with_options(token_batch_size=64)).compute([POOL[i] for i in order])
    for a, b, c in zip(alone, together, shuffled, strict=True):
        bound = 2.0**-23 * np.abs(a) + 1e-12 * np.abs(a).max()
        assert np.all(np.abs(a - b) <= bound) and np.all(np.abs(a[order] - c) <= bound)


def test_the_same_numbers_again_and_with_other_thread_counts():
    model, config = wrapped(llama(), torch.float32, **options())
    first, second = sweeper(model, config).compute(POOL), sweeper(model, config).compute(POOL)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(first, second, strict=True))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        shared = sweeper(model, config).compute(POOL)
    finally:
        torch.set_num_threads(threads)
    for a, b in zip(first, shared, strict=True):  # float32 sums of at most 4,096 terms in another order
        assert np.all(np.abs(a - b) <= 4096 * 2.0**-24 * np.abs(a).max())


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_sketch_is_the_explicit_projection(kind):
    model, config = wrapped(MODELS[kind](), **options())
    _, sketch, loss, _ = sweeper(model, config).compute(POOL)
    names = [layer.name for layer in model.layers]
    for e, example in enumerate(POOL):
        pairs, want_loss = oracle.captured(model.module, names, example)
        want = np.zeros(config.projection_dim)
        for layer in model.layers:
            p = make_projection(layer, 4, 24, 0, torch.float64, model.device)
            block = (p.p @ oracle.gradient(pairs[layer.name]) @ p.q.T).flatten().numpy()
            for k in range(16):
                want[p.columns[k]] += float(p.weights[k]) * block[k]
        assert np.all(np.abs(sketch[e] - want) <= 2.0**-24 * np.abs(want) + 1e-12 * np.abs(want).max())
        assert loss[e] == pytest.approx(want_loss, rel=2.0**-23)


@pytest.mark.slow
def test_sketches_keep_inner_products_on_average():
    """E <sketch(G), sketch(H)> = <G, H> over projection seeds: the mean lies within four standard errors, and the
    standard error is small enough that a factor of two (a wrong scale) would be found."""
    model, _ = wrapped(gpt2(), **options())
    g, h = (oracle.captured(model.module, [layer.name for layer in model.layers], e)[0] for e in POOL[:2])
    gram = torch.zeros(2, dtype=torch.float64)
    for layer in model.layers:
        gradient = oracle.gradient(g[layer.name])
        gram += torch.stack([(gradient * oracle.gradient(x[layer.name])).sum() for x in (g, h)])
    products = []
    for random_seed in range(400):
        sketch = torch.zeros(2, 24, dtype=torch.float64)
        for layer in model.layers:
            m = make_projection(layer, 4, 24, random_seed, torch.float64, model.device)
            for row, (a, d) in enumerate((g[layer.name], h[layer.name])):
                alone = sketch[row : row + 1]
                ops.project(a, d, torch.tensor([0, len(a)]), m.q, m.p, m.columns, m.weights, alone)
        products.append((sketch @ sketch[0]).tolist())
    mean, error = np.mean(products, 0), np.std(products, 0) / len(products) ** 0.5
    assert np.all(np.abs(mean - gram.numpy()) <= 4 * error)
    assert np.all(error < 0.1 * float(gram[0]))


def test_batches_hold_every_example_once_and_pads_have_no_loss():
    examples = make_examples(57, 9, 2, 40)
    batches = make_batches(examples, 128, window=40)
    assert sorted(np.concatenate([b.rows for b in batches]).tolist()) == list(range(57))
    for batch in batches:
        lines, length = batch.shape
        assert lines * length <= 128 or lines == 1
        assert length <= 40
        assert int(batch.token_mask.sum()) == int(batch.lengths.sum())
        for line, row in enumerate(batch.rows):
            n = len(examples[row])
            assert batch.input_ids[line, :n].tolist() == examples[row].input_ids.tolist()
            assert (batch.labels[line, n:] == -100).all()


def test_no_weight_gradient_and_nothing_below_the_first_layer():
    """The weights stay frozen, and with layers of the last block alone the graph does not reach the first."""
    module = llama()
    model, config = wrapped(module, **options(filter_modules=r"layers\.1\.mlp"))
    reached = []
    module.model.layers[0].mlp.down_proj.register_forward_hook(lambda m, a, out: reached.append(out.requires_grad))
    sweeper(model, config).compute(POOL)
    assert reached and not any(reached)
    assert all(p.grad is None and not p.requires_grad for p in module.parameters())


def test_the_head_sees_labelled_positions_only():
    module = llama()
    model, config = wrapped(module, **options())
    rows = sweeper(model, config)
    seen = []
    module.lm_head.register_forward_hook(lambda m, args, out: seen.append(args[0].numel() // args[0].shape[-1]))
    rows.compute(POOL)
    assert sum(seen) == sum(example.n_target for example in POOL)
