"""How much a test tries, by HYPOTHESIS_PROFILE: quick, default or thorough."""

from __future__ import annotations

import os

import hypothesis
import pytest

SHARES = {"quick": 0.2, "default": 0.5, "thorough": 20.0}
PROFILE = os.environ.get("HYPOTHESIS_PROFILE", "default")
SHARE = SHARES[PROFILE]


def examples(usual: int) -> int:
    """How many examples of a test this profile makes, which usually makes `usual`."""
    return max(5, round(SHARE * usual))


UNNAMED = {"quick": 20, "default": 30, "thorough": 2000}
"""Examples of a test that names no number: most of these write a sweep to a disk for each."""


def load() -> None:
    """Make the profile hold for tests that name no number. No deadline: other processes use the cores too."""
    hypothesis.settings.register_profile("gdig", deadline=None, max_examples=UNNAMED[PROFILE])
    hypothesis.settings.load_profile("gdig")


def thorough(reason: str) -> pytest.MarkDecorator:
    """Mark a case that only the thorough profile runs."""
    return pytest.mark.skipif(PROFILE != "thorough", reason=f"{reason}: HYPOTHESIS_PROFILE=thorough runs it")
