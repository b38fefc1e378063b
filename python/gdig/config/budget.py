"""How much to choose: a budget as the user asks for it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

from gdig.errors import ConfigError


@dataclass(frozen=True)
class Budget:
    """How much to choose: `amount` rows, tokens, or (unit "share") this share of the pool's rows."""

    unit: Literal["rows", "share", "tokens"]
    amount: float

    def rows(self, n: int) -> int:
        """Rows meant by a budget of rows or a share of `n` rows (at least one)."""
        return int(self.amount) if self.unit == "rows" else max(1, round(self.amount * n))


def parse_budget(text: str) -> Budget:
    """Parse "500", "10%", "200000t", "1.5Mt" or "2M tokens".

    Raises:
        ConfigError: when the text is none of these, or the amount is not positive.
    """
    match = re.fullmatch(r"\s*([0-9][0-9_]*(?:\.[0-9]+)?)\s*([kKmMgG]?)\s*(%|t|tok|tokens|rows)?\s*", str(text))
    error = ConfigError(f"budget: expected rows (500), a share (10%) or tokens (200000t, 1.5Mt), got {text!r}")
    if match is None:
        raise error
    number, scale, unit = match.groups()
    # A fraction: 2.3 * 1000 in floating point is no whole number.
    amount = Fraction(number.replace("_", "")) * {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}[scale.lower()]
    if unit == "%":
        if scale or not 0 < amount <= 100:
            raise error
        return Budget("share", float(amount / 100))
    if not 1 <= amount < 2**63 or amount.denominator != 1:
        raise error
    return Budget("tokens" if unit in ("t", "tok", "tokens") else "rows", float(amount))
