"""Parts of `benches.real_zh_en` and `benches.evidence_zh_en`: pairs, models, scores and tables."""
