"""The plan of a run: what it says beforehand, against what the run does."""

from __future__ import annotations

import itertools
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors import safe_open

import gdig
from gdig.cli.main import main
from gdig.config.config import Config
from gdig.errors import ConfigError, CorpusError, ModelError, RunError
from gdig.influence.memory_plan import beyond_share
from gdig.model.token_memory import TokenMemory, gradient_checkpointing_bytes
from gdig.planning import memory as planned_memory
from gdig.planning import run_plan
from gdig.planning.planner import Planner
from gdig.planning.report import RunPlan
from gdig.planning.run_plan import make_plan
from gdig.progress import Progress
from gdig.run.session import Workspace
from tests.support.project_fixtures import flags, stages, write_jsonl

GIB = 1 << 30


def plan_of(project, run_path: Path, **changes: Any) -> RunPlan:
    """A plan by a clock that gives each look at it a second."""
    ticks = itertools.count()
    options = project.options(run_path, **changes)
    return make_plan(Workspace(Config.build(options), Progress(quiet=True)), clock=lambda: float(next(ticks)))


@pytest.fixture(scope="module")
def planned(project, tmp_path_factory) -> RunPlan:
    return plan_of(project, tmp_path_factory.mktemp("planned") / "run")


def test_a_plan_says_what_the_run_does(planned, finished):
    record = stages(finished)
    counts, fit, sweep = record["sweep"]["counts"], record["fit"], record["sweep"]
    assert (planned.pool.rows, planned.pool.tokens, planned.pool.error) == (counts["rows"], counts["tokens"], 0.0)
    assert planned.pool.cut * counts["rows"] == counts["cut"]
    assert list(planned.layers) == fit["layers"] and planned.coverage == fit["coverage"]
    assert planned.token_batch_size == fit["token_batch_size"]
    assert list(planned.partitions) == fit["partitions"]
    assert planned.sweep_batch_size == sweep["token_batch_size"]
    assert planned.seeds == len(fit["seeds"]["losses"])
    by_name = {stage.name: stage for stage in planned.stages}
    assert by_name["fit: factors"].tokens == 1400 < counts["tokens"]
    assert by_name["sweep"].tokens == counts["tokens"]
    assert all(stage.seconds > 0 and stage.done == 0 for stage in planned.stages)


def test_the_stages_are_the_bars_of_the_run(planned, project, tmp_path):
    seen = []

    class Names(Progress):
        def stage(self, name: str, *args: Any, **kwargs: Any) -> Any:
            seen.append(name)
            return super().stage(name, *args, **kwargs)

    gdig.select(**project.options(tmp_path / "run"), progress=Names(quiet=True))
    names = [stage.name for stage in planned.stages if stage.name not in ("start", "select")]
    merged = list(dict.fromkeys("cluster" if name.startswith("cluster: ") else name for name in seen))
    assert names == merged


def test_the_files_of_a_run_take_the_disk_that_the_plan_says(planned, finished):
    def taken(*folders: str) -> tuple[int, int]:
        files = [file for folder in folders for file in (finished / folder).rglob("*") if file.is_file()]
        return sum(file.stat().st_size for file in files), len(files)

    for name, folders in (("curvature", ["curvature"]), ("sweep", ["sweep", "features"]), ("clusters", ["clusters"])):
        size, files = taken(*folders)
        assert planned.disk[name] - 4096 * files <= size <= planned.disk[name], name
    # The columns of the seeds are those of a few seeds in a trial: 128 at most, and no more than the layer has.
    size, files = taken("seeds")
    most = sum(16 + 24 for _ in planned.layers) * 16 * planned.seeds * 4 + 8192 * files
    assert 0 < planned.disk["seeds"] <= most and size <= most


