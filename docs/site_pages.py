"""What the site has beside the pages: its navigation, llms.txt, notebooks as pages, and the reference from docstrings.

The tables of docs/README.md are the list of the pages. Nothing here needs Sphinx.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
INDEX = "docs/README"
"""The page whose tables list the others, without its ending."""

_ROW = re.compile(r"^\| \[([^\]]+)\]\(([^)]+)\) \| (.+) \|$")


@dataclass(frozen=True)
class Page:
    """A page of the site. file: from the root of the checkout. answers: the question that it answers."""

    title: str
    file: str
    answers: str

    @property
    def name(self) -> str:
        """Return the name that Sphinx knows the page by: the file without its ending."""
        return self.file.rpartition(".")[0]


def sections(index: str | None = None) -> dict[str, list[Page]]:
    """Return the pages by section, as the tables of docs/README.md list them (or the text of such a page)."""
    text = (ROOT / f"{INDEX}.md").read_text(encoding="utf-8") if index is None else index
    by_heading: dict[str, list[Page]] = {}
    for line in text.splitlines():
        if line.startswith("## "):
            by_heading[line[3:]] = []
        elif match := _ROW.match(line):
            title, target, answers = match.groups()
            file = posixpath.normpath(posixpath.join(posixpath.dirname(INDEX), target))
            by_heading[list(by_heading)[-1]].append(Page(title, file, answers))
    return by_heading


def toctrees() -> str:
    """Return the navigation of the site, as directives that follow the text of docs/README.md."""
    blocks = []
    for title, pages in sections().items():
        lines = "\n".join(f"{page.title} </{page.name}>" for page in pages)
        blocks.append(f"```{{toctree}}\n:hidden:\n:caption: {title}\n\n{lines}\n```\n")
    return "\n".join(blocks)


def llms_text() -> str:
    """Return llms.txt: what gdig is, and the sources of the pages, for programs that read Markdown."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    summary = " ".join(readme.split("\n\n")[1].split())
    lines = ["# gdig", "", f"> {summary}", ""]
    for title, pages in sections().items():
        lines += [f"## {title}", ""]
        lines += [f"- [{page.title}](_sources/{source(page)}): {page.answers}" for page in pages]
        lines.append("")
    return "\n".join(lines)


def source(page: Page) -> str:
    """Return where the site keeps the source of a page, below _sources."""
    return f"{page.file}.txt"


def notebook_markdown(text: str) -> str:
    """Return a notebook as Markdown: its texts, its code, and the texts that the code printed."""
    blocks = []
    for cell in json.loads(text)["cells"]:
        content = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            blocks.append(content)
        else:
            blocks.append(f"```python\n{content}\n```")
            printed = "".join(_printed(output) for output in cell["outputs"]).rstrip()
            blocks += [f"```text\n{printed}\n```"] if printed else []
    return "\n\n".join(blocks) + "\n"


def _printed(output: dict[str, Any]) -> str:
    text = output["text"] if output["output_type"] == "stream" else output["data"]["text/plain"]
    return "".join(text) + ("" if output["output_type"] == "stream" else "\n")


def api_reference(functions: Sequence[str], classes: Sequence[str], groups: Sequence[str]) -> str:
    """Return the reference that follows the tables of docs/api.md, as directives of autodoc.

    Args:
        functions: public functions of gdig.
        classes: public classes of gdig.
        groups: classes of options, by their full names.
    """
    lines = ["## Reference", "", "```{eval-rst}", ".. currentmodule:: gdig", ""]
    lines += [f".. autofunction:: gdig.{name}" for name in functions]
    lines += ["", *(f".. autoclass:: gdig.{name}\n   :members:\n" for name in classes)]
    lines += ["```", "", "## Options", "", "```{eval-rst}"]
    lines += [f".. autoclass:: {name}\n   :members:\n   :no-show-inheritance:\n" for name in groups]
    return "\n".join([*lines, "```", ""])
