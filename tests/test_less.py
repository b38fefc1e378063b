"""LESS: cosines against plain autograd in float64 with the optimizer's own state, and choices made from them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import gdig
from gdig import SketchStore
from gdig import api as pipeline
from gdig.cli.main import main
from gdig.config.budget import Limit
from gdig.config.config import Config
from gdig.errors import ConfigError, ModelError
from gdig.model.layers import as_layer
from gdig.model.load import load_model
from gdig.passes import row_pass as stage_rows
from gdig.passes.gradient_projections import GradientProjections, Sides
from gdig.passes.training_checkpoints import learning_rate
from gdig.run.session import Workspace
from gdig.selection.best import highest
from gdig.selection.checkpoint_weights import weights
from gdig.selection.choose import choose
from gdig.selection.judge import Judge
from gdig.selection.method import FinishedSweep
from gdig.selection.result import Selection
from gdig.selection.survey import survey
from tests.support.project_fixtures import as_it_is, llama_module, read_jsonl, save_model, stages, stored, write_jsonl
from tests.support.training import moments_of, train

pytestmark = pytest.mark.slow

OPTIONS = {"method": "less", "inversion": "identity"}


@pytest.fixture(scope="module")
def runs(project, tiny_tokenizer, tmp_path_factory) -> dict[str, Path]:
    """Checkpoints of a full and of an adapter's training run, with the state that the optimizers truly held."""
    peft = pytest.importorskip("peft")
    folder, vocab = tmp_path_factory.mktemp("less"), len(tiny_tokenizer)
    module = llama_module(vocab)
    trainer = train(module, folder / "full", vocab)
    truth = {"full": moments_of(trainer.optimizer, module)}
    base = llama_module(vocab)
    base.name_or_path = base.config._name_or_path = str(project.model)
    adapter = peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules=["up_proj"], init_lora_weights=False))
    trainer = train(adapter, folder / "adapter", vocab)
    truth["adapter"] = moments_of(trainer.optimizer, adapter)
    return {"folder": folder, "truth": truth}


def checkpoints(runs, kind: str = "full") -> tuple[str, str]:
    return tuple(str(runs["folder"] / kind / f"checkpoint-{step}") for step in (2, 4))


def of_checkpoints(run_path: Path) -> list[dict[str, np.ndarray]]:
    """The tensors of each checkpoint, shards joined, in the order asked for."""
    tensors = []
    for key in stages(run_path)["sweep"]["checkpoint_order"]:
        shards = [load_file(file) for file in sorted((run_path / "checkpoints" / key / "shards").glob("*.safetensors"))]
        tensors.append({name: np.concatenate([shard[name] for shard in shards]) for name in shards[0]})
    return tensors


def oracle(project, runs, kind: str) -> np.ndarray:
    """Cosine [n, S] at the last checkpoint: plain autograd, one example at a time, all in float64."""
    path = checkpoints(runs, kind)[1]
    config = Config.build(project.options("unused"))
    loaded = load_model(config.with_options(model=path))
    module = loaded.module.double()
    work = Workspace(config, pipeline.Progress(quiet=True))
    seeds, pool = work.seed_examples, [work.encoder.encode(work.candidates, [row])[0] for row in range(60)]
    parameters = [layer.module.weight.requires_grad_(True) for layer in loaded.layers]
    names = {id(p): name for name, p in module.named_parameters()}
    truth = {name.removeprefix("base_model.model."): state for name, state in runs["truth"][kind].items()}
    states = [truth[names[id(p)]] for p in parameters]

    def gradient(example) -> list[torch.Tensor]:
        ids = torch.tensor(example.input_ids[None].astype(np.int64))
        labels = torch.tensor(example.labels[None].astype(np.int64))
        loss = module(input_ids=ids, labels=labels).loss
        return list(torch.autograd.grad(loss, parameters))

    def direction(g: torch.Tensor, state: dict) -> torch.Tensor:
        t = int(state["step"]) + 1
        m = (0.9 * state["exp_avg"].double() + 0.1 * g) / (1 - 0.9**t)
        v = (0.999 * state["exp_avg_sq"].double() + 0.001 * g**2) / (1 - 0.999**t)
        return m / (v.sqrt() + 1e-8)

    val = [torch.cat([g.flatten() for g in gradient(seed)]) for seed in seeds]
    train_ = [
        torch.cat([direction(g, s).flatten() for g, s in zip(gradient(row), states, strict=True)]) for row in pool
    ]
    return np.array([[float(torch.nn.functional.cosine_similarity(a, b, dim=0)) for b in val] for a in train_])


