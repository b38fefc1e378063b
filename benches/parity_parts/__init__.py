"""Parts of `benches.parity`: cases, every library's scores, the tables."""
