"""Faults that are put into runs, caches and file operations on purpose: `make drill`, and tests/test_faults.py."""