def test_nothing_is_written_and_dry_run_says_the_same(project, tmp_path, capsys):
    options = project.options(tmp_path / "run", quiet=False)
    assert main(["plan", *flags(options)]) == 0
    plan = capsys.readouterr().out
    assert main(["select", "--dry-run", *flags(options)]) == 0
    dry_run = capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []

    def without_numbers(text: str) -> list[str]:
        without_durations = re.sub(r"\d+\.\d s|\d+:\d\d", "", text)  # "0.8 s" may be "0:01" in the other
        lines = [line for line in without_durations.splitlines() if not line.startswith("cheaper: ")]
        return ["".join(c for c in line if c.isalpha() or c == ":") for line in lines if "GB" not in line]

    assert without_numbers(plan) == without_numbers(dry_run)
    for beginning in (
        "model: ",
        "pool: 60 rows, ",
        "seeds: 5 rows",
        "time: ",
        "memory: ",
        "batches: 512 tokens",
        "disk: ",
    ):
        assert f"\n{beginning}" in f"\n{plan}"


def test_json(project, tmp_path, capsys):
    assert main(["plan", "--json", *flags(project.options(tmp_path / "run"))]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["pool"]["rows"] == 60 and plan["partitions"] == [6] and len(plan["layers"]) == 6
    assert plan["seconds"] == pytest.approx(sum(stage["seconds"] for stage in plan["stages"]))
    sizes = {name: sum(held.values()) for name, held in plan["memory"].items()}
    assert plan["peak_memory"] == plan["other_memory"] + max(sizes.values())
    assert set(plan["memory"]) == {"factors", "eigenvectors", "eigenvalues", "seeds", "sweep"}
    assert 0.1 <= plan["spread"] < 2


def test_a_plan_reads_as_text(planned):
    assert str(planned) == "\n".join(planned.lines())
    assert f"seeds: 5 rows, {planned.seed_tokens} tokens" in str(planned)
    assert "note: only 5 seeds; fewer than 16 order a pool little better than chance; use 64" in str(planned)


def test_a_finished_run_has_nothing_left_to_do(project, finished):
    plan = plan_of(project, finished)
    unfinished = [stage.name for stage in plan.stages if stage.left_s > 0]
    assert unfinished == ["start", "select"]
    assert "  sweep " in str(plan) and " done" in str(plan)
    before = {file: file.stat().st_mtime_ns for file in finished.rglob("*")}
    plan_of(project, finished, overwrite=True)
    assert before == {file: file.stat().st_mtime_ns for file in finished.rglob("*")}


def test_a_finished_run_needs_no_model(project, finished, monkeypatch):
    """Neither its memory nor its disk, and whatever is free."""
    monkeypatch.setattr(Workspace, "model", property(lambda work: pytest.fail("loaded")))
    monkeypatch.setattr(planned_memory, "free_memory", lambda device: 1000)
    monkeypatch.setattr(run_plan, "room", lambda model: 5000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
    plan = plan_of(project, finished)
    assert (plan.memory, plan.partitions, plan.rates, plan.cheaper) == ({}, (), None, ())
    assert (plan.token_batch_size, plan.sweep_batch_size, sum(plan.disk.values())) == (None, None, 0)
    assert plan.peak_memory == plan.other_memory > 0
    assert plan.layers == tuple(stages(finished)["fit"]["layers"])
    text = str(plan)
    assert f"model: {project.model}, not loaded: no stage to come needs it" in text
    assert "(Python and torch; no stage to come passes the model)" in text and "disk: 0 kB (nothing)" in text
    assert "batches" not in text and "partitions" not in text and "trial" not in text
    assert plan.as_json()["rates"] is None and json.dumps(plan.as_json())
    names = [stage.name for stage in plan.stages if stage.done == 1]
    assert names == [stage.name for stage in plan.stages if stage.name not in ("start", "select")]


def test_clusters_of_another_number_are_to_come(project, tmp_path, monkeypatch):
    """Without n_clusters, the budget says how many."""
    run = tmp_path / "run"
    gdig.select(**project.options(run, n_clusters=None))
    monkeypatch.setattr(Workspace, "model", property(lambda work: pytest.fail("loaded")))
    for budget in ("7", "10%"):
        plan = plan_of(project, run, n_clusters=None, budget=budget)
        assert [stage.name for stage in plan.stages if stage.left_s > 0] == ["start", "cluster", "select"]
        assert [name for name, size in plan.disk.items() if size] == ["clusters"]
    same = plan_of(project, run, n_clusters=None, budget="20%")
    assert [stage.name for stage in same.stages if stage.left_s > 0] == ["start", "select"]
    assert "cluster" not in [stage.name for stage in plan_of(project, run, n_clusters=None, method="top").stages]


@pytest.fixture(scope="module")
def fitted(project, tmp_path_factory) -> Path:
    """A run whose fit is done, and whose sweep is to come."""
    return gdig.fit(**project.options(tmp_path_factory.mktemp("fitted") / "run"))


def test_a_fitted_run_has_the_memory_and_disk_of_its_sweep(project, planned, fitted, monkeypatch):
    plan = plan_of(project, fitted)
    assert set(plan.memory) == {"sweep"} and plan.memory["sweep"] == planned.memory["sweep"]
    assert (plan.token_batch_size, plan.partitions, plan.cheaper) == (None, (), ())
    assert {name for name, size in plan.disk.items() if size} == {"sweep", "clusters"}
    assert plan.disk["sweep"] == planned.disk["sweep"]
    assert "batches: 512 tokens in the sweep" in str(plan) and "tokens in the fit" not in str(plan)
    left = [stage.name for stage in plan.stages if stage.left_s > 0]
    assert left == ["start", "sweep: scale", "sweep: seeds", "sweep", "cluster", "select"]
    assert [stage.name for stage in plan.stages] == [stage.name for stage in planned.stages]
    by_name = {stage.name: stage for stage in plan.stages}
    assert by_name["fit: factors"].tokens == stages(fitted)["fit"]["curvature"]["tokens"]
    monkeypatch.setattr(Planner, "fit", lambda *_: pytest.fail("the fit is done"))
    monkeypatch.setattr(Planner, "seed_partitions", lambda *_: pytest.fail("the seeds are done"))
    large = replace(plan.memory["sweep"], seed_factors=1 << 50)
    passes_of = run_plan.passes_of
    monkeypatch.setattr(run_plan, "passes_of", lambda *args: {**passes_of(*args), "checkpoint": large})
    plan_of(project, fitted)  # there are no checkpoints to come
    monkeypatch.setattr(run_plan, "passes_of", lambda *args: {**passes_of(*args), "sweep": large})
    with pytest.raises(ModelError, match="sweep: the pass needs at least"):
        plan_of(project, fitted)


def test_a_finished_run_whose_checkpoint_is_to_come(project, finished, tmp_path):
    folder = tmp_path / "checkpoint-1"
    folder.mkdir()
    plan = plan_of(project, finished, checkpoints=(str(folder),))
    assert set(plan.memory) == {"checkpoint seeds", "checkpoint"}
    left = [stage.name for stage in plan.stages if stage.left_s > 0]
    assert left == ["start", "checkpoint 1 of 1: seeds", "checkpoint 1 of 1", "select"]
    assert {name for name, size in plan.disk.items() if size} == {"sweep", "seeds of a checkpoint"}


def test_a_finished_run_whose_evaluation_set_is_to_come(project, run_copy, tmp_path, monkeypatch):
    """The set passes the model forward; words alone need no model, and neither does a set that is compared."""
    evaluation = write_jsonl(tmp_path / "eval.jsonl", project.rows[:6])
    options = {"exclude": (str(evaluation),), "source_field": "src_lang"}
    plan = plan_of(project, run_copy, **options)
    assert set(plan.memory) == {"sweep"} and plan.memory["sweep"].seed_factors == 0
    left = [stage.name for stage in plan.stages if stage.left_s > 0]
    assert left == ["start", "sources", "exclude", "select"]
    gdig.select(**project.options(run_copy, **options))
    monkeypatch.setattr(Workspace, "model", property(lambda work: pytest.fail("loaded")))
    plan = plan_of(project, run_copy, **options)
    assert [stage.name for stage in plan.stages if stage.left_s > 0] == ["start", "select"]
    words = plan_of(project, run_copy, **{**options, "exclude_similarity": 1.0})
    assert [stage.name for stage in words.stages if stage.left_s > 0] == ["start", "exclude", "select"]


def test_a_run_that_lacks_shards_has_a_part_of_the_sweep_left(project, run_copy):
    (run_copy / "sweep" / "00000001.safetensors").unlink()
    plan = plan_of(project, run_copy)
    shares = {stage.name: stage.done for stage in plan.stages}
    assert shares["fit: seeds"] == 1 and shares["sweep"] == pytest.approx(1 - 16 / 60)
    assert "73% done" in str(plan)


def test_other_options_than_those_of_the_run_are_refused(project, finished):
    with pytest.raises(RunError, match=r"fit_tokens: 1400 in the run, 1800 now"):
        plan_of(project, finished, fit_tokens=1800)
    again = plan_of(project, finished, fit_tokens=1800, overwrite=True)
    assert all(stage.done == 0 for stage in again.stages)


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"inversion": "identity"}, {"fit: seeds"}),
        ({"inversion": "kfac"}, {"fit: factors", "fit: eigenvectors", "fit: seeds"}),
        (
            {"inversion": "kfac", "kfac_approx": "reduce", "damping_mode": "factored_tikhonov"},
            {"fit: factors", "fit: eigenvectors", "fit: seeds"},
        ),
        (
            {"inversion": "cg", "cg_rows": 8, "cg_iterations": 1},
            {"fit: factors", "fit: eigenvectors", "fit: eigenvalues", "fit: seeds", "fit: conjugate gradients"},
        ),
        ({"gradients": False, "method": "rds"}, set()),
        ({"method": "facility"}, {"fit: factors", "fit: eigenvectors", "fit: eigenvalues", "fit: seeds"}),
    ],
    ids=["identity", "kfac", "tikhonov", "cg", "forward", "neighbours"],
)
def test_other_options_have_other_stages(project, tmp_path, changes, names):
    plan = plan_of(project, tmp_path / "run", **changes)
    assert {stage.name for stage in plan.stages if stage.name.startswith("fit: ")} == names
    assert all(stage.seconds > 0 for stage in plan.stages)
    assert {f"fit: {name}" for name in plan.memory} - {"fit: sweep"} == names - {"fit: conjugate gradients"}
    assert ("cluster" in [stage.name for stage in plan.stages]) == (changes.get("method") is None)
    assert plan.as_json()["disk"]["curvature"] == 0 or names - {"fit: seeds"}


