"""Every error that gdig raises has a code, and docs/errors.md explains each code."""

from __future__ import annotations

import re
from pathlib import Path

from gdig import errors
from gdig.errors import CODES, code_of

ROOT = Path(__file__).resolve().parent.parent


def test_each_kind_has_a_code_of_its_own() -> None:
    assert {getattr(errors, name) for name in errors.__all__} <= set(CODES)
    assert len(set(CODES.values())) == len(CODES)
    for kind, code in CODES.items():
        assert code_of(kind(1) if kind is errors.OtherRankError else kind("x")) == code
    assert code_of(PermissionError("x")) == CODES[OSError]

    class Further(errors.RunError):
        """An error that a later module defines."""

    assert code_of(Further("x")) == CODES[errors.RunError]


def test_the_page_explains_each_code() -> None:
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    table = dict(re.findall(r"^\| \[(G\d+)\]\(#g\d+\) \| `(\w+)` \|", page, re.M))
    assert table == {code: kind.__name__ for kind, code in CODES.items()}
    assert re.findall(r"^## (G\d+)$", page, re.M) == list(table)
