"""Code of the documentation: commands and options exist, blocks are valid, and Quickstart and the notebooks run."""

from __future__ import annotations

import ast
import inspect
import json
import re
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

import gdig
from gdig.cli.commands import COMMANDS
from gdig.cli.flags import group_type, parse
from gdig.cli.main import main
from gdig.config.config import Config, Training, Trial
from gdig.errors import ConfigError
from tests.support.code_blocks import FENCE, Block, blocks, commands, run_code, run_notebook
from tests.support.project_fixtures import llama_module, save_model

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs").glob("notebooks/*.ipynb"))]
BLOCKS = [block for page in PAGES for block in blocks(page)]
MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"


def test_each_command_and_flag_exists() -> None:
    seen = set()
    for block in BLOCKS:
        for words in commands(block):
            name, *argv = words
            if shlex.join(words) in seen or name.startswith("-"):
                continue
            seen.add(shlex.join(words))
            assert name in COMMANDS, f"{block.where}: gdig {name}"
            try:
                parse(name, COMMANDS[name], argv, {})
            except ConfigError as error:
                pytest.fail(f"{block.where}: gdig {shlex.join(words)}: {error}")
    assert len(seen) > 40


def test_each_flag_in_a_sentence_exists() -> None:
    """Flags in sentences and tables, which no parser reads, such as `--source-quotas equal`."""
    groups = {group_type(group) for command in COMMANDS.values() for group in fields(command.options)}
    names = {option.name.replace("_", "-") for group in groups for option in fields(group)}
    others = {"nnodes", "workspace"}  # of torchrun and of cargo
    flags = names | {f"no-{name}" for name in names} | {"help", "help-all", "version"} | others
    seen = []
    for page in PAGES:
        text = FENCE.sub("", page.read_text(encoding="utf-8")) if page.suffix == ".md" else ""
        for code in re.findall(r"`([^`]+)`", text):
            if code.startswith("python -m "):  # a bench, with options of its own
                continue
            for flag in re.findall(r"(?<!\S)--([a-z][a-z-]*)", code):
                seen.append(flag)
                assert flag in flags, f"{page.name}: no command has --{flag}: {code}"
    assert len(seen) > 80


@pytest.mark.parametrize("language", ["python", "json", "yaml"])
def test_each_block_is_valid(language: str) -> None:
    own = [block for block in BLOCKS if block.language == language]
    assert len(own) >= 2
    for block in own:
        try:
            _read(block)
        except (SyntaxError, ValueError, yaml.YAMLError) as error:
            pytest.fail(f"{block.where}: {error}")


def _read(block: Block) -> None:
    if block.language == "python":
        _check_options(ast.parse(block.text), block.where)
    elif block.language == "yaml":
        yaml.safe_load(block.text)
    else:
        decoder, text = json.JSONDecoder(), block.text.strip()
        while text:
            _, end = decoder.raw_decode(text)
            text = text[end:].strip()


def _check_options(tree: ast.AST, where: str) -> None:
    """Each argument by name of a function of gdig is one of its arguments, or an option."""
    options = {option.name for kind in (Config, Training, Trial) for option in fields(kind)}
    for call in ast.walk(tree):
        if isinstance(call, ast.Call) and re.fullmatch(r"gdig(\.\w+)+", ast.unparse(call.func)):
            function: Any = gdig
            for name in ast.unparse(call.func).split(".")[1:]:
                function = getattr(function, name)
            parameters = inspect.signature(function).parameters
            takes_options = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
            accepted = set(parameters) | (options if takes_options else set())
            unknown = {keyword.arg for keyword in call.keywords if keyword.arg} - accepted
            assert not unknown, f"{where}: {ast.unparse(call.func)}: no argument {sorted(unknown)}"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: Any) -> str:
    folder = tmp_path_factory.mktemp("documented") / "model"
    return str(save_model(folder, llama_module(len(tiny_tokenizer)), tiny_tokenizer))


def test_the_data_of_the_quickstart_repeats_no_seed_and_no_held_out_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run_code(next(b.text for b in blocks(ROOT / "docs" / "quickstart.md") if b.language == "python"), {})
    pool, seeds, held = (Path(f"{name}.jsonl").read_text().splitlines() for name in ("pool", "seeds", "held"))
    assert len({*seeds, *held}) == len(seeds) + len(held)
    assert not {*seeds, *held} & {*pool}


@pytest.mark.slow
def test_quickstart_runs_as_it_stands(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("peft", reason="the trainings of gdig compare need it")
    monkeypatch.chdir(tmp_path)
    ran = []
    for block in blocks(ROOT / "docs" / "quickstart.md"):
        if block.language == "python":
            code = block.text.replace(MODEL, model).replace("range(240)", "range(60)")  # as many rows as a test needs
            run_code(code, {"__name__": "quickstart"})
        for words in commands(block):
            words = [{MODEL: model, "20": "2"}.get(word, word) for word in words]  # two steps of training
            assert main([*words, "--quiet"]) == 0, capsys.readouterr().err
            ran.append(words[0])
    assert ran == ["preview", "plan", "select", "explain", "explain", "compare", "compare"]
    assert len(Path("selection.jsonl").read_text().splitlines()) == 6
    assert Path("runs/a/report.html").is_file()


@pytest.mark.parametrize("name", ["first-selection", "compare-methods"])
def test_the_notebooks_run(name: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = ROOT / "docs" / "notebooks" / f"{name}.ipynb"
    done = run_notebook(file, {MODEL: model})
    stored = json.loads(file.read_text(encoding="utf-8"))
    for cell, before in zip(done["cells"], stored["cells"], strict=True):
        if cell["cell_type"] == "code":
            assert bool(cell["outputs"]) == bool(before["outputs"]), "".join(cell["source"])
