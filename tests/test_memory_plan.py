"""Memory that is planned: what is free, what a model of any size holds, and partitions of the layers that change no
bit."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from gdig import ops
from gdig.config.config import Config
from gdig.errors import ModelError
from gdig.influence import curvature, factors, fit_bytes
from gdig.influence.memory_plan import plan_memory
from gdig.influence.seed_factors import SeedFactors
from gdig.influence.sweep_plan import plan_sweep
from gdig.model import batch_size, free_memory
from gdig.model.causal_model import Model
from gdig.model.coverage import Coverage
from gdig.model.layers import as_layer
from gdig.model.token_memory import TokenMemory, weight_bytes
from gdig.passes.influence_pass import make_influence_pass
from gdig.progress import Progress
from tests.support.partitions import plans_in_partitions, require_the_same_fit
from tests.support.tiny_models import gpt2, llama, make_examples, wrapped

QUIET = Progress(quiet=True)
GIB = 1 << 30


def tree(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, None),
        ({"proc/meminfo": "MemTotal: 9000 kB\nMemAvailable: 5000 kB\n"}, 5000 * 1024),
        (
            {
                "proc/meminfo": "MemAvailable: 5000 kB\n",
                "proc/self/cgroup": "0::/user/job\n",
                "sys/fs/cgroup/user/job/memory.max": "max\n",
                "sys/fs/cgroup/user/job/memory.current": "100\n",
                "sys/fs/cgroup/user/memory.max": "3000000\n",
                "sys/fs/cgroup/user/memory.current": "1000000\n",
                "sys/fs/cgroup/user/memory.stat": "anon 5\ninactive_file 400000\nactive_file 300\nfile_mapped 100\n",
            },
            2_400_200,
        ),
        (
            {
                "proc/meminfo": "MemAvailable: 5000 kB\n",
                "proc/self/cgroup": "4:cpu,memory:/docker/abc\n1:cpuset:/\n",
                # The path is the host's; inside the container the group is the mount's root.
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "2000000\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "1500000\n",
                "sys/fs/cgroup/memory/memory.stat": "total_inactive_file 100000\ntotal_active_file 50000\n"
                "total_mapped_file 120000\n",
            },
            600_000,
        ),
        (
            {
                "proc/meminfo": "MemAvailable: 5000 kB\n",
                "proc/self/cgroup": "4:memory:/\n",
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "1500000\n",
            },
            5000 * 1024,
        ),
    ],
    ids=[
        "unknown",
        "available",
        "version 2, the parent's limit",
        "version 1 in a container",
        "version 1 without limit",
    ],
)
def test_free_memory_is_the_least_of_all_limits(tmp_path, files, free):
    assert free_memory.free_host_memory(tree(tmp_path, files)) == free


def test_what_an_earlier_pass_has_freed_is_free(monkeypatch):
    asked = []
    monkeypatch.setattr(batch_size.FreedMemory, "hand_back", lambda self: asked.append("hand back"))
    monkeypatch.setattr(batch_size, "free_memory", lambda device: asked.append(device.type) or 1000)
    assert batch_size.room(wrapped(llama())[0]) == 600 and asked == ["hand back", "cpu"]


def test_a_limit_of_the_address_space_counts(tmp_path, monkeypatch):
    page = free_memory.resource.getpagesize()
    tree(tmp_path, {"proc/meminfo": "MemAvailable: 5000 kB\n", "proc/self/statm": "300 20 10 1 0 9 0\n"})
    monkeypatch.setattr(free_memory.resource, "getrlimit", lambda _: (400 * page, 500 * page))
    assert free_memory.free_host_memory(tmp_path) == 100 * page
    monkeypatch.setattr(free_memory.resource, "getrlimit", lambda _: (200 * page, 500 * page))
    assert free_memory.free_host_memory(tmp_path) == 0


@pytest.fixture(scope="module")
def llama_8b() -> Model:
    """The shape of an 8B Llama in bfloat16, without its numbers: all linear layers of the MLP blocks."""
    with torch.device("meta"):
        config = LlamaConfig(
            vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
            num_attention_heads=32, num_key_value_heads=8, max_position_embeddings=8192,
        )  # fmt: skip
        module = LlamaForCausalLM(config).to(torch.bfloat16)
    module.eval().requires_grad_(False)
    meta = torch.device("meta")
    candidates = [as_layer(name, m) for name, m in module.named_modules() if ".mlp." in name]
    layers = [replace(layer, device=meta) for layer in candidates if layer is not None]
    layers = [
        replace(layer, input_name=layer.name.replace("up_proj", "gate_proj")) if "up_proj" in layer.name else layer
        for layer in layers
    ]
    assert len(layers) == 96
    return Model(
        module=module, base=module.model, head=module.lm_head, layers=layers, device=meta, dtype=torch.bfloat16,
        window=8192, vocab_size=128256, coverage=Coverage(0.8, 0.8, ()),
    )  # fmt: skip


def test_an_8b_model_plans_to_one_gpu_and_to_eight(llama_8b):
    weights = weight_bytes(llama_8b.module)
    assert 16.0e9 < weights < 16.1e9
    limit = int(0.6 * (80 * GIB - weights))
    counted = TokenMemory.count(llama_8b)
    options = {"limit": limit, "longest": 4096, "sample_tokens": 10**6, "token_memory": counted}
    plan = plan_memory(llama_8b, Config.build({}), **options, host_limit=100 * GIB)
    # A and S of all layers in float32 are 32 (3 x 14336^2 + 2 x 4096^2) numbers; two thirds of them do not fit.
    numbers = 32 * (3 * 14336**2 + 2 * 4096**2)
    assert sum(sum(partition) for partition in plan.partitions) == sum(range(96))
    assert 4 * numbers / limit < len(plan.partitions) <= 6
    assert {name: memory.total - weights <= limit for name, memory in plan.passes.items()} == {
        "factors": True, "eigenvectors": True, "eigenvalues": True,
    }  # fmt: skip
    # 4,096 tokens keep 27 GB in the graph: to compute them again costs a third, and saves more than that of the passes.
    assert plan.token_batch_size >= 256 and plan.gradient_checkpointing
    assert max(memory.eigenvectors for memory in plan.passes.values()) >= 4 * numbers / len(plan.partitions)
    for partition in plan.partitions:  # gate and up share their input's sums
        names = [llama_8b.layers[index].name for index in partition]
        assert sum("gate" in name for name in names) == sum("up" in name for name in names)
    eight = plan_memory(llama_8b, Config.build({}), **options, host_limit=100 * GIB, world=8)
    assert eight.partitions == plan.partitions and eight.host_totals == plan.host_totals // 8
    # The computer's memory can ask for more partitions than the GPU's: each holds a part of the totals.
    short = plan_memory(llama_8b, Config.build({}), **options, host_limit=10 * GIB)
    assert len(short.partitions) > len(plan.partitions) and short.host_totals <= 10 * GIB
    assert len(plan_memory(llama_8b, Config.build({}), **options, host_limit=10 * GIB, world=8).partitions) == len(
        plan.partitions
    )
    # The upper quarter fits at once.
    upper = replace(llama_8b, layers=llama_8b.layers[72:])
    quarter = plan_memory(upper, Config.build({}), **{**options, "token_memory": None})
    assert len(quarter.partitions) == 1 and not quarter.gradient_checkpointing


def test_what_cannot_fit_is_refused_with_its_size(llama_8b):
    counted = TokenMemory.count(llama_8b)
    with pytest.raises(ModelError, match=r"the fit needs [\d.]+ GiB for one example of 4096 tokens .* filter_modules"):
        plan_memory(llama_8b, Config.build({}), limit=2 * GIB, longest=4096, token_memory=counted)


def test_a_long_example_asks_for_gradient_checkpointing():
    model, config = wrapped(llama(), torch.float32)
    memory = TokenMemory.count(model)
    plan = plan_memory(model, config, limit=2**26, longest=64)
    assert not plan.gradient_checkpointing
    no_gain = replace(memory, graph=tuple(10**6 for _ in memory.graph))
    plan = plan_memory(model, config, limit=2**26, longest=64, token_memory=no_gain)
    assert plan.gradient_checkpointing


def test_the_graph_starts_at_the_lowest_layer_of_the_pass():
    model, _ = wrapped(llama(), torch.float32)
    upper = replace(model, layers=model.layers[3:])
    requires = {}
    handles = [
        block.register_forward_hook(lambda _, args, output, i=i: requires.update({i: (args[0].requires_grad, output)}))
        for i, block in enumerate(model.module.model.layers)
    ]
    from gdig.model.batches import make_batches
    from gdig.model.capture import GradientPass

    (batch,) = make_batches(make_examples(2, 1, 9, 9), 512)
    GradientPass(upper).run(batch, lambda *_: None)
    for handle in handles:
        handle.remove()
    assert not requires[1][0], "nothing below the lowest chosen layer requires a gradient"
    assert requires[1][1].requires_grad


@pytest.mark.parametrize("kind", [llama, gpt2], ids=["llama", "gpt2"])
@pytest.mark.parametrize("inversion", ["ekfac", "kfac"])
def test_partitions_change_no_bit(kind, inversion, monkeypatch):
    model, config = wrapped(kind(blocks=3), torch.float32, inversion=inversion, token_batch_size=64)
    sample = make_examples(30, 3)
    keys = np.arange(30, dtype=np.uint64)
    whole, report = curvature.fit_curvature(model, sample, keys, config, QUIET)
    plans = itertools.islice(plans_in_partitions(model, sample, config, monkeypatch), 2)
    for plan, partitions in zip(plans, (2, 3), strict=True):
        assert len(plan.partitions) == partitions
        require_the_same_fit(model, sample, config, plan, whole, report)


def test_layers_of_one_input_stay_together():
    model, _ = wrapped(llama(), torch.float32)
    groups = fit_bytes.layer_groups(model.layers)
    assert groups == [[0, 1], [2], [3, 4], [5]]
    q, k, v, o = (replace(model.layers[0], name=name, input_name=name) for name in "qkvo")
    layers = [q, o, replace(v, input_name="q"), replace(k, input_name="o"), o]
    assert fit_bytes.layer_groups(layers[:3]) == [[0, 1, 2]]
    assert fit_bytes.layer_groups(layers[:4]) == [[0, 1, 2, 3]]


@pytest.mark.parametrize(("width", "bias"), [(5, 0), (384, 0), (385, 0), (900, 0), (384, 1), (37, 1)])
def test_the_bands_of_a_triangle_are_the_covariance(width, bias):
    generator = torch.Generator().manual_seed(width)
    x = torch.randn(40, width, generator=generator, dtype=torch.float64)
    mask = (torch.arange(40) % 3 > 0).double()
    bands = ops.triangle(width + bias, torch.float64, torch.device("cpu"))
    assert sum(band.numel() for band in bands) == ops.triangle_numbers(width + bias)
    for keep in (mask, torch.ones_like(mask)):
        ops.covariance_bands(x, keep, bands)
    wide = torch.cat([x, torch.ones(40, bias, dtype=torch.float64)], 1)
    want = (wide * (mask + 1)[:, None]).T @ wide
    got = ops.from_triangle(bands)
    assert torch.equal(got, got.T)
    # A sum of 80 products: 80 units of float64 of the absolute sum, which is at most 80 times the largest square.
    assert (got - want).abs().max() <= 80 * 2.0**-53 * 80 * float(wide.abs().max()) ** 2
    with pytest.raises(ValueError, match=r"covariance_bands: x .* do not fit one another"):
        ops.covariance_bands(x[:, 1:], mask, ops.triangle(width + 1, torch.float64, torch.device("cpu")))


def test_a_wide_factor_in_float32_is_as_good_as_its_bound(monkeypatch):
    """LAPACK's symmetric solver is backward stable: the result is exact for a matrix within n u |x|, its vectors are
    orthogonal within n u. A damped inverse then differs by n u |x| / damping of itself."""
    n = 160
    monkeypatch.setattr(factors, "WIDE", n)
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randn(3 * n, n, generator=generator) * torch.logspace(0, -2, n)
    x = (tokens.T @ tokens) / len(tokens)
    q, values = factors.eigenbasis(x, "layer")
    assert q.dtype == torch.float32 and values.dtype == torch.float64 and float(values.min()) >= 0
    u, q = 2.0**-24, q.double()
    exact = x.double()
    size = float(torch.linalg.matrix_norm(exact, 2))
    assert float(torch.linalg.matrix_norm(q.T @ q - torch.eye(n, dtype=torch.float64), 2)) <= n * u
    bound = n * u * size
    assert float(torch.linalg.matrix_norm((q * values) @ q.T - exact, 2)) <= 3 * bound  # vectors on both sides, values
    damping = 0.1 * float(values.mean())
    inverse = torch.linalg.inv(exact + damping * torch.eye(n, dtype=torch.float64))
    got = (q / (values + damping)) @ q.T
    assert float(torch.linalg.matrix_norm(got - inverse, 2)) <= 3 * bound / damping * float(
        torch.linalg.matrix_norm(inverse, 2)
    )
    monkeypatch.setattr(factors, "WIDE", n + 1)
    narrow, _ = factors.eigenbasis(x, "layer")
    assert not torch.equal(narrow.double(), q), "below WIDE, float64 rounds otherwise"


@pytest.mark.parametrize("gib", [None, 40, 2.5, 0.5])
def test_a_sweep_is_planned_from_shapes_alone(llama_8b, gib):
    """U and V or W, and a batch, fit what the plan may take. Tensors without numbers give the plan of the real ones."""
    model = replace(llama_8b, layers=llama_8b.layers[-2:])
    counted = TokenMemory.count(model)
    limit = None if gib is None else int(gib * GIB)

    def plan(device):
        seeds = [
            SeedFactors(
                torch.empty(layer.out_features, 8 * 800, device=device),
                torch.empty(layer.width, 8 * 800, device=device),
                torch.arange(9) * 800,
                np.full(8, 0.99),
            )
            for layer in model.layers
        ]
        return plan_sweep(model, Config.build({}), seeds, limit=limit, longest=100, rows=100, token_memory=counted)

    small = plan("meta")
    assert small == plan("cpu")
    by_columns = {None: 1, 40: 0, 2.5: 1, 0.5: 2}[gib]  # layers
    assert small.peak.seed_factors == by_columns * (4096 + 14336) * 6400 * 4
    one_layer = 8 * 4096 * 14336
    expected = {None: 2 * one_layer, 40: 2 * 4 * one_layer, 2.5: 2 * one_layer, 0.5: 0}
    assert small.dense_bytes == small.peak.dense == expected[gib]
    if limit is not None and gib > 0.5:
        assert small.peak.total - small.peak.weights <= limit
    assert small.token_batch_size == (256 if gib == 0.5 else small.token_batch_size)


@pytest.mark.parametrize(("rows", "shards"), [(7, 2 * 7), (10, 2 * 10), (14, 2 * 10 + 4), (1000, 3 * 10)])
def test_the_rows_of_a_sweep_are_planned(rows, shards):
    """A shard that is made, its resume file, and the shard before, as the arrays of the pass have them."""
    model, config = wrapped(llama(), torch.float32, rows_per_shard=10, projection_dim=16)
    seeds = [
        SeedFactors(torch.empty(x.out_features, 6), torch.empty(x.width, 6), torch.arange(4) * 2, np.full(3, 0.99))
        for x in model.layers
    ]
    plan = plan_sweep(model, config, seeds, limit=None, longest=9, rows=rows)
    arrays = make_influence_pass(model, seeds, config, QUIET).compute(make_examples(10, 1))
    assert plan.peak.rows == sum(array.nbytes for array in arrays) * shards // 10
    elsewhere = replace(model, device=torch.device("meta"))
    assert plan_sweep(elsewhere, config, seeds, limit=None, longest=9, rows=rows).peak.rows == 0
    # Rows leave less for a batch.
    left = [plan_sweep(model, config, seeds, limit=GIB, longest=9, rows=n).limit for n in (0, rows)]
    assert left[0] - left[1] == plan.peak.rows


def test_meta_and_fake_tensors_leave_the_model_alone(llama_8b):
    before = {name: id(weight) for name, weight in llama_8b.module.named_parameters()}
    TokenMemory.count(llama_8b)
    assert before == {name: id(weight) for name, weight in llama_8b.module.named_parameters()}
    assert not any(module._forward_hooks for module in llama_8b.module.modules())
