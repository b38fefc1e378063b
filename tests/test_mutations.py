"""The short form of `python -m tests.drill.mutate`: hostile bytes for every parser in Python."""

from __future__ import annotations

import sys

from tests.drill import mutate


def test_hostile_bytes_are_refused_or_read(monkeypatch, capsys):
    """The sound bytes of each format are read first, and main ends with an error if they cannot be."""
    monkeypatch.setattr(sys, "argv", ["mutate", "--executions", "440", "--random-seed", "3"])
    status = mutate.main()
    printed = capsys.readouterr().out
    assert status == 0, printed
    assert "20 parquet\n" in printed and "20 run.json\n" in printed
