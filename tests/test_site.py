"""The site: each page is in the navigation, llms.txt lists them, and notebooks become pages."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs"))
import site_pages  # noqa: E402


def test_each_page_is_listed_once_and_exists() -> None:
    listed = [page.file for pages in site_pages.sections().values() for page in pages]
    assert len(set(listed)) == len(listed)
    for file in listed:
        assert (ROOT / file).is_file(), file
    own = {
        str(path.relative_to(ROOT))
        for pattern in ("*.md", "notebooks/*.ipynb")
        for path in (ROOT / "docs").glob(pattern)
    }
    assert own - {"docs/README.md"} == {file for file in listed if file.startswith("docs/")}


def test_the_navigation_has_every_section() -> None:
    text = site_pages.toctrees()
    for title, pages in site_pages.sections().items():
        assert f":caption: {title}\n" in text
        for page in pages:
            assert f"{page.title} </{page.name}>\n" in text


def test_llms_text_has_the_form_of_llmstxt_org() -> None:
    lines = site_pages.llms_text().splitlines()
    assert lines[0] == "# gdig" and lines[2].startswith("> gdig selects fine-tuning data by gradients.")
    links = [line for line in lines if line.startswith("- [")]
    assert len(links) == sum(map(len, site_pages.sections().values()))
    assert "- [Quickstart](_sources/docs/quickstart.md.txt): How do I get from a wheel to a selection?" in links


def test_a_notebook_becomes_a_page() -> None:
    notebook = """{"cells": [
        {"cell_type": "markdown", "source": ["# Title\\n", "Text."]},
        {"cell_type": "code", "source": ["1 + 1"],
         "outputs": [{"output_type": "execute_result", "data": {"text/plain": ["2"]}}]},
        {"cell_type": "code", "source": ["print(3)"], "outputs": [{"output_type": "stream", "text": ["3\\n"]}]},
        {"cell_type": "code", "source": ["x = 4"], "outputs": []}]}"""
    assert site_pages.notebook_markdown(notebook) == (
        "# Title\nText.\n\n```python\n1 + 1\n```\n\n```text\n2\n```\n\n"
        "```python\nprint(3)\n```\n\n```text\n3\n```\n\n```python\nx = 4\n```\n"
    )


def test_the_reference_names_functions_classes_and_options() -> None:
    text = site_pages.api_reference(["select"], ["KMeans"], ["gdig.config.options.inputs.DataOptions"])
    assert ".. autofunction:: gdig.select\n" in text and ".. autoclass:: gdig.KMeans\n   :members:\n" in text
    assert ".. autoclass:: gdig.config.options.inputs.DataOptions\n" in text and text.count("```") == 4
