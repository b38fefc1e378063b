"""From files to examples: rows of a corpus, prompts and tokens. Also the export of the chosen rows."""
