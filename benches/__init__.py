"""Measurements, each run as `python -m benches.NAME` from the folder of the checkout; README.md lists them."""
