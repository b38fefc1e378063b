"""Lines of a result in colour, where a terminal shows them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text


def coloured(lines: Sequence[Text]) -> list[str]:
    """Return the lines with the terminal's codes where stdout is a terminal, and without colour elsewhere.

    NO_COLOR (https://no-color.org) and TERM=dumb switch colours off.
    """
    if not sys.stdout.isatty() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return [str(line) for line in lines]
    from rich.console import Console

    console = Console(force_terminal=True, soft_wrap=True)
    shown = []
    for line in lines:
        with console.capture() as capture:
            console.print(line, end="")
        shown.append(capture.get())
    return shown
