"""`python -m gdig` is the command `gdig`."""

from gdig.cli.start import run

run()
