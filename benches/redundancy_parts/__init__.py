"""Parts of `benches.redundancy`: generated sketches, planted texts, hidden states of a model."""
