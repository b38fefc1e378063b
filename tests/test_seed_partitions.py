"""Seeds that pass partition by partition: the same bits, in the memory that was planned."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

from gdig.influence import precondition_seeds as precondition_module
from gdig.influence import seed_plan
from gdig.influence.curvature import fit_curvature
from gdig.influence.inverse import Inverse
from gdig.influence.layer_scores import make_scorers
from gdig.influence.precondition_seeds import precondition_seeds
from gdig.influence.seed_factors import SeedFactors, SeedFiles
from gdig.influence.seed_plan import SeedBytes, plan_seeds
from gdig.progress import Progress
from gdig.store.tensor_file import CheckedFile
from tests.support.tiny_models import gpt2, llama, make_examples, wrapped

SAMPLE, SEEDS, PROBE = make_examples(20, 1), make_examples(6, 2), make_examples(3, 3)
QUIET = Progress(quiet=True)
OPTIONS = {"seed_energy": 0.95, "token_batch_size": 256, "projection_dim": 8, "projection_side": 2}


@pytest.fixture(scope="module")
def fitted():
    model, config = wrapped(llama(blocks=3), torch.float32, **OPTIONS)
    factors, _ = fit_curvature(model, SAMPLE, np.arange(len(SAMPLE), dtype=np.uint64), config, QUIET)
    return model, config, factors


def live_bytes() -> int:
    """Bytes of all tensors that are alive, each storage once."""
    gc.collect()
    storages = {}
    for x in gc.get_objects():
        if type(x) is torch.Tensor and x.device.type == "cpu":
            storages[x.untyped_storage()._cdata] = x.untyped_storage().nbytes()
    return sum(storages.values())


@pytest.mark.parametrize("inversion", ["identity", "ekfac"])
@pytest.mark.parametrize("kind", [llama, gpt2], ids=["llama", "gpt2"])
def test_partitions_change_no_bit(kind, inversion):
    model, config = wrapped(kind(blocks=3), torch.float32, inversion=inversion, **OPTIONS)
    factors = [None] * len(model.layers)
    if inversion == "ekfac":
        factors, _ = fit_curvature(model, SAMPLE, np.arange(len(SAMPLE), dtype=np.uint64), config, QUIET)
    whole, report = precondition_seeds(model, factors, SEEDS, PROBE, config, QUIET)
    n = len(model.layers)
    for partitions in ([[0, 1], range(2, n)], [[i] for i in range(n)]):
        joined, own_report = precondition_seeds(
            model, iter(factors), SEEDS, PROBE, config, QUIET, partitions=partitions
        )
        assert own_report == report and 0 < report.relative_error < 1 and report.probe_rows == len(PROBE)
        for ours, other in zip(whole, joined, strict=True):
            assert torch.equal(ours.u, other.u) and torch.equal(ours.v, other.v)
            assert torch.equal(ours.column_offsets, other.column_offsets) and np.array_equal(ours.energy, other.energy)


def test_only_one_partition_is_in_memory(fitted, tmp_path, monkeypatch):
    """The inverses of a partition at most; and while its layers are written, its factors once and one layer twice."""
    model, config, factors = fitted
    whole, _ = precondition_seeds(model, factors, SEEDS, PROBE, config, QUIET)
    sizes = [f.u.nbytes + f.v.nbytes for f in whole]
    partitions = [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    alive: weakref.WeakSet[Inverse] = weakref.WeakSet()
    most_inverses, held = [], []
    make, write = Inverse.__init__, SeedFiles.write

    def counted(self, *arguments):
        make(self, *arguments)
        alive.add(self)
        most_inverses.append(len(alive))

    def measured(self, index, layer_factors):
        held.append(live_bytes() - before)
        write(self, index, layer_factors)

    monkeypatch.setattr(precondition_module.Inverse, "__init__", counted)
    monkeypatch.setattr(SeedFiles, "write", measured)
    files = SeedFiles(model.layers, lambda name: CheckedFile(tmp_path / f"{name}.safetensors", name))
    before = live_bytes()
    joined, _ = precondition_seeds(model, factors, SEEDS, PROBE, config, QUIET, partitions=partitions, files=files)
    assert joined == [] and max(most_inverses) == 3
    for index, size in enumerate(held):
        own = sum(sizes[i] for i in partitions[index // 3] if i > index)  # the layers that are still to come
        slack = 4096  # losses, energies, offsets
        assert own + sizes[index] <= size + slack and size <= own + 2 * sizes[index] + slack
    assert len(files) == 9 and files.complete([0, 8])
    for ours, other in zip(whole, files, strict=True):
        assert torch.equal(ours.u, other.u) and torch.equal(ours.v, other.v)


def test_the_sweep_reads_one_layer_at_a_time_and_keeps_w_or_the_columns(fitted, tmp_path, monkeypatch):
    model, config, factors = fitted
    config = config.with_options(seed_energy=0.9)
    files = SeedFiles(model.layers, lambda name: CheckedFile(tmp_path / f"{name}.safetensors", name))
    precondition_seeds(model, factors, SEEDS, PROBE, config, QUIET, files=files)
    monkeypatch.setattr("gdig.influence.dense_plan._READING", {"full": 0, "half": 0})
    read = SeedFactors.load
    alive: weakref.WeakSet[SeedFactors] = weakref.WeakSet()
    most: list[int] = []

    def counted(*arguments):
        alive.add(layer := read(*arguments))
        most.append(len(alive))
        return layer

    monkeypatch.setattr(SeedFactors, "load", counted)
    monkeypatch.setattr(SeedFactors, "__hash__", object.__hash__)  # a dataclass that compares has none
    scorers = make_scorers(files, 1 << 30)
    with_w = [scorer for scorer in scorers if scorer.w is not None]
    assert with_w and all((scorer.w is None) == (scorer.factors is not None) for scorer in scorers)
    assert max(most) <= 2 + len(scorers) - len(with_w), "the layer that is read, the one before, those by columns"


def test_partitions_of_the_seeds_fill_the_memory(fitted, monkeypatch):
    model, config, _ = fitted
    monkeypatch.setattr(seed_plan, "weight_bytes", lambda module: 0)
    lengths, probe = [len(seed) for seed in SEEDS], sum(map(len, PROBE))
    sizes = [SeedBytes.of(layer, model.dtype, config, lengths, probe).total for layer in model.layers]
    for limit in (0, max(sizes), 2 * max(sizes), sum(sizes) - 1, sum(sizes), None):
        plan = plan_seeds(model, config, lengths, probe, limit)
        assert [index for partition in plan.partitions for index in partition] == list(range(len(sizes)))
        held = [sum(sizes[i] for i in partition) for partition in plan.partitions]
        assert plan.largest.total == max(held)
        for partition, size in zip(plan.partitions, held, strict=True):
            assert limit is None or size <= limit or len(partition) == 1
            following = partition[-1] + 1
            assert following == len(sizes) or size + sizes[following] > limit, "the next layer would have fitted"
    assert len(plan_seeds(model, config, lengths, probe, sum(sizes)).partitions) == 1
    # Beside a partition lies a pass whose graph begins at the partition's lowest layer.
    passes = [(len(sizes) - index) * max(sizes) for index in range(len(sizes))]
    plan = plan_seeds(model, config, lengths, probe, passes[0] + max(sizes), passes)
    assert len(plan.partitions) > 1 and {index for partition in plan.partitions for index in partition} == set(range(9))
    for partition in plan.partitions:
        held = sum(sizes[i] for i in partition) + passes[partition[0]]
        assert held <= passes[0] + max(sizes)
        following = partition[-1] + 1
        assert following == len(sizes) or held + sizes[following] > passes[0] + max(sizes)
    assert len(plan.partitions[-2]) > len(plan.partitions[0]), "upper partitions hold more, as their graph is smaller"
    searching = config.with_options(inversion="cg")
    assert plan_seeds(model, searching, lengths, probe, 0).partitions == (tuple(range(9)),)
    # On a CPU a partition takes 1.5 GiB, or as much as the weights; U and V are what was made, or more.
    monkeypatch.setattr(seed_plan, "CPU_BYTES", sum(sizes) - 1)
    assert len(plan_seeds(model, config, lengths, probe, None).partitions) == 2
    monkeypatch.setattr(seed_plan, "weight_bytes", lambda module: sum(sizes))
    assert len(plan_seeds(model, config, lengths, probe, None).partitions) == 1
    made, _ = precondition_seeds(model, [None] * 9, SEEDS, [], config.with_options(inversion="identity"), QUIET)
    planned = [SeedBytes.of(layer, model.dtype, config, lengths, probe).factors for layer in model.layers]
    assert all(f.u.nbytes + f.v.nbytes <= size for f, size in zip(made, planned, strict=True))
    assert replace(SeedBytes(1, 2, 3), probe=5).total == 9
