"""Passes of the model over the pool, and the shards that the passes write."""
