"""The examples in docstrings run, and print what they show."""

from __future__ import annotations

import doctest
import importlib
import shutil
from pathlib import Path

import pytest

import gdig

PACKAGE = Path(gdig.__file__).parent
OVER_A_RUN = ("gdig.api", "gdig.run.merge", "gdig.run.verify", "gdig.selection.result", "gdig.showing")
"""Modules with examples over `runs/a`, the finished run of the pool, the seeds and the model that `inputs` names."""
OTHERS = sorted(
    {
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
        for path in PACKAGE.rglob("*.py")
        if ">>> " in path.read_text(encoding="utf-8")
    }
    - set(OVER_A_RUN)
)


@pytest.mark.parametrize("name", OTHERS)
def test_the_examples_of_a_module_run(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0 and result.failed == 0


@pytest.mark.parametrize("name", OVER_A_RUN)
def test_the_examples_over_a_run_run(name, project, finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(finished, "runs/a")
    options = project.options("runs/a")
    inputs = {key: value for key, value in options.items() if key not in ("run_path", "budget", "method")}
    names = {"gdig": gdig, "inputs": inputs}
    result = doctest.testmod(importlib.import_module(name), extraglobs=names, optionflags=doctest.ELLIPSIS)
    assert result.attempted > 0 and result.failed == 0


def test_each_public_function_has_an_example():
    for name in gdig.__all__:
        value = getattr(gdig, name)
        is_error = isinstance(value, type) and issubclass(value, gdig.GdigError)
        assert is_error or ">>> " in value.__doc__, name
