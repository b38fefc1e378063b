"""The pinned configurations: (operation, kind, generation) -> constants. `benches/tune.py` rewrites this file."""

PINNED: dict[tuple[str, str, int], dict[str, int]] = {}
