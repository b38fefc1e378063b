"""The mark of the options that a new user needs."""

from __future__ import annotations

from typing import Annotated, TypeVar

T = TypeVar("T")


class BasicMark:
    """Marks the type of an option that `gdig COMMAND --help` shows; --help-all shows every option."""


Basic = Annotated[T, BasicMark()]
