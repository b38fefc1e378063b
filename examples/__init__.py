"""Programs to read and to run: `python -m examples.demo` from the folder of the checkout."""
