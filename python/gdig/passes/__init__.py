"""Passes of the model over the pool, and the shards they leave."""
