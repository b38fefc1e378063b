"""What a choice cannot do is refused before the first pass, by the plan and by the selection in the same words."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

import gdig
from gdig.config.config import Config
from gdig.errors import (
    AmountError,
    ConfigError,
    CorpusError,
    DiskError,
    GdigError,
    MissingModelError,
    ModelError,
    NeedsError,
    OptimizerStateError,
    OutputError,
)
from gdig.model.optimizer import save_moments
from gdig.planning.pool_size import SAMPLE_ROWS
from gdig.progress import Progress
from gdig.run.session import Workspace
from gdig.selection.sources import check_sources
from tests.support.project_fixtures import Project, llama_module, save_model, write_jsonl

Make = Callable[[Project, Path], dict[str, Any]]


def saved_checkpoint(folder: Path, module: torch.nn.Module, state: str, rate: float = 1e-3) -> Path:
    """A checkpoint as a training leaves it, after one step of Adam."""
    save_model(folder, module)
    optimizer = torch.optim.AdamW(module.parameters(), lr=rate)
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    if state == "optimizer.safetensors":
        save_moments(optimizer, module, folder / state)
    else:
        torch.save(optimizer.state_dict(), folder / state)
    return folder


def checkpoint(project: Project, folder: Path, state: str = "optimizer.pt", **facts: Any) -> Path:
    return saved_checkpoint(folder / "checkpoint", AutoModelForCausalLM.from_pretrained(project.model), state, **facts)


def with_file(name: str, content: str) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        (folder / name).write_text(content, encoding="utf-8")
        return str(folder / name)

    return make


def array(shape: tuple[int, ...], dtype: Any = np.float32) -> Callable[[Path], str]:
    def make(folder: Path) -> str:
        np.save(folder / "array.npy", np.ones(shape, dtype))
        return str(folder / "array.npy")

    return make


def empty_folder(project: Project, folder: Path) -> dict[str, Any]:
    (folder / "empty").mkdir()
    return {"checkpoints": (str(folder / "empty"),)}


def plain_model(project: Project, folder: Path) -> dict[str, Any]:
    return {"checkpoints": (str(project.model),)}


def damaged_state(name: str) -> Make:
    def make(project: Project, folder: Path) -> dict[str, Any]:
        path = checkpoint(project, folder)
        (path / "optimizer.pt").unlink()
        (path / name).write_bytes(b"nothing of an optimizer")
        return {"checkpoints": (str(path),)}

    return make


def state_of_another(name: str) -> Make:
    """Of a model with wider layers."""

    def make(project: Project, folder: Path) -> dict[str, Any]:
        path = checkpoint(project, folder)
        (path / "optimizer.pt").unlink()
        module = llama_module(len(AutoModelForCausalLM.from_pretrained(project.model).get_input_embeddings().weight))
        wider = torch.nn.ModuleDict({"model": module.model})
        wider.add_module("lm_head", torch.nn.Linear(16, 7, bias=False))
        saved = saved_state(wider, folder / name)
        shutil.move(saved, path / name)
        return {"checkpoints": (str(path),)}

    return make


def saved_state(module: torch.nn.Module, file: Path) -> Path:
    optimizer = torch.optim.AdamW(module.parameters())
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    if file.suffix == ".safetensors":
        save_moments(optimizer, module, file)
    else:
        torch.save(optimizer.state_dict(), file)
    return file


def damaged_weights(project: Project, folder: Path) -> dict[str, Any]:
    path = checkpoint(project, folder)
    (path / "model.safetensors").write_bytes(b"no weights")
    return {"checkpoints": (str(path),)}


def smaller_vocabulary(project: Project, folder: Path) -> dict[str, Any]:
    return {"checkpoints": (str(saved_checkpoint(folder / "other", llama_module(20), "optimizer.pt")),)}


def rates(count: int, rate: float, *weights: float) -> Make:
    def make(project: Project, folder: Path) -> dict[str, Any]:
        path = str(checkpoint(project, folder, rate=rate))
        return {"checkpoints": (path,) * count, "checkpoint_weights": weights}

    return make


def rows_beside(**options: Any) -> Make:
    """Seeds or an evaluation set of other rows."""

    def make(project: Project, folder: Path) -> dict[str, Any]:
        return {
            name: (str(write_jsonl(folder / f"{name}.jsonl", rows)),) if isinstance(rows, list) else rows
            for name, rows in options.items()
        }

    return make


def sources(field: str, *values: Any, **options: Any) -> Make:
    """A pool in which the rows have these values of a field, over and over."""

    def make(project: Project, folder: Path) -> dict[str, Any]:
        rows = [{**row, field: values[i % len(values)]} for i, row in enumerate(project.rows)]
        made = {name: option(folder) if callable(option) else option for name, option in options.items()}
        return {"candidates": (str(write_jsonl(folder / "pool.jsonl", rows)),), **made}

    return make


def two_files(project: Project, folder: Path) -> dict[str, Any]:
    """The smaller of two sources has four rows."""
    small = write_jsonl(folder / "small.jsonl", project.rows[:4])
    large = write_jsonl(folder / "large.jsonl", project.rows[4:])
    return {"candidates": (str(small), str(large)), "source_quotas": "equal", "n_neighbours": 4}


def below_a_file(option: str, name: str) -> Make:
    def make(project: Project, folder: Path) -> dict[str, Any]:
        (folder / "file").write_text("", encoding="utf-8")
        return {option: str(folder / "file" / name)}

    return make


def folder_as_output(project: Project, folder: Path) -> dict[str, Any]:
    (folder / "chosen.jsonl").mkdir()
    return {"output": str(folder / "chosen.jsonl")}


def output_over_the_pool(project: Project, folder: Path) -> dict[str, Any]:
    return {"output": str(project.pool)}


def damaged_entries(project: Project, folder: Path) -> dict[str, Any]:
    (folder / "dataset_info.json").write_text("[]", encoding="utf-8")
    return {"output": str(folder / "chosen.jsonl"), "format": "messages"}


def difficulty_of(make_array: Callable[[Path], str], option: str = "difficulty") -> Make:
    return lambda project, folder: {option: make_array(folder)}


def features_without_name(project: Project, folder: Path) -> dict[str, Any]:
    save_file({name: torch.ones(60, 3) for name in "ab"}, folder / "features.safetensors")
    return {"features": str(folder / "features.safetensors")}


def given(**options: Any) -> Make:
    return lambda project, folder: options


TRANSLATION = {"src_lang": "Chinese", "trg_lang": "English", "src_text": "猫", "trg_text": "cat"}
NO_GRADIENTS = [
    "gdig", "turns", "agreement", "round-robin", "bids", "gist", "g2is", "top",
]  # fmt: skip
LESS = {"method": "less"}
CASES: dict[str, tuple[dict[str, Any], Make, type[GdigError], str]] = {
    # Needs of the methods.
    **{
        f"{name} without gradients": (
            {"method": name, "gradients": False}, given(), NeedsError, f"method='{name}': expected one of .* no gradien"
        )
        for name in NO_GRADIENTS
    },
    "less without gradients": ({**LESS, "gradients": False}, given(), NeedsError, "no gradients"),
    "less without checkpoints": (LESS, given(), NeedsError, "method='less': expected checkpoints .* got none"),
    "round-robin by less": (
        {"method": "round-robin", "relevance": "less"}, given(), NeedsError, "relevance='less': expected checkpoints"
    ),
    "round-robin by cosines of raw sketches": (
        {"method": "round-robin", "relevance": "cosine", "sketch_space": "raw"}, given(), NeedsError, "relevance='cos"
    ),
    "knn by sketches without gradients": (
        {"method": "knn", "knn_features": "sketch", "gradients": False}, given(), NeedsError, "knn_features='sketch'"
    ),
    "a part of a sweep": ({"sweep_part": "1/2"}, given(), ConfigError, "sweep_part: only gdig sweep makes a part"),
    # Training checkpoints, of whatever method.
    "no checkpoint": (LESS, given(checkpoints=("nonexist",)), ConfigError, "checkpoints=nonexist: expected a dir"),
    "no checkpoint of g2is": ({"method": "g2is"}, given(checkpoints=("nonexist",)), ConfigError, "checkpoints=none"),
    "no checkpoint of top": ({"method": "top"}, given(checkpoints=("nonexist",)), ConfigError, "checkpoints=none"),
    "an empty checkpoint": (LESS, empty_folder, MissingModelError, "expected weights in"),
    "a plain model": (LESS, plain_model, OptimizerStateError, "expected the optimizer's state in"),
    "a damaged optimizer.pt": (LESS, damaged_state("optimizer.pt"), OptimizerStateError, "cannot be read as the state"),
    "damaged moments": (LESS, damaged_state("optimizer.safetensors"), OptimizerStateError, "as moments by name"),
    "numbers of another model": (LESS, state_of_another("optimizer.pt"), OptimizerStateError, "do not fit this model"),
    "moments of another model": (
        LESS, state_of_another("optimizer.safetensors"), OptimizerStateError, "lm_head.weight: exp_avg: expected the pa"
    ),
    "damaged weights": (LESS, damaged_weights, ModelError, "cannot be loaded as a causal language model: model.safet"),
    "a smaller vocabulary": (LESS, smaller_vocabulary, ModelError, "has a vocabulary of 20 tokens, the rows are"),
    "learning rates of 0": (LESS, rates(1, 0.0), ConfigError, "not all of them 0, got the checkpoints' learning rates"),
    "weights of 0": (LESS, rates(1, 1.0, 0.0), ConfigError, "not all of them 0"),
    "too many weights": (LESS, rates(1, 1.0, 1.0, 2.0), ConfigError, "checkpoint_weights: expected 1, one a check"),
    "too few weights of relevance": (
        {"method": "round-robin", "relevance": "less"}, rates(2, 1.0, 1.0), ConfigError, "weights: expected 2, one a ch"
    ),
    # Amounts.
    **{
        f"too many clusters of {name}": (
            {"method": name, "n_clusters": 61}, given(), AmountError, "n_clusters=61: expected at most 60, because the"
        )
        for name in ("gdig", "turns", "agreement", "tagcos", "diverse")
    },
    "too few training rows": (
        {"n_clusters": None, "train_rows": 11}, given(), ConfigError, "train_rows=11: expected at least 12, one a clus"
    ),
    "a budget beyond the rows": ({"budget": "61"}, given(), AmountError, "budget=61 rows: expected at most 60"),
    "a budget beyond the tokens": ({"budget": "1Mt"}, given(), AmountError, "budget=1000000 tokens: expected at most"),
    **{
        f"too many neighbours of {name}": (
            {"method": name, "n_neighbours": 60}, given(), AmountError, "n_neighbours=60: expected at most 59, because"
        )
        for name in ("g2is", "facility", "self-filter")
    },
    "too many neighbours in features": (
        {"method": "self-filter", "n_neighbours": 60}, difficulty_of(array((60, 3)), "features"), AmountError, "at most"
    ),
    "too many neighbours in a source": (
        {"method": "facility"}, two_files, AmountError, r"source small.jsonl: n_neighbours=4: expected at most 3"
    ),
    # Files of a method.
    "no difficulty": ({"method": "self-filter", "difficulty": "none.npy"}, given(), ConfigError, "difficulty: none"),
    "a damaged difficulty": (
        {"method": "self-filter"}, difficulty_of(with_file("d.npy", "?")), ConfigError, "expected a .npy file of numb"
    ),
    "a difficulty of other rows": (
        {"method": "self-filter"}, difficulty_of(array((59,))), ConfigError, r"expected floats \[60\], one for each row"
    ),
    "a difficulty of whole numbers": (
        {"method": "self-filter"}, difficulty_of(array((60,), np.int64)), ConfigError, r"expected floats \[60\]"
    ),
    "no features": ({"method": "self-filter", "features": "none.safetensors"}, given(), ConfigError, "expected a file"),
    "features of other rows": (
        {"method": "self-filter"}, difficulty_of(array((59, 3)), "features"), ConfigError, r"expected \[60, any\]"
    ),
    "two tensors of features": ({"method": "self-filter"}, features_without_name, ConfigError, "a tensor 'features'"),
    # Tasks, sources, evaluation sets.
    "no task": ({"task_field": "task"}, given(), CorpusError, "task: expected the seed's task"),
    "one task": ({"task_field": "src_lang"}, given(), CorpusError, "all 5 seeds are of one task"),
    "no source": ({"source_field": "kind"}, given(), ConfigError, "source_field='kind': no row of the pool has this f"),
    "a list as source": ({"source_field": "kind"}, sources("kind", "a", ["b"]), CorpusError, "row 1 .*kind: expected"),
    "no file of quotas": ({"source_quotas": "none.yaml"}, given(), ConfigError, "expected equal, proportional or a YA"),
    "quotas of an unknown source": (
        {}, sources("kind", "a", "b", source_field="kind", source_quotas=with_file("quotas.yaml", "aa: 1\n")),
        ConfigError, "'aa' is no source of the pool, which has a, b",
    ),
    "quotas of an unknown file": (
        {}, sources("kind", "a", source_quotas=with_file("quotas.yaml", "pools.jsonl: 1\n")),
        ConfigError, "'pools.jsonl' is no source of the pool, which has pool.jsonl",
    ),
    "quotas of 0": (
        {}, sources("kind", "a", source_quotas=with_file("quotas.yaml", "pool.jsonl: 0\n")), ConfigError, "weight above"
    ),
    "a quota that is no number": (
        {}, sources("kind", "a", source_quotas=with_file("quotas.yaml", "pool.jsonl: much\n")), ConfigError, "a number"
    ),
    "no evaluation set": ({"exclude": ("none.jsonl",)}, given(), CorpusError, "exclude: "),
    "an evaluation set that the model cannot read": (
        {}, rows_beside(exclude=[TRANSLATION, {"text_of": 1}]), CorpusError, "--exclude-similarity 1 compares words alo"
    ),
    # What is written.
    "output below a file": ({}, below_a_file("output", "a.jsonl"), OutputError, "a.jsonl: cannot be written: Not a"),
    "a folder as output": ({}, folder_as_output, OutputError, "chosen.jsonl: cannot be written: Is a directory"),
    "output over the pool": ({}, output_over_the_pool, ConfigError, "is one of the candidates"),
    "damaged dataset_info.json": ({}, damaged_entries, OutputError, "expected an object of data sets, got list"),
    "run_path below a file": ({}, below_a_file("run_path", "run"), DiskError, "cannot be made: Not a directory"),
    # Files that the rows need.
    "no chat template": ({"chat_template_file": "none.jinja"}, given(), GdigError, "none.jinja"),
    "no tokenizer": ({"tokenizer": "./none"}, given(), MissingModelError, "tokenizer: expected a directory"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_plan_and_select_refuse_the_same_before_any_pass(case, project, tmp_path, model_passes, monkeypatch):
    monkeypatch.setattr(Workspace, "model", property(lambda work: pytest.fail("loaded")))
    changes, make, kind, words = CASES[case]
    options = {**project.options(tmp_path / "run"), **changes, **make(project, tmp_path)}
    told = []
    for command in (gdig.plan, gdig.select, gdig.select):  # also the second start, when the run directory is there
        with pytest.raises(GdigError, match=words) as refused:
            command(**options)
        assert type(refused.value) is kind or kind in (GdigError, ConfigError, CorpusError, ModelError)
        assert isinstance(refused.value, kind)
        told.append((type(refused.value), str(refused.value)))
    assert told[0] == told[1] == told[2]
    assert model_passes == []


@pytest.mark.parametrize("case", ["no checkpoint", "a plain model", "an empty checkpoint"])
def test_the_sweep_refuses_checkpoints_before_the_fit(case, project, tmp_path, model_passes):
    _, make, kind, words = CASES[case]
    options = project.options(tmp_path / "run", **make(project, tmp_path))
    for command in (gdig.sweep, gdig.cluster):
        with pytest.raises(kind, match=words):
            command(**options)
    assert model_passes == []


def test_clusters_and_comparisons_refuse_what_they_cannot_make(project, tmp_path, model_passes):
    with pytest.raises(AmountError, match="n_clusters=61: expected at most 60"):
        gdig.cluster(**project.options(tmp_path / "run", n_clusters=61))
    with pytest.raises(AmountError, match="budget=61 rows"):
        gdig.cluster(**project.options(tmp_path / "run", budget="61"))
    with pytest.raises(AmountError, match="n_clusters=61: expected at most 60"):
        gdig.compare(**project.options(tmp_path / "run", n_clusters=61), methods=["top", "random"])
    with pytest.raises(NeedsError, match="method='less': expected checkpoints"):
        gdig.compare(**project.options(tmp_path / "run"), methods=["top", "less"])
    with pytest.raises(CorpusError, match="held_out: "):
        gdig.compare(**project.options(tmp_path / "run"), methods=["top"], train=True, held_out="none.jsonl")
    assert model_passes == []


@pytest.mark.parametrize("state", ["optimizer.pt", "optimizer.bin", "optimizer.safetensors"])
def test_a_sound_checkpoint_is_planned_and_swept(state, project, tmp_path):
    options = project.options(tmp_path / "run", checkpoints=(str(checkpoint(project, tmp_path, state)),), **LESS)
    plan = gdig.plan(**options)
    assert "checkpoint 1 of 1" in [stage.name for stage in plan.stages]
    assert len(gdig.select(**options).rows) == 12
    shutil.rmtree(tmp_path / "checkpoint")  # swept, so it may go
    assert len(gdig.select(**options).rows) == 12
    gdig.plan(**options)


def test_a_refused_checkpoint_is_no_option_of_later_starts(project, tmp_path):
    with pytest.raises(ConfigError, match="checkpoints=nonexist"):
        gdig.select(**project.options(tmp_path / "run", checkpoints=("nonexist",)))
    assert json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["config"]["checkpoints"] == []


def test_a_field_that_few_rows_have_is_a_source(project, tmp_path):
    """A plan reads a sample of the rows; whether the field is there at all, all of them tell."""
    rows = [*project.rows, {**project.rows[0], "kind": "a"}]
    pool = write_jsonl(tmp_path / "pool.jsonl", rows)
    options = project.options(tmp_path / "run", candidates=(str(pool),), source_field="kind")
    work = Workspace(Config.build(options), Progress(quiet=True))
    assert check_sources(work) == {"pool.jsonl": 60, "a": 1}
    assert check_sources(work, SAMPLE_ROWS) == check_sources(work)
    assert check_sources(work, 5) in (None, check_sources(work))