@pytest.fixture(scope="module")
def less_run(project, runs, tmp_path_factory) -> tuple[Path, Selection]:
    path = tmp_path_factory.mktemp("less") / "run"
    return path, gdig.select(**project.options(path, checkpoints=checkpoints(runs), **OPTIONS))


@pytest.mark.parametrize("kind", ["full", "adapter"])
def test_cosines_are_those_of_plain_autograd(project, runs, tmp_path, kind):
    """Float32: a gradient's entries have errors of some 1e-6 of its largest; where the moments are small Adam's
    direction has entries near +-1 whatever the size of g, so an error of 1e-6 in g / sqrt(v) is one in the cosine."""
    gdig.sweep(**project.options(tmp_path / "run", checkpoints=checkpoints(runs, kind)[1:], **OPTIONS))
    (tensors,) = of_checkpoints(tmp_path / "run")
    exact = oracle(project, runs, kind)
    assert np.abs(exact).max() > 0.05  # not a comparison of noise
    np.testing.assert_allclose(tensors["cosine"], exact, atol=2e-5)
    assert tensors["valid"].all()
    (key,) = stages(tmp_path / "run")["sweep"]["checkpoint_order"]
    facts = stages(tmp_path / "run")["sweep"]["checkpoints"][key]
    assert facts["layers"] == {"full": 6, "adapter": 4}[kind]
    assert facts["step"] == 4


def test_sketches_are_of_unit_length_but_for_the_projection(less_run):
    """Their mean square length over the rows is near 1 in units of the scale, and the seeds' too."""
    path, _ = less_run
    scale = 2.0 ** round(np.log2(np.sqrt(32)))
    for key, tensors in zip(stages(path)["sweep"]["checkpoint_order"], of_checkpoints(path), strict=True):
        seeds = load_file(path / "checkpoints" / key / "seeds.safetensors")["sketch"]
        for x in (tensors["sketch"].astype(np.float64), seeds):
            assert 0.4 < (np.linalg.norm(x, axis=1) / scale).mean() < 1.6


def test_rows_with_the_highest_weighted_cosine_are_chosen(project, runs, less_run):
    path, selection = less_run
    # Trainer's log: the schedule falls in a straight line from 1e-3 to 0 in 4 steps; all of it is one epoch.
    rates = [learning_rate(Path(path), np.nan) for path in checkpoints(runs)]
    np.testing.assert_allclose(rates, [np.mean([1e-3, 7.5e-4]), np.mean([1e-3, 7.5e-4, 5e-4, 2.5e-4])], rtol=1e-6)
    first, second = (tensors["cosine"].astype(np.float64) for tensors in of_checkpoints(path))
    score = ((rates[0] * first + rates[1] * second) / sum(rates)).mean(1)
    expected = np.lexsort((np.arange(60), -score))[:12]
    assert selection.rows.tolist() == expected.tolist()
    written = [row["gdig"]["cosine"] for row in read_jsonl(selection.output)]
    np.testing.assert_allclose(written, score[expected], rtol=1e-12)


