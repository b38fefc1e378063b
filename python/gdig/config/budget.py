"""How much to select: the budget as the user asks for it, and the limit that it sets in one pool."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, NamedTuple

from gdig.errors import AmountError, ConfigError


class Limit(NamedTuple):
    """The most that a method may take: `amount` rows, or rows that hold `amount` tokens together."""

    unit: Literal["rows", "tokens"]
    amount: int


@dataclass(frozen=True)
class Budget:
    """How much to select, as asked: `amount` rows or tokens (an int), or a share of the pool's rows (0 to 1)."""

    unit: Literal["rows", "share", "tokens"]
    amount: float

    def limit(self, rows: int, tokens: int) -> Limit:
        """Return the limit in a pool of `rows` rows that hold `tokens` tokens. A share is at least one row.

        Raises:
            ConfigError: when the budget is more than the pool holds.
        """
        if self.unit == "share":
            return Limit("rows", max(1, round(self.amount * rows)))
        held, amount = (tokens if self.unit == "tokens" else rows), int(self.amount)
        if amount > held:
            raise AmountError(
                f"budget={amount} {self.unit}: expected at most {held}, because the pool holds no more; "
                "lower the budget, or give a share such as 10%"
            )
        return Limit(self.unit, amount)


def parse_budget(text: str) -> Budget:
    """Parse "500", "10%", "200000t", "1.5Mt" or "2M tokens".

    Raises:
        ConfigError: when the text is none of these, or the amount is not positive.
    """
    match = re.fullmatch(r"\s*([0-9][0-9_]*(?:\.[0-9]+)?)\s*([kKmMgG]?)\s*(%|t|tok|tokens|rows)?\s*", str(text))
    error = ConfigError(f"budget={text!r}: expected rows (500), a share (10%) or tokens (200000t, 1.5Mt)")
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
    return Budget("tokens" if unit in ("t", "tok", "tokens") else "rows", int(amount))
