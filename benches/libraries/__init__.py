"""The other libraries that benches compare gdig with."""
