"""`python -m gdig` is the command `gdig`."""

from gdig.cli.main import run

run()
