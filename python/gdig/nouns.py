"""Numbers with their nouns, for messages."""

from __future__ import annotations


def counted(n: int, noun: str, plural: str | None = None) -> str:
    """A number and what it counts: "1 row", "2,000 rows".

    Args:
        n: the number.
        noun: for one; with a verb, where the message has one: "file was appended".
        plural: for other numbers. None: `noun` with an s.

    Example:
        >>> counted(1, "file"), counted(2000, "row repeats", "rows repeat")
        ('1 file', '2,000 rows repeat')
    """
    return f"{n:,} {noun if n == 1 else plural or noun + 's'}"


def gib(n_bytes: int) -> str:
    """Return a number of bytes as text, in GiB: "1.5 GiB"."""
    return f"{n_bytes / 2**30:.3g} GiB"
