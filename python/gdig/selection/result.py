"""What the user gets: the chosen rows and what is said of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class Selection:
    """What was chosen.

    rows: int64 [n], rows of the pool, best first. columns: one dict a row, as written under "gdig". output: the file.
    summary: lines to print. warnings: what fit and sweep found that may make the choice worth less than it seems.
    """

    rows: np.ndarray
    columns: list[dict[str, Any]]
    output: Path
    summary: list[str]
    warnings: list[str] = field(default_factory=list)