def test_twice_the_rows_take_twice_the_sweep(planned, project, tmp_path):
    pool = write_jsonl(tmp_path / "pool.jsonl", project.rows * 2)
    twice = plan_of(project, tmp_path / "run", candidates=(str(pool),))
    tokens = [{stage.name: stage.tokens for stage in plan.stages} for plan in (planned, twice)]
    assert tokens[1]["sweep"] == 2 * tokens[0]["sweep"]
    assert tokens[1]["fit: factors"] == tokens[0]["fit: factors"]


def test_a_sample_tells_the_pool_with_its_error(project, tmp_path, monkeypatch):
    pool = write_jsonl(tmp_path / "pool.jsonl", project.rows * 8)
    monkeypatch.setattr("gdig.planning.pool_size.SAMPLE_ROWS", 60)
    options = project.options(tmp_path / "run", candidates=(str(pool),))
    with Workspace(Config.build(options), Progress(quiet=True)) as work:
        from gdig.planning.pool_size import measure_pool

        sample, whole = (measure_pool(work, lambda: 0.0, size) for size in (60, 480))
    assert (sample.rows, sample.sampled, whole.error) == (480, 60, 0.0)
    # Three standard errors miss once in 370 draws; the draw is fixed.
    assert sample.error > 0 and abs(sample.tokens - whole.tokens) <= 3 * sample.error


