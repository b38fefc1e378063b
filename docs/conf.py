"""Sphinx's configuration: the site is docs/, with README.md, DESIGN.md and the like beside it. Run it by `make docs`.

The root of the checkout is the source folder, so that each relative link of the Markdown leads to the same file on the
site as on GitHub. docs/README.md lists the pages.
"""

from __future__ import annotations

import re
import sys
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from site_pages import INDEX, ROOT, api_reference, llms_text, notebook_markdown, sections, toctrees

project = "gdig"
release = version = installed_version("gdig")
author = "the authors of gdig"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
html_title = f"gdig {release}"
root_doc = INDEX

source_suffix = {".md": "markdown", ".ipynb": "markdown"}
_pages = [page.file for pages in sections().values() for page in pages]
_folders = {file.partition("/")[0] for file in _pages}
include_patterns = [f"{INDEX}.md", *_pages]
# Sphinx walks through the whole source folder, so what has no page is left out by name.
exclude_patterns = [path.name for path in ROOT.iterdir() if path.name not in _folders]

# Anchors as GitHub makes them.
myst_heading_anchors = 6
# Single backticks in docstrings are code, as in Markdown.
default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
suppress_warnings = ["misc.highlighting_failure"]


def read_source(app: Any, name: str, source: list[str]) -> None:
    """Complete a page as Sphinx reads it: the navigation, the reference of the API, notebooks."""
    if name == INDEX:
        source[0] += "\n" + toctrees()
    elif name == "docs/api":
        source[0] += "\n" + api_reference(*_public_names())
    elif (ROOT / f"{name}.ipynb").is_file():
        source[0] = notebook_markdown(source[0])


def _public_names() -> tuple[list[str], list[str], list[str]]:
    import gdig
    from gdig.config.options import GROUPS, PlaceOptions, PresetOptions, TrainOptions, TrialOptions

    kinds = {name: getattr(gdig, name) for name in gdig.__all__}
    functions = [name for name, kind in kinds.items() if not isinstance(kind, type)]
    classes = [name for name, kind in kinds.items() if isinstance(kind, type)]
    groups = (*GROUPS, PlaceOptions, PresetOptions, TrainOptions, TrialOptions)
    return functions, classes, [f"{group.__module__}.{group.__name__}" for group in groups]


def escape_docstring(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Let norms (|x|) and names such as labels_ be what they are: reStructuredText takes them for marks."""
    for i, line in enumerate(lines):
        if not line.lstrip().startswith((".. ", ":")):
            pieces = line.split("`")
            pieces[::2] = [re.sub(r"(?<=\w)_(?!\w)", r"\\_", piece.replace("|", r"\|")) for piece in pieces[::2]]
            lines[i] = "`".join(pieces)


def write_beside(app: Any, exception: Exception | None) -> None:
    """Write llms.txt, and the page that leads from the root of the site to the first page."""
    if exception is None:
        (Path(app.outdir) / "llms.txt").write_text(llms_text(), encoding="utf-8")
        lost = [file for file in _pages if not (Path(app.outdir) / "_sources" / f"{file}.txt").is_file()]
        assert not lost, f"llms.txt names sources that the site lacks: {lost}"
        first = f"{INDEX}.html"
        (Path(app.outdir) / "index.html").write_text(
            f'<!doctype html><meta charset="utf-8"><title>{project}</title>'
            f'<meta http-equiv="refresh" content="0; url={first}"><a href="{first}">{project}</a>\n',
            encoding="utf-8",
        )


def setup(app: Any) -> None:
    """Connect the functions. Docstrings are escaped after napoleon has read them (priority 500)."""
    app.connect("source-read", read_source)
    app.connect("autodoc-process-docstring", escape_docstring, priority=600)
    app.connect("build-finished", write_beside)
