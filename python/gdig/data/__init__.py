"""Rows in, examples out: corpora on disk, prompts, tokens, and the export of the chosen rows."""