def test_rows_that_cannot_be_used_are_told(project, tmp_path):
    rows = [*project.rows[:40], {"nothing": 1}]
    pool = write_jsonl(tmp_path / "pool.jsonl", rows)
    with pytest.raises(CorpusError, match=r"row 40.* of 41 rows sampled, 1 cannot be used.*bad_rows=skip"):
        plan_of(project, tmp_path / "run", candidates=(str(pool),))
    plan = plan_of(project, tmp_path / "run", candidates=(str(pool),), bad_rows="skip")
    assert plan.pool.not_usable == 1 / 41
    assert any(note.startswith("2.4% of the sampled rows cannot be used; the first: ") for note in plan.notes)


def test_what_cannot_fit_is_refused(project, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(planned_memory, "free_memory", lambda device: 1000)
        patch.setattr("gdig.model.load.load_model", lambda *_: pytest.fail("loaded"))
        with pytest.raises(ModelError, match=r"weights in float32 need .* GiB on cpu, but .* GiB are free; .*4bit"):
            plan_of(project, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(run_plan, "room", lambda model: 5000)
        with pytest.raises(ModelError, match=r"the fit needs .* GiB for one example of \d+ tokens"):
            plan_of(project, tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10_000))
        with pytest.raises(RunError, match=r"the run needs .* GiB of disk, .* GiB are free; take another run_path"):
            plan_of(project, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("sharded", [False, True])
def test_weights_count_once(sharded, project, tmp_path, monkeypatch):
    """Mistral's directories hold the weights twice: in the files of transformers, and in consolidated.safetensors."""
    model = tmp_path / "model"
    shutil.copytree(project.model, model)
    weights = model / "model.safetensors"
    shutil.copy(weights, model / "consolidated.safetensors")
    with safe_open(weights, "pt") as tensors:
        numbers = sum(tensors.get_tensor(name).numel() for name in tensors.keys())  # noqa: SIM118
        index = {"weight_map": {name: "model-00001-of-00001.safetensors" for name in tensors.keys()}}  # noqa: SIM118
    if sharded:
        weights.rename(model / "model-00001-of-00001.safetensors")
        (model / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    config = Config.build(project.options(tmp_path / "run", model=str(model)))
    monkeypatch.setattr(planned_memory, "free_memory", lambda device: numbers * 4)
    planned_memory.require_weights(config)
    monkeypatch.setattr(planned_memory, "free_memory", lambda device: numbers * 4 - 1)
    with pytest.raises(ModelError, match=rf"{numbers:,} weights in float32"):
        planned_memory.require_weights(config)


def test_a_pass_beyond_the_memory_names_what_holds_it(planned):
    with pytest.raises(
        ModelError,
        match=r"^\w+: the pass needs .* beside the weights \(.* of head and .*\), but a plan takes 0.00879 GiB, "
        "60 % of the 0.0146 GiB that are free",
    ):
        planned_memory.require_memory(dict(planned.memory), 9 << 20)
    planned_memory.require_memory(dict(planned.memory), None)
    planned_memory.require_memory(dict(planned.memory), 9 * GIB)


def test_a_pass_that_needs_more_than_the_plan_takes_is_told(project, tmp_path, planned, monkeypatch):
    sweep = planned.memory["sweep"]
    needed = sweep.total - sweep.weights
    assert beyond_share("sweep", sweep, needed) is None and beyond_share("sweep", sweep, None) is None
    large, passes_of = replace(sweep, seed_factors=1 << 50), run_plan.passes_of
    monkeypatch.setattr(run_plan, "passes_of", lambda *args: passes_of(*args) | {"sweep": large})
    monkeypatch.setattr(run_plan, "require_memory", lambda *_: None)
    told = [note for note in plan_of(project, tmp_path / "run").notes if note.startswith("sweep: ")]
    assert len(told) == 1 and re.search(r"needs .* but a plan takes .* \(60 % of the free memory\)", told[0])


def test_with_gradient_checkpointing_all_passes_are_planned_with_it(project, tmp_path, monkeypatch):
    """As in the run, which counts what a graph keeps when checkpointing is on."""
    fit, sweep, graphs = Planner.fit, Planner.sweep, []

    def noted(self, model, *args):
        graphs.append(set(self.counted.graph) == {gradient_checkpointing_bytes(model)})
        return sweep(self, model, *args)

    monkeypatch.setattr(Planner, "fit", lambda *args: replace(fit(*args), gradient_checkpointing=True))
    monkeypatch.setattr(Planner, "sweep", noted)
    plan = plan_of(project, tmp_path / "run")
    assert any("gradient_checkpointing" in note for note in plan.notes)
    assert graphs and all(graphs)


def test_the_seeds_are_planned_with_the_graph_of_their_partition(project, tmp_path, monkeypatch):
    """A pass over upper layers keeps less than one over all, in the run and in the plan of fewer layers."""
    counts = []
    seeds = Planner.seeds

    def noted(self, model, rates, partitions):
        whole, upper = (seeds(self, model, rates, [part]) for part in (range(6), range(3, 6)))
        counts.append((self.counted, self._largest_pass(model), whole, upper))
        return seeds(self, model, rates, partitions)

    monkeypatch.setattr(Planner, "seeds", noted)
    plan_of(project, tmp_path / "run")
    ((counted, tokens, whole, upper),) = counts
    assert counted.a_token(3) < counted.a_token(0)
    assert whole.activations - upper.activations >= tokens * (counted.a_token(0) - counted.a_token(3))


def test_cheaper_layers_are_planned_with_their_own_graph(project, tmp_path, monkeypatch):
    graphs = []
    fit = Planner.fit

    def noted(self, model):
        graphs.append((len(model.layers), TokenMemory.count(model).graph, self.counted.graph))
        return fit(self, model)

    monkeypatch.setattr(Planner, "fit", noted)
    plan_of(project, tmp_path / "run", layers="mlp", token_batch_size=64)
    assert len(graphs) == 2 and graphs[1][0] < graphs[0][0]
    assert all(counted == planned for _, counted, planned in graphs)


def test_partitions_are_planned_and_said(project, tmp_path, planned, monkeypatch):
    """Less memory than all sums take, and more than those of a block."""
    needed = max(memory.total - memory.weights for memory in planned.memory.values())
    for limit in range(needed, needed // 2, -500):
        monkeypatch.setattr(run_plan, "room", lambda model, limit=limit: limit)
        monkeypatch.setattr(run_plan, "require_memory", lambda *_: None)
        plan = plan_of(project, tmp_path / "run")
        if len(plan.partitions) > 1:
            break
    assert sum(plan.partitions) == 6
    factors = next(stage for stage in plan.stages if stage.name == "fit: factors")
    assert factors.passes == len(plan.partitions)
    assert f"x {factors.passes} passes" in str(plan) and f"{factors.passes} partitions of the layers" in str(plan)


def test_checkpoints_cost_a_pass_each(project, tmp_path):
    folder = tmp_path / "checkpoint-1"
    folder.mkdir()
    plan = plan_of(project, tmp_path / "run", checkpoints=(str(folder), str(folder)))
    names = [stage.name for stage in plan.stages if stage.name.startswith("checkpoint")]
    numbered = [f"checkpoint {number} of 2" for number in (1, 2)]
    assert names == [name for title in numbered for name in (f"{title}: seeds", title)]
    assert "checkpoint" in plan.memory and "checkpoint seeds" in plan.memory


def test_cheaper_choices_are_named(project, tmp_path):
    """With a clock of one second a look, a pass of each row costs most; fewer layers and rows cost less."""
    seeds = write_jsonl(tmp_path / "seeds.jsonl", project.rows * 3)
    plan = plan_of(project, tmp_path / "run", seeds=(str(seeds),), token_batch_size=64)
    changes = dict(plan.cheaper)
    assert changes and all(seconds <= 0.8 * plan.seconds for seconds in changes.values())
    assert "64 seeds" in changes
    assert not any(
        "--layers" in change for change in changes
    )  # the default is a quarter already, of four blocks or more


def test_an_adapter_can_have_fewer_layers_than_its_default(project, tmp_path, monkeypatch):
    """Its default is all layers."""
    monkeypatch.setattr("gdig.planning.cheaper.is_adapter", lambda path: True)
    seeds = write_jsonl(tmp_path / "seeds.jsonl", project.rows * 3)
    plan = plan_of(project, tmp_path / "run", seeds=(str(seeds),), token_batch_size=64)
    assert "--layers upper:0.25" in dict(plan.cheaper)


def test_fewer_layers_and_seeds_may_score_in_other_ways(project, tmp_path, monkeypatch):
    """W of all layers fits in float16 alone; W of the upper layers fits as it is, and a few seeds need no W."""
    monkeypatch.setattr("gdig.influence.dense_plan.DENSE_BYTES", 1 << 20)
    seeds = write_jsonl(tmp_path / "seeds.jsonl", project.rows * 3)
    plan = plan_of(project, tmp_path / "run", seeds=(str(seeds),), layers="mlp", token_batch_size=64)
    measured = {way for cost in plan.rates.kinds.values() for way in cost.scores}
    assert measured == {"half"} and plan.dense_bytes == 6 * 180 * 24 * 16 * 2
    assert {change for change, _ in plan.cheaper} >= {"64 seeds", "--layers mlp:upper:0.25"}


def test_several_processes_are_refused(project, tmp_path, monkeypatch):
    monkeypatch.setattr("gdig.showing.is_launched", lambda: True)
    with pytest.raises(ConfigError, match="plan runs in one process"):
        gdig.plan(**project.options(tmp_path / "run"))


def test_sources_evaluation_sets_and_near_copies_are_stages(planned, project, tmp_path):
    evaluation = write_jsonl(tmp_path / "eval.jsonl", project.rows[:6])
    options = {"exclude": (str(evaluation),), "max_similarity": 0.9, "source_field": "src_lang"}
    plan = plan_of(project, tmp_path / "run", **options)
    by_name = {stage.name: stage for stage in plan.stages}
    assert set(by_name) - {stage.name for stage in planned.stages} == {"sources", "exclude"}
    assert by_name["exclude"].tokens == pytest.approx(6 * plan.pool.mean_tokens)
    assert all(stage.seconds > 0 for stage in plan.stages)
    assert plan.disk["sources"] == 4 * plan.pool.rows and plan.disk["evaluation set"] == 8 * plan.pool.rows
    words = plan_of(project, tmp_path / "run", exclude=(str(evaluation),), exclude_similarity=1.0)
    assert {stage.name: stage.tokens for stage in words.stages}["exclude"] == 0


def test_appended_files_leave_their_rows_to_sweep(project, finished, tmp_path):
    more = write_jsonl(tmp_path / "more.jsonl", project.rows[:36])
    plan = gdig.plan(**project.options(finished, candidates=(str(project.pool), str(more))))
    by_name = {stage.name: stage for stage in plan.stages}
    assert by_name["fit: factors"].done == by_name["fit: seeds"].done == 1
    assert [name for name, stage in by_name.items() if stage.left_s > 0] == ["start", "sweep", "drift", "select"]
    assert by_name["sweep"].done == pytest.approx(60 / 96), "the run's last shard, of 12 rows, gets more behind them"
    assert by_name["drift"].tokens == pytest.approx(96 * plan.pool.mean_tokens)
