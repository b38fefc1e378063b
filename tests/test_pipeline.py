"""The whole road: every kind of pool, model, method, budget and output, through `gdig.select` and the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.numpy import load_file

import gdig
from tests.support.project_fixtures import (
    N_ROWS,
    N_SEEDS,
    check_selection,
    gpt2_module,
    llama_module,
    pairs,
    read_jsonl,
    save_model,
    stages,
    stored,
    translation_rows,
    write_jsonl,
)


def select(project, tmp_path: Path, **changes) -> tuple[list[dict], Path]:
    """Select in tmp_path/run; return what selection.jsonl holds, and the run directory."""
    run_path = tmp_path / "run"
    result = gdig.select(**project.options(run_path, **changes))
    assert result.output == run_path / "selection.jsonl"
    rows = read_jsonl(result.output)
    assert [row["gdig"] for row in rows] == result.columns
    assert [row["gdig"]["row"] for row in rows] == result.rows.tolist()
    return rows, run_path


def write_parquet(path: Path, rows: list[dict]) -> Path:
    import pyarrow as pa

    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def write_folder(path: Path, rows: list[dict]) -> Path:
    import datasets

    datasets.Dataset.from_list(rows).save_to_disk(str(path))
    return path


def write_list(path: Path, rows: list[dict]) -> Path:
    path.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")
    return path


# Pools.


def instructions(n: int, random_seed: int) -> list[dict]:
    return [
        {"instruction": "Render in English.", "input": zh if i % 3 else "", "output": en}
        for i, (zh, en) in enumerate(pairs(n, random_seed))
    ]


def completions(n: int, random_seed: int) -> list[dict]:
    return [{"prompt": f"{zh}: ", "completion": en, "n": i} for i, (zh, en) in enumerate(pairs(n, random_seed))]


def conversations(n: int, random_seed: int) -> list[dict]:
    return [
        {"messages": [{"role": "user", "content": zh}, {"role": "assistant", "content": en}]}
        for zh, en in pairs(n, random_seed)
    ]


def tokens(n: int, random_seed: int) -> list[dict]:
    rng = np.random.default_rng(random_seed)
    rows = []
    for length in rng.integers(4, 30, n):
        ids = rng.integers(3, 256, length).tolist()
        rows.append({"input_ids": ids, "labels": [-100] * (length // 3) + ids[length // 3 :], "source": "x"})
    return rows


def own_fields(n: int, random_seed: int) -> list[dict]:
    return [{"question": zh, "reply": {"text": en}} for zh, en in pairs(n, random_seed)]


TEMPLATES = {"prompt_template": "Q: {{ question }}\nA: ", "target_template": "{{ reply.text }}"}
CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
POOLS = {
    "translation": (translation_rows, write_jsonl, "pool.jsonl", {}),
    "instruction": (instructions, write_list, "pool.json", {}),
    "completion": (completions, write_parquet, "pool.parquet", {}),
    "folder": (completions, write_folder, "pool", {}),
    "templates": (own_fields, write_jsonl, "pool.jsonl", TEMPLATES),
}


@pytest.mark.parametrize("name", POOLS)
def test_every_kind_of_pool(project, tmp_path, name):
    make, write, file, options = POOLS[name]
    rows = make(N_ROWS, 0)
    pool, seeds = write(tmp_path / file, rows), write_jsonl(tmp_path / "seeds.jsonl", make(N_SEEDS, 1))
    selection, run_path = select(project, tmp_path, candidates=(pool,), seeds=(seeds,), **options)
    chosen = check_selection(selection, run_path, rows)
    assert len(chosen) == 12
    assert stages(run_path)["sweep"]["counts"]["not_usable"] == 0


def test_conversations_through_the_chat_template(project, tmp_path, tokenizer_factory):
    tokenizer = tokenizer_factory()
    tokenizer.chat_template = CHAT
    model = save_model(tmp_path / "model", llama_module(len(tokenizer)), tokenizer)
    rows = conversations(N_ROWS, 0)
    pool = write_jsonl(tmp_path / "pool.jsonl", rows)
    seeds = write_jsonl(tmp_path / "seeds.jsonl", conversations(N_SEEDS, 1))
    selection, run_path = select(project, tmp_path, model=model, candidates=(pool,), seeds=(seeds,))
    check_selection(selection, run_path, rows)
    text = gdig.preview(model=model, candidates=(pool,), rows=1).texts[1]
    zh, en = pairs(N_ROWS, 0)[0]
    assert f"<user>{zh}\n<assistant>⟦{en}</s>⟧" in str(text)


def test_rows_of_tokens_need_no_tokenizer(project, tmp_path):
    model = save_model(tmp_path / "model", llama_module(256))
    rows = tokens(N_ROWS, 0)
    pool = write_jsonl(tmp_path / "pool.jsonl", rows)
    seeds = write_jsonl(tmp_path / "seeds.jsonl", tokens(N_SEEDS, 1))
    selection, run_path = select(project, tmp_path, model=model, candidates=(pool,), seeds=(seeds,))
    check_selection(selection, run_path, rows)
    assert stored(run_path)["tokens"].tolist() == [len(row["input_ids"]) for row in rows]


@pytest.mark.parametrize("tokens_are", ["pool", "seeds"])
def test_one_side_may_be_tokens_and_the_other_text(project, tmp_path, tiny_tokenizer, tokens_are):
    """The same rows as text and as tokens give the same numbers."""

    def as_tokens(row: dict) -> dict:
        prompt = tiny_tokenizer(row["prompt"])["input_ids"]
        whole = [*tiny_tokenizer(row["prompt"] + row["completion"])["input_ids"], tiny_tokenizer.eos_token_id]
        assert whole[: len(prompt)] == prompt, "a line break is a boundary of the tokenizer's own"
        return {"input_ids": whole, "labels": [-100] * len(prompt) + whole[len(prompt) :]}

    pool, seeds = (
        [{"prompt": f"{zh}\n", "completion": en} for zh, en in pairs(n, random_seed)]
        for n, random_seed in ((N_ROWS, 0), (N_SEEDS, 1))
    )
    text: dict = {
        "candidates": (write_jsonl(tmp_path / "pool.jsonl", pool),),
        "seeds": (write_jsonl(tmp_path / "seeds.jsonl", seeds),),
    }
    _, plain = select(project, tmp_path, **text)
    name, rows = ("candidates", pool) if tokens_are == "pool" else ("seeds", seeds)
    mixed = {**text, name: (write_jsonl(tmp_path / "tokens.jsonl", [as_tokens(row) for row in rows]),)}
    gdig.sweep(**project.options(tmp_path / "mixed", **mixed))
    np.testing.assert_array_equal(stored(tmp_path / "mixed")["influence"], stored(plain)["influence"])


def test_several_files_and_globs_are_one_pool_in_the_order_given(project, finished, tmp_path):
    rows = project.rows
    first = write_jsonl(tmp_path / "first.jsonl", rows[:7])
    for name, lines in (("b", rows[30:]), ("a", rows[7:30])):
        write_jsonl(tmp_path / "more" / f"{name}.jsonl", lines)
    selection, run_path = select(project, tmp_path, candidates=(first, tmp_path / "more" / "*.jsonl"))
    check_selection(selection, run_path, rows)
    assert (run_path / "selection.jsonl").read_bytes() == (finished / "selection.jsonl").read_bytes()


# Models.


def models(tokenizer) -> dict:
    vocabulary = len(tokenizer)
    return {
        "gpt2": lambda: gpt2_module(vocabulary),
        "tied": lambda: llama_module(vocabulary, tied=True),
        "bfloat16": lambda: llama_module(vocabulary).to(torch.bfloat16),
    }


@pytest.mark.parametrize("kind", ["gpt2", "tied", "bfloat16"])
def test_every_kind_of_model(project, tmp_path, tiny_tokenizer, kind):
    model = save_model(tmp_path / "model", models(tiny_tokenizer)[kind](), tiny_tokenizer)
    options = {"precision": "bfloat16"} if kind == "bfloat16" else {}
    selection, run_path = select(project, tmp_path, model=model, **options)
    check_selection(selection, run_path, project.rows)
    names = stages(run_path)["fit"]["layers"]
    assert len(names) == (4 if kind == "gpt2" else 6)
    assert all(".mlp." in name for name in names)
    if kind == "gpt2":  # the bias is one more column of the gradient
        layer = load_file(run_path / "seeds" / "transformer.h.0.mlp.c_fc.safetensors")
        assert (layer["u"].shape[0], layer["v"].shape[0]) == (64, 17)
    assert stages(run_path)["fit"]["dtype"] == ("torch.bfloat16" if kind == "bfloat16" else "torch.float32")


def test_an_adapter_is_a_model_whose_lora_matrices_are_the_layers(project, tmp_path):
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    torch.manual_seed(3)
    base = AutoModelForCausalLM.from_pretrained(project.model)
    adapter = peft.get_peft_model(base, peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"]))
    for name, weight in adapter.named_parameters():
        if "lora_B" in name:  # zero as made, so that the gradient of lora_A would be zero
            torch.nn.init.normal_(weight, std=0.2)
    adapter.save_pretrained(tmp_path / "adapter")
    selection, run_path = select(project, tmp_path, model=tmp_path / "adapter")
    check_selection(selection, run_path, project.rows)
    names = stages(run_path)["fit"]["layers"]
    assert len(names) == 8
    assert all("lora_A" in name or "lora_B" in name for name in names)
    assert np.abs(stored(run_path)["influence"]).min() > 0


def test_a_change_of_the_model_below_an_adapter_is_a_change_of_the_model(project, tmp_path, tiny_tokenizer):
    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    base = save_model(tmp_path / "base", llama_module(len(tiny_tokenizer)), tiny_tokenizer)
    adapter = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained(base), peft.LoraConfig(r=2, target_modules=["o_proj"])
    )
    adapter.save_pretrained(tmp_path / "adapter")
    gdig.fit(**project.options(tmp_path / "run", model=tmp_path / "adapter"))
    save_model(base, llama_module(len(tiny_tokenizer), random_seed=1))
    with pytest.raises(gdig.GdigError, match=r"base_model: model\.safetensors changed since the run began"):
        gdig.fit(**project.options(tmp_path / "run", model=tmp_path / "adapter"))


def test_the_preset_of_the_paper(project, tmp_path):
    selection, run_path = select(project, tmp_path, preset="paper")
    check_selection(selection, run_path, project.rows)
    state = json.loads((run_path / "run.json").read_text())
    assert state["stages"]["fit"]["layers"] == ["model.layers.0.mlp.down_proj"]  # every third block
    fit = state["stages"]["fit"]["config"]
    assert (fit["inversion"], fit["damping_mode"], fit["damping_factor"]) == ("kfac", "factored_tikhonov", 0.5)
    assert (fit["use_empirical_fisher"], fit["kfac_approx"], fit["max_length"]) == (True, "reduce", 256)
    offsets = load_file(run_path / "seeds" / "model.layers.0.mlp.down_proj.safetensors")["column_offsets"]
    assert np.diff(offsets).max() <= 32
    assert "corrected" not in load_file(run_path / "curvature" / "model.layers.0.mlp.down_proj.safetensors")