def test_other_weights_tasks_and_tokens_cost_no_pass(project, runs, less_run, tmp_path, monkeypatch):
    path = tmp_path / "run"
    shutil.copytree(less_run[0], path)
    rows = [{**row, "task": "ab"[i % 2]} for i, row in enumerate(read_jsonl(project.seeds))]
    first, second = (tensors["cosine"].astype(np.float64) for tensors in of_checkpoints(path))
    monkeypatch.setattr(stage_rows.RowPass, "shard", None)
    options = project.options(path, checkpoints=checkpoints(runs), **OPTIONS)
    chosen = gdig.select(**{**options, "checkpoint_weights": (3, 1)})
    score = ((3 * first + second) / 4).mean(1)
    assert chosen.rows.tolist() == np.lexsort((np.arange(60), -score))[:12].tolist()
    tokens = stored(path)["tokens"]
    order = np.lexsort((np.arange(60), -score))
    fits = int((np.cumsum(tokens[order]) <= 200).sum())
    chosen = gdig.select(**{**options, "checkpoint_weights": (3, 1), "budget": "200t"})
    assert chosen.rows.tolist() == order[:fits].tolist() and 0 < fits < 60
    # Tasks: other seeds' rows are another input, so a run of its own.
    seeds = write_jsonl(tmp_path / "seeds.jsonl", rows)
    monkeypatch.undo()
    options = {**options, "seeds": (str(seeds),), "run_path": str(tmp_path / "tasks"), "task_field": "task"}
    chosen = gdig.select(**options)
    first, second = (tensors["cosine"].astype(np.float64) for tensors in of_checkpoints(tmp_path / "tasks"))
    rates = [learning_rate(Path(path), np.nan) for path in checkpoints(runs)]
    cosine = (rates[0] * first + rates[1] * second) / sum(rates)
    tasks = np.stack([cosine[:, 0::2].mean(1), cosine[:, 1::2].mean(1)], axis=1)
    assert chosen.rows.tolist() == np.lexsort((np.arange(60), -tasks.max(1)))[:12].tolist()
    assert [column["for_task"] for column in chosen.columns] == ["ab"[i] for i in tasks[chosen.rows].argmax(1)]


def test_a_checkpoint_more_or_less_leaves_the_rest_of_the_run(project, runs, less_run, tmp_path):
    path = tmp_path / "run"
    gdig.select(**project.options(path, **OPTIONS | {"method": "top"}))
    before = files(path)
    first, second = checkpoints(runs)
    gdig.sweep(**project.options(path, checkpoints=(first,), **OPTIONS))
    middle = files(path)
    assert {name: middle[name] for name in before} == before
    gdig.select(**project.options(path, checkpoints=(first, second), **OPTIONS))
    after = files(path)
    assert {name: after[name] for name in middle if name != "selection.jsonl"} == {
        name: middle[name] for name in middle if name != "selection.jsonl"
    }
    # The same bytes as all at once.
    assert after == files(less_run[0])
    # In the other order, or one alone: nothing is computed again; and without the option the run's own are used.
    gdig.select(**project.options(path, checkpoints=(second, first), **OPTIONS))
    assert len(stages(path)["sweep"]["checkpoint_order"]) == 2
    backwards = gdig.select(**project.options(path, **OPTIONS)).rows
    assert backwards.tolist() == less_run[1].rows.tolist()
    assert files(path) == after
    # Another width of the features stands beside it; other sweep options start the sweep over, and these with it.
    gdig.sweep(**project.options(path, checkpoints=(first,), feature_side=8, **OPTIONS))
    assert len(list((path / "checkpoints").iterdir())) == 3
    gdig.sweep(**project.options(path, projection_dim=16, overwrite=True, **OPTIONS))
    assert not (path / "checkpoints").exists()


def files(path: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and file.name not in ("run.json", ".lock")
    }


