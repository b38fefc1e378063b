"""gdig score-net over a run directory: what it leaves, going on after an interruption, errors, the command."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import gdig
from gdig.api import score_net
from gdig.cli.main import main
from gdig.config.config import Config, Training
from gdig.data.features import Features
from gdig.data.tokens import Example
from gdig.errors import ConfigError, GdigError, ModelError, RunError, StoreError
from gdig.model.load import load_trainable
from gdig.run.session import Workspace
from gdig.run.verify import verify
from gdig.store.sketches import SketchStore
from gdig.store.tensor_file import read_tensors
from gdig.training import job as over_run
from gdig.training.score_net import ScoreNet, difficulty
from tests.support.project_fixtures import N_ROWS, read_jsonl, stored, translation_rows, write_jsonl

pytestmark = pytest.mark.slow

QUICK = {"batch_size": 8, "learning_rate": 1e-3, "quiet": True}


@pytest.fixture(scope="module")
def trained(finished, tmp_path_factory) -> Path:
    """A finished run with one training of the quick options. Copy what you change."""
    run_path = Path(shutil.copytree(finished, tmp_path_factory.mktemp("trained") / "run"))
    score_net(run_path=run_path, **QUICK)
    return run_path


@pytest.fixture(scope="module")
def trained_twice(finished, tmp_path_factory) -> Path:
    """A finished run with a training of two epochs."""
    run_path = Path(shutil.copytree(finished, tmp_path_factory.mktemp("trained") / "run"))
    score_net(run_path=run_path, epochs=2, **QUICK)
    return run_path


def difficulties(run_path: Path) -> np.ndarray:
    return np.load(run_path / "features" / "difficulty.npy", allow_pickle=False)


def net_of(run_path: Path, dim: int) -> ScoreNet:
    net = ScoreNet(dim)
    net.load(run_path / "features" / "score_net.safetensors")
    return net


def test_what_it_leaves(finished, trained_twice):
    before, now = (
        {path.relative_to(run): path for path in run.rglob("*") if path.is_file() and path.name != "run.json"}
        for run in (finished, trained_twice)
    )
    learned = difficulties(trained_twice)
    assert learned.dtype == np.float32 and learned.shape == (N_ROWS,) and len(np.unique(learned)) == N_ROWS
    net = net_of(trained_twice, 32)
    assert (difficulty(net, stored(trained_twice)["sketch"]) == learned).all(), "made from the sketches, row by row"
    new = {str(path) for path in now.keys() - before.keys()}
    assert new == {"features/difficulty.npy", "features/score_net.safetensors"}, "no checkpoint is left"
    assert all(now[name].read_bytes() == path.read_bytes() for name, path in before.items())
    assert any(line.startswith("features: 3 sound") for line in verify(trained_twice).lines())


def test_the_batches_are_the_rows_as_the_sweep_saw_them(project, run_copy):
    with Workspace(Config.build(project.options(run_copy)), gdig.progress.Progress(quiet=True)) as work:
        rows = np.array([40, 3, 17, 59])
        pool = over_run._Pool(work, rows)
        lengths = [len(item) for item in pool.__getitems__([0, 1, 2, 3])]
        at = np.argsort(lengths)[[0, 3, 1]].tolist()  # a rectangle's own order is by falling length
        items = pool.__getitems__(at)
        expected = work.encoder.encode(work.candidates, rows[at])
        batch = over_run.Rectangle(work.limits)(items)
    assert len(pool) == 4 and [item.hash for item in items] == [example.hash for example in expected]
    assert lengths[at[0]] < lengths[at[1]], "of several lengths, or the order is not tested"
    for line, example in enumerate(expected):
        assert isinstance(example, Example)
        assert batch["input_ids"][line, : len(example)].tolist() == example.input_ids.tolist()
        assert batch["labels"][line, : len(example)].tolist() == example.labels.tolist()
        assert (batch["labels"][line, len(example) :] == -100).all()
    assert batch["input_ids"].dtype == batch["labels"].dtype == torch.int64


def test_self_filter_says_that_difficulties_are_there_and_takes_them_when_told(project, run_copy, trained):
    options = project.options(run_copy, method="self-filter")
    by_loss = gdig.select(**options)
    assert not any("difficulty" in line for line in by_loss.summary)
    shutil.copytree(trained / "features", run_copy / "features", dirs_exist_ok=True)
    file = run_copy / "features" / "difficulty.npy"
    again = gdig.select(**options)
    assert again.rows.tolist() == by_loss.rows.tolist(), "not before it is told"
    assert f"difficulty is the loss; --difficulty {file} selects by what gdig score-net learned" in again.summary
    selected = gdig.select(**options, difficulty=str(file))
    learned = np.load(file)
    assert selected.rows[0] == learned.argmax() and selected.rows.tolist() != by_loss.rows.tolist()
    assert not any("score-net" in line for line in selected.summary)
    assert read_jsonl(selected.output)[0]["gdig"]["difficulty"] == learned.max() - learned.min()


class Stopped(Exception):
    """Stands for a kill."""


def test_an_interrupted_training_goes_on(run_copy, trained_twice, monkeypatch):
    expected = difficulties(trained_twice)
    shown, steps = over_run.ShowSteps.on_step_end, []

    def step(self, args, state, control, **kwargs):
        steps.append(state.global_step)
        if len(steps) == 11:
            raise Stopped
        shown(self, args, state, control, **kwargs)

    monkeypatch.setattr(over_run.ShowSteps, "on_step_end", step)
    with pytest.raises(Stopped):
        score_net(run_path=run_copy, epochs=2, save_steps=3, **QUICK)
    assert not (run_copy / "features" / "difficulty.npy").exists()
    assert sorted(path.name for path in (run_copy / "score_net").glob("checkpoint-*")) == [
        "checkpoint-6",
        "checkpoint-9",
    ]
    learned = np.load(score_net(run_path=run_copy, epochs=2, save_steps=3, **QUICK))
    assert steps == [*range(1, 12), *range(10, 17)]
    assert (learned == expected).all()
    assert not (run_copy / "score_net").exists()
    score_net(run_path=run_copy, epochs=2, **QUICK)
    assert len(steps) == 18, "it is done, and nothing is trained"


@pytest.mark.slow
def test_a_training_is_saved_in_time_whatever_save_steps_says(run_copy, trained, monkeypatch):
    """Stopped inside an epoch, at a step that no save_steps names."""
    expected = difficulties(trained)
    monkeypatch.setenv("GDIG_RESUME_INTERVAL", "0")
    shown, steps = over_run.ShowSteps.on_step_end, []

    def step(self, args, state, control, **kwargs):
        steps.append(state.global_step)
        if len(steps) == 6:
            raise Stopped
        shown(self, args, state, control, **kwargs)

    monkeypatch.setattr(over_run.ShowSteps, "on_step_end", step)
    with pytest.raises(Stopped):
        score_net(run_path=run_copy, **QUICK)
    assert {path.name for path in (run_copy / "score_net").glob("checkpoint-*")} == {"checkpoint-4", "checkpoint-5"}
    learned = np.load(score_net(run_path=run_copy, **QUICK))
    assert steps == [*range(1, 7), *range(6, 9)]
    assert (learned == expected).all()


def test_other_options_start_over(trained, tmp_path, monkeypatch, capsys):
    run_path = Path(shutil.copytree(trained, tmp_path / "run"))

    def stop(self, args, state, control, **kwargs):
        raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(over_run.ShowSteps, "on_step_end", stop)
        with pytest.raises(Stopped):
            score_net(run_path=run_path, save_steps=1, epochs=2, **QUICK)
    assert (difficulties(run_path) == difficulties(trained)).all(), "until the training is done"
    other = np.load(score_net(run_path=run_path, **{**QUICK, "quiet": False}, score_learning_rate=0.02))
    assert "holds a training with other options; the training starts over" in capsys.readouterr().err
    assert (other != difficulties(trained)).any(), "the difficulties of other options are replaced"


def test_rows_that_are_not_valid(project, tmp_path):
    rows = translation_rows(30)
    rows[7]["trg_text"] = rows[20]["trg_text"] = ""
    pool, bad = write_jsonl(tmp_path / "pool.jsonl", rows), np.isin(np.arange(30), [7, 20])
    options = project.options(tmp_path / "run", candidates=(str(pool),), bad_rows="skip")
    gdig.sweep(**options)
    x = np.random.default_rng(0).standard_normal((30, 6))
    x[7] = np.nan
    np.save(tmp_path / "x.npy", x)
    for features, dim in ((None, 32), (str(tmp_path / "x.npy"), 6)):
        file = score_net(run_path=tmp_path / "run", features=features, **QUICK)
        learned = np.load(file)
        assert (np.isnan(learned) == bad).all()
        seen = stored(tmp_path / "run")["sketch"] if features is None else x
        assert (difficulty(net_of(tmp_path / "run", dim), seen[~bad]) == learned[~bad]).all()
        chosen = gdig.select(**{**options, "method": "self-filter", "budget": "28", "difficulty": str(file)})
        assert sorted(chosen.rows.tolist()) == np.flatnonzero(~bad).tolist()


def test_the_model_is_kept_when_asked(project, run_copy, tmp_path):
    folder = tmp_path / "kept"
    file = score_net(run_path=run_copy, save_model=folder, **QUICK)
    before, after = load_file(project.model / "model.safetensors"), load_file(folder / "model.safetensors")
    assert before.keys() == after.keys()
    assert any((before[name] != after[name]).any() for name in before)
    assert (folder / "tokenizer.json").is_file()
    stamp = file.stat().st_mtime_ns
    score_net(run_path=run_copy, save_model=folder, **QUICK)
    assert file.stat().st_mtime_ns == stamp, "both are there"
    with pytest.raises(ConfigError, match=r"save_model: .*kept exists already"):
        score_net(run_path=run_copy, save_model=folder, epochs=2, **QUICK)


def test_an_adapter_trains_its_own_weights_alone(project, tmp_path):
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(project.model)
    lora = peft.LoraConfig(r=2, target_modules=["down_proj"], task_type="CAUSAL_LM", init_lora_weights=False)
    peft.get_peft_model(base, lora).save_pretrained(tmp_path / "adapter")
    options = project.options(tmp_path / "run", model=str(tmp_path / "adapter"), tokenizer=str(project.model))
    gdig.sweep(**options)
    score_net(run_path=tmp_path / "run", save_model=tmp_path / "kept", **QUICK)
    file = "adapter_model.safetensors"
    before, after = load_file(tmp_path / "adapter" / file), load_file(tmp_path / "kept" / file)
    assert before.keys() == after.keys() and all((before[name] != after[name]).any() for name in before)
    assert not (tmp_path / "kept" / "model.safetensors").exists()


def test_errors(project, run_copy, tmp_path, monkeypatch):
    def message(kind: type[GdigError] = ConfigError, **options) -> str:
        with pytest.raises(kind) as error:
            score_net(**{"run_path": run_copy, **QUICK, **options})
        return str(error.value)

    assert "run_path: required" in message(run_path=None)
    assert "is no run directory" in message(run_path=tmp_path / "none")
    assert "batch_size=1: expected a whole number of at least 2, because the score net weighs" in message(batch_size=1)
    assert "epochs=1.5: expected a whole number" in message(epochs=1.5)
    assert "epochs=0: expected a whole number of at least 1" in message(epochs=0)
    assert "learning_rate=inf: expected a finite number of at least 0" in message(learning_rate="inf")
    assert "score_learning_rate=0: expected a number above 0" in message(score_learning_rate=0)
    assert "unknown option 'epoch'" in message(epoch=1)
    with pytest.raises(ConfigError, match="quantization: a model is trained with quantization=none only, got '8bit'"):
        load_trainable(Config.build(project.options(run_copy, quantization="8bit")))
    np.save(tmp_path / "x.npy", np.zeros((N_ROWS - 1, 3)))
    assert "x.npy: expected [60, any], a row for each of the pool; got [59, 3]" in message(
        features=str(tmp_path / "x.npy")
    )
    np.save(tmp_path / "x.npy", np.where(np.arange(120).reshape(60, 2) == 9, np.inf, 1.0))
    assert "x.npy: row 4, column 1: expected a finite number, got inf" in message(features=str(tmp_path / "x.npy"))
    assert "the training has diverged: lower learning_rate (1e+30)" in message(ModelError, learning_rate=1e30)
    assert not (run_copy / "score_net").exists(), "nothing of it is gone on from"
    with monkeypatch.context() as patch:
        patch.setattr("gdig.model.load.find_spec", lambda name: None)
        assert "score-net: needs the package accelerate (pip install 'gdig[train]')" in message(ModelError)
    with monkeypatch.context() as patch:
        patch.setenv("WORLD_SIZE", "2")
        patch.setenv("RANK", "0")
        assert "score-net runs in one process" in message()
    (run_copy / "sweep" / "00000002.safetensors").unlink()
    assert "00000002.safetensors: is missing; gdig sweep makes it again" in message(StoreError)
    gdig.fit(**project.options(tmp_path / "fitted"))
    assert "expected a run whose sweep is finished" in message(RunError, run_path=tmp_path / "fitted")
    assert not list(tmp_path.rglob("difficulty.npy"))


def test_the_command(run_copy, tmp_path, capsys):
    (tmp_path / "train.yaml").write_text("epochs: 2\nbatch_size: 4\nlearning_rate: 1e-3\n")
    assert main(["score-net", str(run_copy), "--config", str(tmp_path / "train.yaml"), "--batch-size", "8"]) == 0
    out, errors = capsys.readouterr()
    file = run_copy / "features" / "difficulty.npy"
    choose = f"gdig select --run-path {run_copy} --method self-filter --difficulty {file}"
    assert out == f"difficulties: {file}\nto select by them: {choose}\n"
    assert "16 steps over 60 of 60 rows" in errors
    asked = json.loads(dict(read_tensors(file.with_name("score_net.safetensors"))[1])["training"])
    assert (asked["epochs"], asked["batch_size"], asked["learning_rate"]) == (2, 8, 1e-3)
    assert main([*choose.split()[1:], "--budget", "5"]) == 0
    assert main(["score-net", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.endswith(
        "is no run directory (it holds no run.json); give the run_path of a run, or begin one by gdig select with "
        "model, candidates and seeds [G105]\n"
    )


def test_a_run_of_a_preset_keeps_its_options(project, tmp_path):
    gdig.sweep(**project.options(tmp_path / "run", preset="paper", filter_modules="down_proj", seed_rank=8))
    assert main(["score-net", str(tmp_path / "run"), "--batch-size", "8", "--quiet"]) == 0
    assert (tmp_path / "run" / "features" / "difficulty.npy").is_file()


def test_training_options_are_checked():
    assert Training(epochs=np.int64(3), learning_rate="1e-4") == Training(epochs=3, learning_rate=1e-4)


def test_features_of_a_run_are_read_by_row(run_copy):
    store = SketchStore.open(run_copy / "sweep")
    whole = stored(run_copy)["sketch"].astype(np.float64)
    whole /= np.linalg.norm(whole, axis=1, keepdims=True)
    rows = np.array([59, 0, 31, 16])
    np.testing.assert_allclose(Features(store, rows).units(np.arange(4)), whole[rows], rtol=0, atol=2**-23)
