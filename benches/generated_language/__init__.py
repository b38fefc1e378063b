"""Parts of `benches.evidence_generated`: the language, the models and the experiments."""