def test_an_interrupted_checkpoint_goes_on_to_the_same_bytes(project, runs, less_run, tmp_path, monkeypatch):
    whole, calls = stage_rows.RowPass.shard, []

    def shard(self, *args, **kwargs):
        calls.append(type(self.features).__name__)
        if len(calls) == 4 + 4 + 3:
            raise KeyboardInterrupt
        return whole(self, *args, **kwargs)

    monkeypatch.setattr(stage_rows.RowPass, "shard", shard)
    options = project.options(tmp_path / "run", checkpoints=checkpoints(runs), **OPTIONS)
    with pytest.raises(KeyboardInterrupt):
        gdig.select(**options)
    made = len(calls)
    gdig.select(**options)
    assert calls[made:] == ["AdamFeatures"] * 2
    assert files(tmp_path / "run") == files(less_run[0])
    report = "\n".join(gdig.verify(tmp_path / "run").lines())
    for key in stages(tmp_path / "run")["sweep"]["checkpoint_order"]:
        assert f"checkpoints/{key}/shards: 5 sound, " in report and f"checkpoints/{key}: 1 sound, " in report
    damaged = next((tmp_path / "run" / "checkpoints").glob("*/shards/00000001.safetensors"))
    data = bytearray(damaged.read_bytes())
    data[-1] ^= 1
    damaged.write_bytes(data)
    name = damaged.relative_to(tmp_path / "run").as_posix()
    states = {report.file: report.state for report in gdig.verify(tmp_path / "run").files}
    assert [file for file, state in states.items() if state != "sound"] == [name] and states[name] == "damaged"
    damaged.unlink()
    assert {r.file: r.state for r in gdig.verify(tmp_path / "run").files} == {**states, name: "missing"}
    # What is lost is made again: this shard, and another with the sketches of the seeds beside it.
    made, first = len(calls), stages(tmp_path / "run")["sweep"]["checkpoint_order"][0]
    (tmp_path / "run" / "checkpoints" / first / "seeds.safetensors").unlink()
    (tmp_path / "run" / "checkpoints" / first / "shards" / "00000003.safetensors").unlink()
    gdig.select(**options)
    assert set(calls[made:]) == {"AdamFeatures"}
    assert files(tmp_path / "run") == files(less_run[0])


def test_parts_swept_on_two_machines_are_merged(project, runs, less_run, tmp_path):
    fitted = tmp_path / "fitted"
    inputs = {"checkpoints": checkpoints(runs), **OPTIONS, "quiet": False}
    gdig.fit(**project.options(fitted, **inputs))
    copies = []
    for share in ("1/2", "2/2"):
        copies.append(shutil.copytree(fitted, tmp_path / share.replace("/", "-")))
        gdig.sweep(**project.options(copies[-1], **inputs, sweep_part=share))
    whole = tmp_path / "whole"
    lines = gdig.merge(copies, whole)
    assert [line.partition(": ")[2] for line in lines][1:] == [
        f"checkpoint {path}: 4 shards copied, 4 of 4 are there" for path in checkpoints(runs)
    ]
    of_choice = {"selection.jsonl", "clusters"}
    chosen = gdig.select(**project.options(whole, **inputs)).rows
    assert chosen.tolist() == less_run[1].rows.tolist()
    assert {n: b for n, b in files(whole).items() if n.split("/")[0] not in of_choice} == {
        n: b for n, b in files(less_run[0]).items() if n.split("/")[0] not in of_choice
    }


def test_a_checkpoint_that_is_gone_is_still_used_once_swept(project, runs, less_run, tmp_path):
    path = tmp_path / "run"
    copies = [shutil.copytree(checkpoint, tmp_path / Path(checkpoint).name) for checkpoint in checkpoints(runs)]
    options = project.options(path, checkpoints=tuple(map(str, copies)), **OPTIONS)
    before = gdig.select(**options).rows
    shutil.rmtree(copies[0])
    assert gdig.select(**options).rows.tolist() == before.tolist()
    with pytest.raises(
        ConfigError, match=r"checkpoints=.*: expected a directory with a model and its optimizer's state"
    ):
        gdig.sweep(**{**options, "checkpoints": (str(tmp_path / "never"),)})


def test_a_checkpoint_without_a_config_is_of_the_models_architecture(project, runs, less_run, tmp_path):
    """accelerate saves weights and states alone."""
    bare = Path(shutil.copytree(checkpoints(runs)[1], tmp_path / "bare"))
    (bare / "config.json").unlink()
    (bare / "optimizer.pt").rename(bare / "optimizer.bin")
    (bare / "trainer_state.json").unlink()
    path = tmp_path / "run"
    gdig.sweep(**project.options(path, checkpoints=(str(bare),), **OPTIONS))
    np.testing.assert_array_equal(of_checkpoints(path)[0]["cosine"], of_checkpoints(less_run[0])[1]["cosine"])
    # Its learning rate is the optimizer's last one, which the schedule has brought to 0.
    with pytest.raises(
        ConfigError,
        match="checkpoint_weights: expected numbers >= 0, not all of them 0, got the checkpoints' learning rates 0",
    ):
        gdig.select(**project.options(path, **OPTIONS))
    gdig.select(**project.options(path, checkpoint_weights=(1,), **OPTIONS))


