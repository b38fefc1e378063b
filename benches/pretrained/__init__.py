"""Parts of `benches.evidence_pretrained`: rows, model, signals, rules of choice, trainings and tables."""
