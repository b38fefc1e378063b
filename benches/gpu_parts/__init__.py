"""Parts of `benches.gpu` and `benches.tune`: checks, work, clock and candidates on a GPU."""
