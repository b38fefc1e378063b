"""A sweep within 60 % of the free memory: in the smallest form that fits, with the same bits, or refused."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import gdig
from gdig.config.config import Config
from gdig.errors import MemoryShortError
from gdig.influence import dense_plan, seed_plan, sweep_memory
from gdig.influence.seed_factors import SeedFactors
from gdig.influence.sweep_memory import plan_sweep_within
from gdig.influence.sweep_plan import plan_sweep
from gdig.model.load import load_model
from gdig.model.token_memory import TokenMemory
from gdig.passes import sweep_stage
from gdig.planning import run_plan
from tests.support.project_fixtures import stages
from tests.support.torchrun import files_of

OPTIONS = {"token_batch_size": 128, "rows_per_shard": 64}


def sweep_options(project, run_path, **changes) -> dict:
    unknown = ("n_clusters", "budget", "report", "method", "tau")
    return {k: v for k, v in project.options(run_path, **{**OPTIONS, **changes}).items() if k not in unknown}


@pytest.fixture(scope="module")
def model(project):
    return load_model(Config.build(project.options("unused")))


def seeds_of(model, columns: int = 4000) -> list[SeedFactors]:
    """8 seeds whose factors take more than all else of a tiny model."""
    return [
        SeedFactors(
            torch.empty(layer.out_features, 8 * columns, device="meta"),
            torch.empty(layer.width, 8 * columns, device="meta"),
            torch.arange(9) * columns,
            np.full(8, 1.0),
        )
        for layer in model.layers
    ]


def beside(plan) -> int:
    return plan.peak.total - plan.peak.weights


def test_as_few_layers_as_it_takes_are_read_from_their_files(model, monkeypatch):
    monkeypatch.setattr(dense_plan, "DENSE_BYTES", 0)
    monkeypatch.setattr("gdig.influence.sweep_plan.dense_room", lambda *_: 0)
    config, seeds = Config.build(OPTIONS), seeds_of(model)
    facts = {"longest": 100, "rows": 60}
    whole = plan_sweep(model, config, seeds, limit=None, **facts)
    sizes = [f.u.numel() * 4 + f.v.numel() * 4 for f in seeds]
    assert whole.peak.seed_factors == sum(sizes)
    rest = beside(whole) - sum(sizes)
    fitting = plan_sweep_within(model, config, seeds, limit=beside(whole), **facts)
    assert fitting == plan_sweep(model, config, seeds, limit=beside(whole), **facts) and fitting.from_files == ()
    numbers = []
    for limit in np.linspace(beside(whole) - 1, rest + 2 * max(sizes), 9).astype(int):
        plan = plan_sweep_within(model, config, seeds, limit=int(limit), **facts)
        assert beside(plan) <= limit
        read = [sizes[index] for index in plan.from_files]
        assert plan.peak.seed_factors == sum(sizes) - sum(read) and plan.peak.work == 2 * max(read)
        assert min(read) >= max([size for i, size in enumerate(sizes) if i not in plan.from_files], default=0)
        assert plan.limit == limit - plan.peak.seed_factors - plan.peak.work - plan.peak.rows
        numbers.append(len(read))
    assert numbers == sorted(numbers) and numbers[-1] == len(sizes)
    with pytest.raises(MemoryShortError, match=r"sweep: the pass needs at least .* 60 % of the .*; free memory, lower"):
        plan_sweep_within(model, config, seeds, limit=max(sizes), **facts)


def test_a_w_of_more_memory_is_planned_again(model, monkeypatch):
    """Of an earlier start. Rows that are left then score by columns."""
    config, seeds = Config.build(OPTIONS), seeds_of(model, columns=20)
    facts = {"longest": 100, "rows": 60}
    monkeypatch.setattr(dense_plan, "_READING", {"full": -1000, "half": -1000, "brief": -1000})
    much = plan_sweep(model, config, seeds, limit=None, **facts)
    assert much.dense_bytes > 0
    same = plan_sweep_within(model, config, seeds, limit=beside(much), dense_bytes=much.dense_bytes, **facts)
    assert same.dense_bytes == much.dense_bytes
    less = plan_sweep_within(model, config, seeds, limit=beside(much) - 1, dense_bytes=much.dense_bytes, **facts)
    assert less.dense_bytes < much.dense_bytes and beside(less) <= beside(much) - 1


def test_gradient_checkpointing_comes_before_a_refusal(project, monkeypatch):
    model = load_model(Config.build(project.options("unused")))
    config, seeds = Config.build(OPTIONS), seeds_of(model, columns=2)
    facts = {"longest": 128, "rows": 60}
    counted = TokenMemory.count(model)
    counted = replace(counted, graph=tuple(10 * size for size in counted.graph))  # as of a deep model
    plain = plan_sweep(model, config, seeds, limit=None, token_memory=counted, **facts)
    graph = 128 * counted.a_token()
    saving = load_model(Config.build(project.options("unused")))
    saving.save_memory()
    saved = 128 * TokenMemory.count(saving).a_token()
    assert saved < graph == plain.peak.activations
    limit = beside(plain) - plain.peak.dense - plain.peak.seed_factors - (graph - saved) // 2
    plan = plan_sweep_within(model, config, seeds, limit=limit, token_memory=counted, **facts)
    assert plan.peak.activations < graph and beside(plan) <= limit
    assert not model.save_memory(), "it is on"


@pytest.mark.parametrize("changes", [{}, {"inversion": "identity", "seed_energy": 0.5}], ids=["ekfac", "identity"])
def test_a_sweep_with_factors_in_their_files_has_the_same_bytes(project, tmp_path, monkeypatch, capsys, changes):
    options = sweep_options(project, tmp_path / "whole", quiet=False, **changes)
    monkeypatch.setattr("gdig.influence.sweep_plan.dense_room", lambda *_: 0)
    gdig.fit(**{**options, "quiet": True})
    run_path = Path(shutil.copytree(tmp_path / "whole", tmp_path / "run"))
    gdig.sweep(**{**options, "quiet": True})
    least = []
    within = sweep_stage.plan_sweep_within

    def short(*given, **more):
        plan = within(*given, **more)
        if not least:
            least.append(beside(plan) - 1)
        return within(*given, **{**more, "limit": least[0]})

    monkeypatch.setattr(sweep_stage, "plan_sweep_within", short)
    loads = []
    load = SeedFactors.load
    monkeypatch.setattr(SeedFactors, "load", lambda *given: loads.append(given) or load(*given))
    capsys.readouterr()
    gdig.sweep(**{**options, "run_path": str(run_path)})
    error = capsys.readouterr().err
    assert re.search(r"each batch reads those of [1-6] layers? from their files", error)
    assert len(loads) > 20, "each batch reads"
    assert files_of(run_path) == files_of(tmp_path / "whole")


def test_a_sweep_that_cannot_fit_is_refused_before_a_row_passes(project, tmp_path, monkeypatch):
    options = sweep_options(project, tmp_path / "run")
    gdig.fit(**options)
    monkeypatch.setattr(sweep_stage, "room", lambda *_: 1000)
    with pytest.raises(MemoryShortError, match=r"sweep: the pass needs .* but a plan takes 9.31e-07 GiB, 60 %"):
        gdig.sweep(**options)
    assert stages(tmp_path / "run")["sweep"]["scale"] is None
    monkeypatch.undo()
    gdig.sweep(**options)


def test_seeds_that_cannot_fit_are_refused_before_they_pass(project, tmp_path, monkeypatch):
    options = {k: v for k, v in sweep_options(project, tmp_path / "run").items() if not k.startswith("proj")}
    del options["rows_per_shard"]
    monkeypatch.setattr(seed_plan, "room", lambda *_: 1000)
    with pytest.raises(MemoryShortError, match=r"seeds: the pass needs at least .* of head and .* 60 % of"):
        gdig.fit(**options)
    assert list((tmp_path / "run" / "seeds").glob("*")) == []
    monkeypatch.undo()
    gdig.fit(**options)


def test_the_plan_of_a_run_says_that_factors_are_read_or_refuses(project, tmp_path, monkeypatch):
    options = project.options(tmp_path / "run", **OPTIONS)
    monkeypatch.setattr("gdig.influence.sweep_plan.dense_room", lambda *_: 0)
    plan = gdig.plan(**options)
    assert not [note for note in plan.notes if "from their files" in note]
    needed = max(memory.total - memory.weights for memory in plan.memory.values())
    monkeypatch.setattr(run_plan, "room", lambda *_: needed // 50)
    with pytest.raises(MemoryShortError):
        gdig.plan(**options)
    within = sweep_memory.plan_sweep_within

    def read(*given, **more):
        return replace(within(*given, **more), from_files=(0, 2))

    monkeypatch.undo()
    monkeypatch.setattr("gdig.planning.planner.plan_sweep_within", read)
    (note,) = [note for note in gdig.plan(**options).notes if "from their files" in note]
    assert "2 layers" in note
