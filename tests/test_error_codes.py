"""Every error that gdig raises has a code, docs/errors.md explains each code, and each kind is in use."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest

from gdig import errors
from gdig.errors import CODES, GdigError, code_of

ROOT = Path(__file__).resolve().parent.parent
KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, GdigError)]


def made(kind: type[Exception]) -> Exception:
    return kind(1) if kind is errors.OtherRankError else kind("x")


def test_each_kind_has_a_code_of_its_own() -> None:
    assert {*KINDS, OSError} == set(CODES)
    assert {getattr(errors, name) for name in errors.__all__} <= set(KINDS)
    assert len(set(CODES.values())) == len(CODES)
    for kind, code in CODES.items():
        assert code_of(made(kind)) == code
    assert code_of(PermissionError("x")) == CODES[OSError]

    class Further(errors.OtherRunError):
        """An error that a later module defines."""

    assert code_of(Further("x")) == CODES[errors.OtherRunError]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_the_first_digit_is_the_family(kind: type[GdigError]) -> None:
    """A kind below a family has the family's digit, so that a code tells what `except` catches it."""
    family = next(
        k for k in kind.__mro__ if k.__name__ in errors.__all__ and (k is GdigError or GdigError in k.__bases__)
    )
    assert CODES[kind][:2] == CODES[family][:2]


def test_the_page_explains_each_code() -> None:
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    table = dict(re.findall(r"^\| \[(G\d+)\]\(#g\d+\) \| `(\w+)` \|", page, re.M))
    assert table == {code: kind.__name__ for kind, code in CODES.items()}
    assert re.findall(r"^### (G\d+)$", page, re.M) == list(table)


def test_each_kind_is_in_use() -> None:
    """A kind that nothing raises is none that a user can meet. The families also catch."""
    sources = [path for path in (ROOT / "python" / "gdig").rglob("*.py") if path.name != "errors.py"]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    unused = [kind.__name__ for kind in KINDS if not re.search(rf"\b{kind.__name__}\(", text)]
    assert set(unused) <= {"GdigError"}  # Rust raises it