def test_errors_say_what_is_wrong(project, runs, less_run, tmp_path):
    with pytest.raises(ConfigError, match="method='less': expected checkpoints of a training run"):
        gdig.select(**project.options(tmp_path / "none", **OPTIONS))
    copy = shutil.copytree(less_run[0], tmp_path / "copy")
    with pytest.raises(ConfigError, match="checkpoint_weights: expected 2, one a checkpoint, got 3"):
        gdig.select(**project.options(copy, checkpoint_weights=(1, 1, 1), **OPTIONS))
    with pytest.raises(ConfigError, match="expected numbers >= 0, not all of them 0"):
        weights([0.0, 0.0], [])
    run = tmp_path / "run"
    other = save_model(tmp_path / "other", llama_module(30))
    shutil.copy(Path(checkpoints(runs)[0]) / "optimizer.pt", other)
    with pytest.raises(ModelError, match="has a vocabulary of 30 tokens, the rows are encoded for one of"):
        gdig.sweep(**project.options(run, checkpoints=(str(other),), **OPTIONS))
    stateless = Path(shutil.copytree(checkpoints(runs)[0], tmp_path / "stateless"))
    (stateless / "optimizer.pt").unlink()
    with pytest.raises(ModelError, match=r"stateless: expected the optimizer's state in optimizer\.safetensors"):
        gdig.sweep(**project.options(run, checkpoints=(str(stateless),), **OPTIONS))
    adapter = checkpoints(runs, "adapter")[0]
    options = project.options(tmp_path / "attention", checkpoints=(adapter,), filter_modules="o_proj", **OPTIONS)
    with pytest.raises(ModelError, match=r"none of the layers \(.*o_proj.*\) was trained; it holds moments of 4"):
        gdig.sweep(**options)


