"""Parts of `benches.sweep`: examples, every library's passes, the tables."""
