"""`python -m gdig` is the command `gdig`."""

from gdig.cli import run

run()