def test_a_checkpoint_that_cannot_be_swept_is_not_asked_for_again(project, runs, less_run, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(less_run[0], path)
    before = files(path)
    stateless = Path(shutil.copytree(checkpoints(runs)[0], tmp_path / "stateless"))
    (stateless / "optimizer.pt").unlink()
    for wrong in (stateless, tmp_path / "never"):
        with pytest.raises(gdig.GdigError):
            gdig.select(**project.options(path, checkpoints=(str(wrong),), **OPTIONS))
        assert files(path) == before
        assert main(["select", "--run-path", str(path), "--method", "less", "--budget", "12", "--no-report"]) == 0
        assert files(path) == before


def test_g2is_walks_along_the_directions_of_adam_at_the_last_checkpoint(project, runs, less_run, tmp_path):
    """The same walk as over a sweep that holds the checkpoint's sketches, of the pool and of the seeds."""
    path = tmp_path / "run"
    shutil.copytree(less_run[0], path)
    options = project.options(path, **OPTIONS | {"method": "g2is", "n_neighbours": 3})
    chosen = gdig.select(**options, checkpoints=checkpoints(runs))
    last = stages(path)["sweep"]["checkpoint_order"][1]
    swept = SketchStore.open(path / "checkpoints" / last / "shards")
    store = SketchStore.create(tmp_path / "as", swept.dim, dtype=swept.dtype, rows_per_shard=swept.rows_per_shard)
    for shard in swept.shards:
        tensors = {name: swept.tensor(shard, name) for name in swept.tensor_names}
        store.write_shard(shard, {**tensors, "influence": tensors.pop("cosine")})
    sketches = path / "checkpoints" / last / "seeds.safetensors"
    config = Config.build(project.options("unused", **OPTIONS | {"method": "g2is", "n_neighbours": 3}))
    expected = choose(
        FinishedSweep(store, survey(store, Judge("mean")), seed_sketches=as_it_is(sketches)), Limit("rows", 12), config
    )
    assert chosen.rows.tolist() == expected.rows.tolist()
    assert any("gradients of the pool are Adam's directions at" in line for line in chosen.summary)
    sweep = FinishedSweep(
        SketchStore.open(path / "sweep"),
        survey(store, Judge("mean")),
        seed_sketches=as_it_is(path / "features" / "seeds.safetensors"),
    )
    plain = choose(sweep, Limit("rows", 12), config)
    assert chosen.rows.tolist() != plain.rows.tolist()
    assert gdig.select(**options).rows.tolist() == plain.rows.tolist()  # not asked for, whatever the run has


def test_compare_shows_less_where_there_are_checkpoints(less_run, finished, tmp_path):
    comparison = pipeline.compare(Config.build(json.loads((less_run[0] / "run.json").read_text())["config"]))
    assert "less" in [summary.method for summary in comparison.summaries]
    other = shutil.copytree(finished, tmp_path / "run")  # compare writes the tokens of the rows into a run
    config = json.loads((other / "run.json").read_text())["config"]
    comparison = pipeline.compare(Config.build({**config, "run_path": str(other)}))
    assert "less" not in [summary.method for summary in comparison.summaries]


def test_two_sided_projections_keep_products_in_the_mean():
    """The estimate of <G, H> is unbiased: over 400 projections the mean is within 5 standard errors."""
    torch.manual_seed(0)
    g, h = (torch.randn(3, 1, dtype=torch.float64) @ torch.randn(1, 40, dtype=torch.float64) for _ in range(2))
    g, h = torch.randn(20, 3, dtype=torch.float64) @ g, torch.randn(20, 3, dtype=torch.float64) @ (g + h)
    layer = as_layer("layer", torch.nn.Linear(40, 20, bias=False))
    estimates = []
    for random_seed in range(400):
        sides = Sides.make(layer, 8, random_seed, torch.float64)
        a, b = sides.apply(torch.stack([g, h]))
        estimates.append(float(a @ b))
    exact = float((g * h).sum())
    assert np.std(estimates) > 0.05 * abs(exact)
    assert abs(np.mean(estimates) - exact) < 5 * np.std(estimates) / 20
    whole = Sides.make(layer, 40, 0, torch.float64)
    assert whole.p is None and whole.q is None
    assert torch.equal(whole.apply(g[None])[0], g.flatten())


def test_a_sketch_is_what_the_sweep_makes_of_the_same_gradient(project, runs):
    """R vec(P G Q^T) in float64, to a relative error of some 1e-7 in each step of the sums."""
    config = Config.build(project.options("unused", projection_dim=20))
    model = load_model(config.with_options(model=checkpoints(runs)[1]))
    projections = GradientProjections(model, config)
    torch.manual_seed(0)
    for index, layer in enumerate(model.layers):
        g = torch.randn(3, layer.out_features, layer.width, dtype=torch.float64).float()
        sketch, out = projections.sketches[index], projections.sketch(index, g)
        blocks = (sketch.p.double() @ g.double() @ sketch.q.double().T).flatten(1) * sketch.weights.double()
        expected = torch.zeros(3, 20, dtype=torch.float64).index_add_(1, sketch.columns, blocks)
        np.testing.assert_allclose(out, expected, atol=float(1e-6 * blocks.abs().sum(1).max()))


def test_the_best_rows_are_in_order_with_ties_by_row():
    score = np.array([0.5, 1.0, -np.inf, 0.5, 0.5, 0.25])
    assert [highest(score, n).tolist() for n in range(6)] == [[], [1], [1, 0], [1, 0, 3], [1, 0, 3, 4], [1, 0, 3, 4, 5]]


@pytest.mark.parametrize("method", ["less", "g2is"])
def test_no_row_that_the_options_bar_is_chosen(project, runs, less_run, tmp_path, method):
    """An excluded row is valid in the shards of a checkpoint, which know nothing of the options."""
    path = tmp_path / "run"
    shutil.copytree(less_run[0], path)
    barred = less_run[1].rows[:3].tolist()
    lines = Path(project.pool).read_text(encoding="utf-8").splitlines(keepends=True)
    (evaluation := tmp_path / "eval.jsonl").write_text("".join(lines[row] for row in barred), encoding="utf-8")
    options = project.options(path, **OPTIONS | {"method": method, "budget": "100%", "n_neighbours": 3})
    selection = gdig.select(**options, checkpoints=checkpoints(runs), exclude=(str(evaluation),))
    assert len(selection.rows) > 12 and not set(selection.rows.tolist()) & set(barred)
    if method == "g2is":
        assert any("gradients of the pool are Adam's directions at" in line for line in selection.summary)
