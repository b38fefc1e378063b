"""Markdown: prose is wrapped, links lead somewhere, the log has its form. Sentences are short, also in docstrings."""

from __future__ import annotations

import ast
import inspect
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[1]
WIDTH = 100
LINK = re.compile(r"\]\(([^()\s]+)\)")
LOG_HEADING = re.compile(r"## (\d{4}-\d{2}-\d{2}): \S.* \((?:kept|dropped|open)\)")


def documents() -> list[str]:
    """Names of the tracked Markdown files. Outside a git checkout: of all in the folders of the project."""
    names: list[str] = []
    if shutil.which("git"):
        listing = subprocess.run(["git", "ls-files", "-z", "*.md"], cwd=ROOT, capture_output=True, check=False)
        names = sorted({name for name in listing.stdout.decode().split("\0") if name and (ROOT / name).is_file()})
    folders = ("", "docs/", "kernels/", "benches/", "tests/", "rust/", "examples/")
    return names or sorted(str(path.relative_to(ROOT)) for folder in folders for path in ROOT.glob(f"{folder}*.md"))


def prose(name: str) -> Iterator[tuple[int, str]]:
    """Lines with their numbers, without code blocks."""
    fenced = False
    for number, line in enumerate((ROOT / name).read_text(encoding="utf-8").splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced:
            yield number, line


def headings(name: str) -> list[str]:
    return [line for _, line in prose(name) if re.match(r"#{1,6} ", line)]


def anchors(name: str) -> set[str]:
    """The anchors that GitHub gives to the headings of a file."""
    names: set[str] = set()
    repeats: Counter[str] = Counter()
    for heading in headings(name):
        text = LINK.sub("]", heading.lstrip("#")).strip().lower()
        anchor = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        names.add(f"{anchor}-{repeats[anchor]}" if repeats[anchor] else anchor)
        repeats[anchor] += 1
    return names


@pytest.mark.parametrize("name", documents())
def test_prose_is_wrapped_at_100_columns(name):
    too_long = []
    for number, line in prose(name):
        shown = re.sub(r"https?://\S+", "", LINK.sub("]", line))
        if len(shown) > WIDTH and not line.lstrip().startswith("|"):
            too_long.append(f"{name}:{number}: {len(shown)} columns: {line[:60]}...")
    assert not too_long, "\n".join(too_long)


def sentences(name: str) -> Iterator[str]:
    """Sentences of the paragraphs and list items, without tables; a link counts as its text."""
    lines = ["" if re.match(r"\||#|<!--", line) else line for _, line in prose(name)]
    for paragraph in re.split(r"\n\s*\n|\n(?=\s*[-*] |\s*\d+\. )", "\n".join(lines)):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", paragraph)
        yield from re.split(r"(?<=[.!?:;])[*_)]*\s", " ".join(text.split()))


def docstring_sentences(path: Path) -> Iterator[str]:
    """Sentences of the docstrings, those of attributes and options among them, without examples, tables and formulas.

    An entry of a list of arguments, attributes or errors begins a sentence.
    """
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            continue
        text = inspect.cleandoc(str(node.value.value)).partition(">>>")[0]
        for paragraph in re.split(r"\n\s*\n|\n(?=\s*[-*] |\s*\d+\. |\s*\w+: |\|)", text):
            if not paragraph.startswith((" ", "|")) or re.match(r"\s*[-*\w]+:? ", paragraph):
                yield from re.split(r"(?<=[.!?:;])[)\"]*\s", " ".join(paragraph.split()))


def long_sentences(where: str, candidates: Iterator[str]) -> list[str]:
    """Sentences of more than 25 words. A word holds a letter or a digit; a piece of code is one word."""
    faults = []
    for sentence in candidates:
        words = [word for word in re.sub(r"`[^`]*`", "x", sentence).split() if re.search(r"\w", word)]
        if len(words) > 25:
            faults.append(f"{where}: {len(words)} words: {sentence}")
    return faults


@pytest.mark.parametrize("name", documents())
def test_sentences_have_at_most_25_words(name):
    faults = long_sentences(name, sentences(name))
    assert not faults, "\n".join(faults)


def test_sentences_of_docstrings_have_at_most_25_words():
    paths = [*sorted((ROOT / "python" / "gdig").glob("**/*.py")), *sorted((ROOT / "kernels").glob("**/*.py"))]
    faults = [
        fault for path in paths for fault in long_sentences(str(path.relative_to(ROOT)), docstring_sentences(path))
    ]
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("name", documents())
def test_each_relative_link_leads_to_a_file_and_a_heading_that_exist(name):
    broken = []
    for number, line in prose(name):
        for target in LINK.findall(line):
            if re.match(r"[a-z]+:", target):
                continue
            file, _, anchor = unquote(target).partition("#")
            path = (ROOT / name).parent / file if file else ROOT / name
            if not path.exists():
                broken.append(f"{name}:{number}: no file {file}")
            elif anchor and anchor not in anchors(str(path.resolve().relative_to(ROOT.resolve()))):
                broken.append(f"{name}:{number}: no heading #{anchor} in {path.name}")
    assert not broken, "\n".join(broken)


def test_the_log_has_one_heading_an_experiment_newest_first_and_each_in_the_index():
    title, *entries = headings("LOG.md")
    assert title == "# Log"
    dates = []
    for entry in entries:
        match = LOG_HEADING.fullmatch(entry)
        assert match, f"{entry}: expected '## YYYY-MM-DD: what was tried (kept | dropped | open)'"
        dates.append(match.group(1))
    assert dates == sorted(dates, reverse=True), "LOG.md: newest first"
    _, *bodies = re.split(r"^## ", (ROOT / "LOG.md").read_text(encoding="utf-8"), flags=re.M)
    incomplete = [body.partition("\n")[0] for body in bodies if not ("Question" in body and "Conclusion" in body)]
    assert not incomplete, f"LOG.md: expected a question and a conclusion: {incomplete}"

    linked = {target for _, line in prose("LOG.md") for target in LINK.findall(line)}
    missing = {f"#{anchor}" for anchor in anchors("LOG.md") - {"log"}} - linked
    assert not missing, f"LOG.md: not in the index: {sorted(missing)}"
