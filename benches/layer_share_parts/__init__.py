"""Parts of `benches.layer_share`: influence by layer, its quality and its cost by choice of layers."""
