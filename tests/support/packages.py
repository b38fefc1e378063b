"""Packages that some tests need, in versions that fit together."""

from __future__ import annotations

from importlib import metadata

import pytest
from packaging.requirements import Requirement


def require_package(name: str) -> None:
    """Skip a test where a package is missing, or where those that it requires are older than it says.

    The oldest versions that gdig works with are older than what the newest TRL asks for.
    """
    pytest.importorskip(name, reason=f"{name} is not installed")
    for text in metadata.requires(name) or ():
        required = Requirement(text)
        if required.marker is not None and not required.marker.evaluate({"extra": ""}):
            continue
        installed = metadata.version(required.name)
        if not required.specifier.contains(installed, prereleases=True):
            asks = f"{name} {metadata.version(name)} asks for {required.name}{required.specifier}"
            pytest.skip(f"{asks}, {installed} is installed")
