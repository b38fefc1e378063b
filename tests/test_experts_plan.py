"""The plan of a run over a mixture of experts, against what the run does and what its tensors take."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

import gdig
from gdig.config.config import Config
from gdig.distributed.ranks import Ranks
from gdig.influence.curvature import fit_curvature
from gdig.influence.curvature_sums import zero_triangles
from gdig.influence.memory_plan import plan_fit
from gdig.influence.precondition_seeds import precondition_seeds
from gdig.influence.seed_plan import plan_seeds
from gdig.model.batches import make_batches
from gdig.model.token_memory import TokenMemory
from gdig.planning.report import RunPlan
from gdig.planning.run_plan import make_plan
from gdig.progress import Progress
from gdig.run.session import Workspace
from tests.support.families import tiny_model
from tests.support.graph_memory import kept_bytes
from tests.support.mixtures import mixture
from tests.support.partitions import plans_in_partitions, require_the_same_fit
from tests.support.project_fixtures import save_model, stages
from tests.support.tiny_models import make_examples

pytestmark = pytest.mark.skipif(
    int(transformers.__version__.split(".")[0]) < 5, reason="experts are fused since transformers 5"
)
QUIET = Progress(quiet=True)
SAMPLE, SEEDS = make_examples(3, 1, 4, 20), make_examples(2, 2, 4, 20)


@pytest.fixture(scope="module")
def options(tiny_tokenizer, tmp_path_factory) -> dict:
    """Of a run over the default layers of a Qwen2-MoE: experts, a shared expert and a dense MLP."""
    module = tiny_model("qwen2_moe", vocab_size=len(tiny_tokenizer), max_position_embeddings=128, mlp_only_layers=[0])
    model = save_model(tmp_path_factory.mktemp("mixture") / "model", module, tiny_tokenizer)
    return {"model": str(model), "layers": "mlp"}


@pytest.fixture(scope="module")
def fitted(project, options, tmp_path_factory) -> Path:
    run_path = tmp_path_factory.mktemp("fitted") / "run"
    unknown = ("n_clusters", "budget", "report", "method", "tau", "projection_dim", "projection_side", "rows_per_shard")
    return gdig.fit(**{k: v for k, v in project.options(run_path, **options).items() if k not in unknown})


@pytest.fixture(scope="module")
def planned(project, options, tmp_path_factory) -> RunPlan:
    """A plan by a clock that gives each look at it a second."""
    ticks = itertools.count()
    config = Config.build(project.options(tmp_path_factory.mktemp("planned") / "run", **options))
    return make_plan(Workspace(config, QUIET), clock=lambda: float(next(ticks)))


@pytest.fixture(scope="module")
def small_fit() -> tuple:
    """A model, its options, and the curvature and report of a sample in which some experts see few tokens."""
    model, config = mixture("qwen3_moe", torch.float32, token_batch_size=64)
    factors, report = fit_curvature(model, SAMPLE, np.arange(len(SAMPLE), dtype=np.uint64), config, QUIET)
    assert {f.shared for f in factors} == {False, True}
    return model, config, factors, report


def test_the_plan_names_the_layers_and_the_coverage_of_the_run(planned, fitted):
    fit = stages(fitted)["fit"]
    assert list(planned.layers) == fit["layers"] and planned.coverage == fit["coverage"]
    kinds = {".mlp.experts.": 2 * 4, ".mlp.shared_expert.": 3, "layers.0.mlp.": 3}
    assert {kind: sum(kind in name for name in planned.layers) for kind in kinds} == kinds
    assert len(planned.layers) == sum(kinds.values())
    assert f"{planned.coverage:.0%}" in str(planned) and list(planned.partitions) == fit["partitions"]
    assert planned.token_batch_size == fit["token_batch_size"]
    assert all(stage.seconds > 0 for stage in planned.stages if stage.name.startswith(("fit: ", "sweep")))


def test_the_curvature_takes_the_disk_that_the_plan_says(planned, fitted):
    files = list((fitted / "curvature").glob("*.safetensors"))
    size = sum(file.stat().st_size for file in files)
    assert len(files) == len(planned.layers)
    # Experts with a shared factor have no corrected eigenvalues, so their files are smaller.
    assert size <= planned.disk["curvature"] <= size * 1.6 + 4096 * len(files)


def test_sums_and_eigenvectors_of_experts_take_the_memory_that_the_plan_says(small_fit):
    model, config, factors, _ = small_fit
    plan = plan_fit(model, SAMPLE, config, Ranks())
    sums = sum(band.nbytes for pair in zero_triangles(model, model.layers) for bands in pair for band in bands)
    assert plan.passes["factors"].sums == 2 * sums  # with the totals
    held = plan.passes["eigenvalues"]
    assert held.eigenvectors == sum(f.q_a.nbytes + f.q_s.nbytes for f in factors)
    assert held.sums == 2 * sum(len(f.q_a) * len(f.q_s) * f.q_a.element_size() for f in factors)
    # The plan knows no numbers of tokens: for it no expert shares a factor.
    shared = {x.data_ptr(): x.nbytes for f in factors for x in (f.q_a, f.q_s)}
    assert sum(shared.values()) < held.eigenvectors


def test_the_factors_of_seeds_take_at_most_what_the_plan_says(small_fit):
    """A seed has columns for the experts that it goes to, by its tokens there."""
    model, config, factors, _ = small_fit
    joined, _ = precondition_seeds(model, factors, SEEDS, SAMPLE[:1], config, QUIET)
    plan = plan_seeds(model, config, [len(seed) for seed in SEEDS], len(SAMPLE[0]), None)
    assert len(plan.partitions) == 1
    taken = sum(x.nbytes for f in joined for x in (f.u, f.v))
    assert plan.largest.factors / 4 < taken <= plan.largest.factors
    assert plan.largest.inverses == sum(
        (len(f.q_a) ** 2 + len(f.q_s) ** 2 + len(f.q_a) * len(f.q_s)) * 4 for f in factors
    )


def test_what_the_graph_keeps_of_a_token_is_counted_to_the_byte():
    model, _ = mixture("qwen3_moe", torch.float32)
    length = model.window
    (batch,) = make_batches(make_examples(1, 1, length, length), 4096)
    assert TokenMemory.count(model).graph[0] == -(-kept_bytes(model, batch) // length)


def test_partitions_of_whole_matrices_change_no_bit(small_fit, monkeypatch):
    model, config, whole, report = small_fit
    plans = plans_in_partitions(model, SAMPLE, config, monkeypatch)
    plan = next(plan for plan in plans if len(plan.partitions) > 2)
    for partition in plan.partitions:  # those with few tokens take the sums of all
        matrices = [model.layers[index].expert.matrix for index in partition]
        assert all(matrices.count(matrix) == 4 for matrix in matrices)
    require_the_same_fit(model, SAMPLE, config, plan, whole, report)
