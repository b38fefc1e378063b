"""Parts of `benches.layer_share`: rows, influence by layer, its quality by choice of layers, cost, generated language."""
