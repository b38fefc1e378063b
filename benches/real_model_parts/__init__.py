"""Parts of `benches.real_model`: the rows of the run, and the plain pass."""
