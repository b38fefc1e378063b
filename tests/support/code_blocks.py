"""Code in Markdown: the fenced blocks of a page, the commands in them, and notebooks that run as they stand."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

FENCE = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^ *```$", re.M | re.S)
_LAUNCHED = re.compile(r"^torchrun .* -m gdig ")


@dataclass(frozen=True)
class Block:
    """A fenced block. where: file and line."""

    where: str
    language: str
    text: str


def blocks(file: Path) -> list[Block]:
    """The fenced blocks of a Markdown file, or the code of a notebook."""
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".ipynb":
        return [Block(f"{file.name}, cell {i}", "python", code) for i, code in enumerate(notebook_code(text), 1)]
    return [
        Block(f"{file.name}:{text.count(chr(10), 0, match.start()) + 1}", match.group(2), match.group(3))
        for match in FENCE.finditer(text)
    ]


def notebook_code(text: str) -> list[str]:
    """The code cells of a notebook."""
    return ["".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]


def commands(block: Block) -> Iterator[list[str]]:
    """The arguments of each `gdig` command of a block without a language; not of patterns such as `gdig sweep ...`."""
    if block.language not in ("", "bash", "console"):
        return
    for line in block.text.replace("\\\n", " ").splitlines():
        line = _LAUNCHED.sub("gdig ", line.strip().removeprefix("$ "))
        if line.startswith("gdig "):
            words = shlex.split(line, comments=True)[1:]
            for sign in (">", "|"):
                words = words[: words.index(sign)] if sign in words else words
            if words and "..." not in words and words[0] != "COMMAND":
                yield words


def run_code(source: str, names: dict[str, Any]) -> str:
    """Run a cell; return what it printed and the value of its last line, as a notebook shows them."""
    tree = ast.parse(source)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(tree, "<cell>", "exec"), names)
        value = eval(compile(ast.Expression(last.value), "<cell>", "eval"), names) if last is not None else None
        if value is not None:
            print(value if isinstance(value, str) else repr(value))
    return printed.getvalue()


def run_notebook(file: Path, replacements: Mapping[str, str]) -> dict[str, Any]:
    """Run a notebook in the current directory, and return it with the outputs of its cells.

    replacements: texts of the code that are replaced while it runs, such as the name of a model.
    """
    notebook: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    names: dict[str, Any] = {"__name__": "notebook"}
    for number, cell in enumerate((c for c in notebook["cells"] if c["cell_type"] == "code"), 1):
        code = "".join(cell["source"])
        for old, new in replacements.items():
            code = code.replace(old, new)
        text = run_code(code, names)
        cell["execution_count"] = number
        cell["outputs"] = (
            [{"name": "stdout", "output_type": "stream", "text": text.splitlines(keepends=True)}] if text else []
        )
    return notebook


def main(notebook: tyro.conf.Positional[Path], model: str) -> None:
    """Run a notebook in the current directory with another model, and write its outputs into it."""
    done = run_notebook(notebook, {"HuggingFaceTB/SmolLM2-135M-Instruct": model})
    notebook.write_text(json.dumps(done, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    tyro.cli(main, args=sys.argv[1:])
