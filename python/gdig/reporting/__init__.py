"""The report of a run: one file that shows what was chosen, and why."""
