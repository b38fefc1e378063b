"""The examples in docstrings run, and print what they show."""

from __future__ import annotations

import doctest
import importlib

import pytest


@pytest.mark.parametrize("name", ["gdig.kmeans.model", "gdig.resampling", "gdig.run.layout", "gdig.store.sketches"])
def test_the_examples_of_a_module_run(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name), raise_on_error=False)
    assert result.attempted > 0, f"{name} has no example"
    assert result.failed == 0
